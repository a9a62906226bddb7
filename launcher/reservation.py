"""
A slice that is lent to a job for a while: a lock file in the state folder, held by who runs the job.

The kernel lets go of the lock however that process ends, so the supervising launcher needs no word
from it: while the lock is held it starts no server there. What a job's container is called is written
down before it is made, and taken out when it is gone: what is read without the lock being held was
left behind by a job whose process was killed.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import BusyError


def path_of(folder: Path, slice_name: str) -> Path:
    """Return the lock file of a slice."""
    return folder / "jobs" / f"{slice_name}.lock"


@contextmanager
def hold(folder: Path, slice_name: str, marker: str) -> Iterator[str]:
    """
    Lend a slice to the job that `marker` names; yields the marker of one that was left behind.

    Raises:
        BusyError: It is lent already.
    """
    path = path_of(folder, slice_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{slice_name} runs another job; choose another slice") from None
        left = _read(path)
        file.truncate(0)
        file.write(marker)
        file.flush()
        try:
            yield left
        finally:
            file.truncate(0)


def is_held(folder: Path, slice_name: str) -> bool:
    """Whether a job has the slice now."""
    try:
        file = path_of(folder, slice_name).open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def marker_of(folder: Path, slice_name: str) -> str:
    """Return the marker of a job that runs or was left behind; empty for none."""
    return _read(path_of(folder, slice_name))


def left_behind(folder: Path, slice_name: str) -> str:
    """Return the marker of a job whose process was killed; empty for none."""
    return "" if is_held(folder, slice_name) else _read(path_of(folder, slice_name))


def forget(folder: Path, slice_name: str, marker: str) -> None:
    """What was left behind is gone; a job that has begun since is not touched."""
    path = path_of(folder, slice_name)
    if _read(path) == marker and not is_held(folder, slice_name):
        path.write_text("", encoding="ascii")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
