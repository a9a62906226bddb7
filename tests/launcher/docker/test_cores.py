"""The cores near a GPU, from the driver's and the kernel's files."""

import pytest

from launcher.docker.cores import near

INFORMATION = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 66\nGPU UUID: \t {}\nDMA Size: \t 52 bits\n"


@pytest.fixture
def machine(tmp_path):
    """Two GPUs on two nodes, and a third whose node the firmware does not tell."""
    for slot, uuid, node, cores in (
        ("0000:18:00.0", "GPU-1", "0", "0-31,64-95"),
        ("0000:9a:00.0", "GPU-2", "1", "32-63,96-127"),
        ("0000:e0:00.0", "GPU-3", "-1", "0-127"),
    ):
        (tmp_path / "gpus" / slot).mkdir(parents=True)
        (tmp_path / "gpus" / slot / "information").write_text(INFORMATION.format(uuid))
        (tmp_path / "pci" / slot).mkdir(parents=True)
        (tmp_path / "pci" / slot / "numa_node").write_text(f"{node}\n")
        (tmp_path / "pci" / slot / "local_cpulist").write_text(f"{cores}\n")
    return tmp_path / "gpus", tmp_path / "pci"


@pytest.mark.parametrize(
    ("uuid", "cores"),
    [("GPU-1", "0-31,64-95"), ("GPU-2", "32-63,96-127"), ("GPU-3", ""), ("GPU-9", "")],
)
def test_they_are_those_of_its_node_or_all(machine, uuid, cores):
    assert near(uuid, *machine) == cores


def test_without_the_driver_all_cores_are_alike(tmp_path):
    assert near("GPU-1", tmp_path / "none", tmp_path / "none") == ""
