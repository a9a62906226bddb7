"""Which runtimes there are, by the name that the configuration and the state file use."""

from collections.abc import Callable
from typing import Final

from launcher.config import LauncherConfig
from launcher.docker.runtime import DockerRuntime
from launcher.processes import ProcessRuntime
from launcher.runtime import Runtime

RUNTIMES: Final[dict[str, Callable[[LauncherConfig], Runtime]]] = {
    "process": lambda config: ProcessRuntime(config.tritonserver),
    "docker": lambda config: DockerRuntime(config.docker, config.state_dir),
}


def open_runtime(name: str, config: LauncherConfig | None = None) -> Runtime:
    """Return the runtime; the configuration matters for starting servers, not for finding them."""
    return RUNTIMES[name](config or LauncherConfig())
