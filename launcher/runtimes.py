"""Which runtimes there are, by the name that the configuration and the state file use."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from launcher.processes import ProcessRuntime
from launcher.runtime import Runtime

RUNTIMES: Final[dict[str, Callable[[Path | None], Runtime]]] = {"process": ProcessRuntime}


def open_runtime(name: str, tritonserver: Path | None = None) -> Runtime:
    """Return the runtime; `tritonserver` is the program that the operator chose, if any."""
    return RUNTIMES[name](tritonserver)
