"""Which GPU `--gpu` means, and the driver for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from launcher.errors import ConfigError
from launcher.mig import MigDriver
from launcher.profiles import BOARDS
from launcher.simulator import Simulator

SIMULATED: Final = "simulated"
DEFAULT_BOARD: Final = "a100-40gb"


def resolve(gpu: str | None) -> str:
    """
    Return the full name of what `--gpu` means: `simulated` is `simulated:a100-40gb`.

    Raises:
        ConfigError: Nothing was chosen, or nothing that exists.
    """
    if gpu is None:
        raise ConfigError(
            [
                "gpu: none chosen. Cutting real GPUs is not supported yet; for one on paper, "
                f"whose servers run on the CPU, use --gpu {SIMULATED} ({DEFAULT_BOARD})"
            ]
        )
    kind, _, board = gpu.lower().partition(":")
    if kind not in DRIVERS:
        raise ConfigError(
            [
                f"gpu: {gpu!r} is not supported yet; what there is now: {SIMULATED}:BOARD, "
                f"a GPU on paper, with BOARD one of {', '.join(BOARDS)}"
            ]
        )
    board = board or DEFAULT_BOARD
    if board not in BOARDS:
        raise ConfigError([f"gpu: no simulated board {board!r}; known: {', '.join(BOARDS)}"])
    return f"{kind}:{board}"


def open_driver(gpu: str, state_dir: Path) -> MigDriver:
    """Return the driver for a name that `resolve` gave. A simulated GPU lives in the state folder."""
    kind, _, which = gpu.partition(":")
    return DRIVERS[kind](which, state_dir)


def _simulated(board: str, state_dir: Path) -> MigDriver:
    return Simulator(state_dir / f"simulated-{board}.json", BOARDS[board])


DRIVERS: Final[dict[str, Callable[[str, Path], MigDriver]]] = {SIMULATED: _simulated}
