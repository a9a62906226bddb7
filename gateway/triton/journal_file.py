"""
JournalFile: the journal's file, which two gateways may have at a time.

While one replaces the other both carry changes out. Each writes the file under a lock, after it has
taken in what the other has written since it last looked.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from contract.files import write_atomically

log = structlog.get_logger()

BYTES_MAX: Final = 256 * 1024 * 1024
LOCK_S: Final = 2.0
"""For the other gateway to let go of the lock; one that hangs must not stop this one."""
LOOK_S: Final = 0.01


class JournalFile:
    """Blocks; call `begin`, `commit` and `read_if_newer` in a thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        self._seen: tuple[int, int, int] | None = None

    @property
    def is_newer(self) -> bool:
        """Somebody else has written it since we last read or wrote it."""
        now = self._signature()
        return now is not None and now != self._seen

    def read_if_newer(self) -> bytes | None:
        """
        Return its content, of BYTES_MAX + 1 bytes at most; None when there is nothing new.

        Raises:
            OSError: It cannot be read.
        """
        if not self.is_newer:
            return None
        with self._path.open("rb") as file:
            # What is read is of this file, also if it has been replaced meanwhile.
            found = _signature_of(os.fstat(file.fileno()))
            data = file.read(BYTES_MAX + 1)
        self._seen = found
        return data

    def begin(self) -> bytes | None:
        """
        Lock it and return what is new in it; `release` is owed.

        Raises:
            OSError: Its folder cannot be written, or it cannot be read.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = self._path.with_name(f".{self._path.name}.lock")
        self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline_s = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    log.warning("journal.lock_held", path=str(lock_path), waited_s=LOCK_S)
                    break
                time.sleep(LOOK_S)
        return self.read_if_newer()

    def commit(self, text: str) -> None:
        """Replace its content. Raises OSError."""
        write_atomically(self._path, text)
        self._seen = self._signature()

    def release(self) -> None:
        """Let the other gateway have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(OSError):
                os.close(lock)

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            return _signature_of(self._path.stat())
        except OSError:
            return None


def _signature_of(found: os.stat_result) -> tuple[int, int, int]:
    """Return what another file of the same name has not."""
    return found.st_ino, found.st_mtime_ns, found.st_size
