"""Which partitioner `--gpu` means: MIG for a GPU, real or on paper; MPS for `mps`."""

from pathlib import Path
from typing import Final

from launcher import drivers
from launcher.mig_partition import MigPartitioner
from launcher.mps import MpsPartitioner
from launcher.partition import Partitioner

MPS: Final = "mps"


def resolve(gpu: str | None) -> str:
    """
    Return the full name of what `--gpu` means; `mps`, `mps:0` share real GPUs out by MPS.

    Raises:
        ConfigError: It means nothing.
    """
    kind, _, which = (gpu or "").partition(":")
    if kind.lower() == MPS:
        return f"{MPS}:{drivers.resolve(which or None)}"
    return drivers.resolve(gpu)


def open_partitioner(name: str, state_dir: Path) -> Partitioner:
    """Return the partitioner for a name that `resolve` gave. Raises GpuError: no driver, no GPU."""
    kind, _, which = name.partition(":")
    if kind == MPS:
        return MpsPartitioner(drivers.open_host(which, state_dir), state_dir)
    return MigPartitioner(name, state_dir)
