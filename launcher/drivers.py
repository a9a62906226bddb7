"""Which GPUs `--gpu` means, and the drivers for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from launcher import simulated
from launcher.cures import sentence
from launcher.errors import ConfigError, GpuError
from launcher.mig import MigDriver, MigError, Nvml
from launcher.nvml import RealNvml
from launcher.simulated import SimulatedNvml

log = structlog.get_logger()

SIMULATED: Final = "simulated"
NVIDIA: Final = "nvidia"
ALL: Final = "all"


def resolve(gpu: str | None) -> str:
    """
    Return the full name of what `--gpu` means: `simulated` is `simulated:a100-40gb`, nothing is
    `nvidia:all`, `0,2` is `nvidia:0,2`. Asks no hardware.

    Raises:
        ConfigError: It means nothing.
    """
    text = (gpu or ALL).strip()
    kind, _, which = text.lower().partition(":")
    if kind == SIMULATED:
        simulated.parse(which)
        return f"{SIMULATED}:{which or simulated.DEFAULT_BOARD}"
    chosen = text.partition(":")[2] if kind == NVIDIA else text
    names = [name.strip() for name in chosen.split(",")]
    if names == [ALL]:
        return f"{NVIDIA}:{ALL}"
    for name in names:
        if not (name.isascii() and name.isdigit()) and not name.startswith("GPU-"):
            raise ConfigError(
                [
                    f"gpu: {text!r} is no GPU; write an index (0), several (0,1), a UUID (GPU-…), "
                    f"{ALL}, or {SIMULATED}:BOARD for one on paper"
                ]
            )
    return f"{NVIDIA}:{','.join(names)}"


@dataclass(frozen=True, slots=True)
class Host:
    """
    The GPUs that a command is about.

    Attributes:
        name: As `resolve` gave it.
        gpus: Their drivers, by UUID, in order of their index.
    """

    name: str
    nvml: Nvml
    gpus: dict[str, MigDriver]


def open_host(name: str, state_dir: Path) -> Host:
    """
    Return the GPUs that a name means; simulated ones live in the state folder.

    Raises:
        GpuError: No driver, or no such GPU.
    """
    kind, _, which = name.partition(":")
    nvml = None
    try:
        nvml = HOSTS[kind](which, state_dir)
        found = _usable(nvml)
        if kind == NVIDIA and which != ALL:
            found = _chosen(found, which.split(","), nvml)
    except BaseException as error:
        if nvml is not None:
            nvml.close()
        if isinstance(error, MigError):
            raise GpuError(sentence(error)) from error
        raise
    return Host(name, nvml, found)


def _usable(nvml: Nvml) -> dict[str, MigDriver]:
    """Return the drivers by UUID; one GPU that is lost does not keep the others from being used."""
    found = {driver.gpu().uuid: driver for driver in nvml.gpus()}
    for index, error in nvml.unusable.items():
        if not found:
            raise error
        log.warning("gpu.unusable", gpu=index, reason=sentence(error))
    if not found:
        raise GpuError("there is no NVIDIA GPU here; for one on paper use --gpu simulated")
    return found


def _chosen(found: dict[str, MigDriver], names: Sequence[str], nvml: Nvml) -> dict[str, MigDriver]:
    by_name = {uuid: uuid for uuid in found}
    by_name.update({str(driver.index): uuid for uuid, driver in found.items()})
    unknown = [name for name in names if name not in by_name]
    for index, error in nvml.unusable.items():
        if str(index) in unknown:
            raise error
    if unknown:
        there = ", ".join(f"{driver.index} ({uuid})" for uuid, driver in found.items())
        raise GpuError(f"there is no GPU {', '.join(unknown)} here; there are {there}")
    return {by_name[name]: found[by_name[name]] for name in names}


def _simulated(which: str, state_dir: Path) -> Nvml:
    return SimulatedNvml(simulated.parse(which), state_dir)


def _nvidia(which: str, state_dir: Path) -> Nvml:
    return RealNvml()


HOSTS: Final[dict[str, Callable[[str, Path], Nvml]]] = {SIMULATED: _simulated, NVIDIA: _nvidia}
