"""
Where this launcher itself runs. In a container, its paths are not those of the engine's machine:
what is mounted into it is translated back.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from launcher.docker.spec import Source
from launcher.errors import StartError

MOUNTINFO: Final = Path("/proc/self/mountinfo")
OWN_FILES: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
"""What every engine mounts into a container from a folder that has the container's id."""


def own_container(mountinfo: Path = MOUNTINFO) -> str | None:
    """Return the id of the container that this runs in; None when it runs in none of Docker's."""
    try:
        found = OWN_FILES.search(mountinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def source_of(path: str, mounts: Sequence[Mapping[str, Any]] | None) -> Source:
    """
    Return what the engine must mount for `path` of this launcher.

    Args:
        path: Absolute.
        mounts: `Mounts` of the launcher's own container; None when it runs in none.

    Raises:
        StartError: The path is inside the launcher's container only.
    """
    if mounts is None:
        return Source("bind", path)
    at = PurePosixPath(path)
    inside = [mount for mount in mounts if at.is_relative_to(mount["Destination"])]
    if not inside:
        raise StartError(
            f"{path} is in the launcher's own container, where the engine cannot mount it from; "
            f"mount it into the launcher, as in `-v /on/the/host:{path}:ro`"
        )
    mount = max(inside, key=lambda mount: len(mount["Destination"]))
    below = at.relative_to(mount["Destination"])
    if mount["Type"] == "volume" and below == PurePosixPath("."):
        return Source("volume", mount["Name"])
    return Source("bind", str(PurePosixPath(mount["Source"]) / below))
