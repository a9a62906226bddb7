"""Connects to the engine. The SDK is asked for here only: it is an extra of the package."""

from typing import TYPE_CHECKING

from launcher.errors import StartError

if TYPE_CHECKING:
    from launcher.docker.engine import Engine


def connect(timeout_s: int | None = None) -> "Engine":
    """
    Return a connection to the engine.

    Args:
        timeout_s: For each call; None: as long as an engine may need to make a container.

    Raises:
        StartError: The SDK is not installed, or no engine answers.
    """
    try:
        from launcher.docker.engine import Engine
    except ImportError as error:
        raise StartError(
            f"containers need a package that is not installed ({error.name}): "
            "pip install 'mig-gateway[docker]'"
        ) from error
    return Engine() if timeout_s is None else Engine(timeout_s)
