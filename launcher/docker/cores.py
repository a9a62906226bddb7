"""The cores near a GPU: those of the NUMA node that its PCI slot hangs on."""

from pathlib import Path
from typing import Final

GPUS: Final = Path("/proc/driver/nvidia/gpus")
PCI_DEVICES: Final = Path("/sys/bus/pci/devices")


def near(gpu_uuid: str, gpus: Path = GPUS, pci_devices: Path = PCI_DEVICES) -> str:
    """
    Return the cores as the kernel lists them, `0-31,64-95`; empty where that is not known: a GPU
    on paper, another driver, a machine with one node only.

    Source: the driver's /proc files; sysfs `local_cpulist` and `numa_node`.
    """
    for information in gpus.glob("*/information"):
        if f"GPU UUID: {gpu_uuid}" not in _normal(information):
            continue
        device = pci_devices / information.parent.name
        try:
            node = (device / "numa_node").read_text(encoding="ascii").strip()
            cores = (device / "local_cpulist").read_text(encoding="ascii").strip()
        except OSError:
            return ""
        return "" if node == "-1" else cores  # -1: the firmware does not tell
    return ""


def _normal(path: Path) -> str:
    """Return the text with its runs of blanks and tabs as one blank."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(" ".join(line.split()).replace(" : ", ": ") for line in lines)
