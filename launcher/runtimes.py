"""Which runtimes there are, by the name that the configuration and the state file use."""

from collections.abc import Callable
from typing import Final

from launcher.config import LauncherConfig
from launcher.docker.runtime import DockerRuntime
from launcher.processes import ProcessRuntime
from launcher.runtime import Runtime

RUNTIMES: Final[dict[str, Callable[[LauncherConfig, int | None], Runtime]]] = {
    "process": lambda config, _: ProcessRuntime(config.tritonserver),
    "docker": lambda config, timeout_s: DockerRuntime(config.docker, config.state_dir, timeout_s),
}


def open_runtime(
    name: str, config: LauncherConfig | None = None, timeout_s: int | None = None
) -> Runtime:
    """
    Return the runtime.

    Args:
        name: Of RUNTIMES.
        config: Matters for starting servers and for what was left, not for finding servers.
        timeout_s: What asking an engine may take; None: as long as it needs to make a container.
    """
    return RUNTIMES[name](config or LauncherConfig(), timeout_s)
