"""
A slice that is lent to a job for a while: a lock file in the state folder, held by who runs the job.

The kernel lets go of the lock however that process ends, so the supervising launcher needs no word
from it: while the lock is held it starts no server there. What a job's container is called is written
down before it is made, and taken out when it is gone: what is read without the lock being held was
left behind by a job whose process was killed.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import BusyError


def path_of(folder: Path, slice_name: str) -> Path:
    """Return the lock file of a slice."""
    return folder / "jobs" / f"{slice_name}.lock"


class Reservation:
    """
    A slice that is lent.

    Attributes:
        left: The marker of a job that was left behind on it; empty for none.
    """

    def __init__(self, folder: Path, slice_name: str, marker: str) -> None:
        """
        Lend a slice to the job that `marker` names.

        Raises:
            BusyError: It is lent already.
        """
        path = path_of(folder, slice_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BusyError(f"{slice_name} runs another job; choose another slice") from None
        self.left = _read(path)
        self.carry(marker)

    def carry(self, marker: str) -> None:
        """Write down another marker: the job is going to start anew."""
        self._file.truncate(0)
        self._file.write(marker)
        self._file.flush()

    def give_back(self) -> None:
        """The job has ended, and nothing is left of it."""
        self._file.truncate(0)
        self._file.close()

    def let_go(self) -> None:
        """Who watches the job ends; the job may go on, so that its marker stays."""
        self._file.close()


@contextmanager
def hold(folder: Path, slice_name: str, marker: str) -> Iterator[str]:
    """
    Lend a slice for a block; yields the marker of a job that was left behind on it.

    Raises:
        BusyError: It is lent already.
    """
    held = Reservation(folder, slice_name, marker)
    try:
        yield held.left
    finally:
        held.give_back()


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


def markers(folder: Path) -> list[str]:
    """Return the markers of the jobs on all slices, as `marker_of` does."""
    found = [_read(path) for path in sorted((folder / "jobs").glob("*.lock"))]
    return [marker for marker in found if marker]


def left_behind(folder: Path, slice_name: str) -> str:
    """Return the marker of a job whose process was killed; empty for none."""
    return "" if is_held(folder, slice_name) else _read(path_of(folder, slice_name))


def forget(folder: Path, slice_name: str, marker: str) -> None:
    """What was left behind is gone; a job that has begun since is not touched."""
    path = path_of(folder, slice_name)
    if _read(path) == marker and not is_held(folder, slice_name):
        path.write_text("", encoding="ascii")


def forget_all(folder: Path, gone: Sequence[str]) -> None:
    """The same for several jobs, whichever slices they were on."""
    for path in (folder / "jobs").glob("*.lock"):
        marker = _read(path)
        if marker in gone:
            forget(folder, path.stem, marker)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
