"""
By which of the engine's ways a container is given its MIG device, pure.

    cdi       a device request for `nvidia.com/gpu=MIG-…`, from NVIDIA's CDI specification. Only
              chosen by itself where the engine says that it knows the very device: after a GPU
              was cut the specification may be old (nvidia-container-toolkit issue 1828).
    runtime   the OCI runtime `nvidia`, with NVIDIA_VISIBLE_DEVICES
    gpus      a device request as of `docker run --gpus`, for engines where the toolkit is
              installed but its runtime not registered
    none      nothing: the device is on paper

Source: NVIDIA Container Toolkit's documentation, "Docker" and "CDI"; Docker Engine API `Info`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from launcher.docker.settings import Binding

CDI_KIND: Final = "nvidia.com/gpu"
Way = Literal["cdi", "runtime", "gpus", "none"]


@dataclass(frozen=True, slots=True)
class Abilities:
    """
    What an engine offers.

    Attributes:
        nvidia_runtime: The runtime `nvidia` is registered.
        cdi: CDI is switched on.
        cdi_devices: Names that it lists; engines before 28.3 list none.
    """

    nvidia_runtime: bool
    cdi: bool
    cdi_devices: frozenset[str]


def abilities(info: Mapping[str, Any]) -> Abilities:
    """Read the answer to `GET /info`."""
    listed = info.get("DiscoveredDevices") or ()
    return Abilities(
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        cdi=bool(info.get("CDISpecDirs")),
        cdi_devices=frozenset(device["ID"] for device in listed if device.get("Source") == "cdi"),
    )


def choose(wanted: Binding, mig_uuid: str, simulated: bool, offered: Abilities) -> Way:
    """
    Return the way for one device. What the operator forces is not doubted: the engine refuses
    what it cannot do, and says why.

    Args:
        wanted: The setting.
        mig_uuid: `MIG-…`; empty when there is none to bind.
        simulated: The device exists on paper only.
        offered: By the engine, asked after the GPU was cut.
    """
    if wanted != "auto":
        return wanted
    if simulated or not mig_uuid:
        return "none"
    if f"{CDI_KIND}={mig_uuid}" in offered.cdi_devices:
        return "cdi"
    return "runtime" if offered.nvidia_runtime else "gpus"
