"""Files that another process may read at any moment: whole or not at all."""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """
    Replace `path` by `text`: a reader sees the old content or the new, never a part.

    The folder is made when it is missing. The file's data is on disk before its name is, so a
    crash leaves one of the two versions; a full disk leaves the old one.

    Args:
        mode: The file's permissions, whatever they were before.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_whole(path: Path, bytes_max: int) -> bytes:
    """
    Return what a file holds, or its first `bytes_max` + 1 bytes, by which its reader sees that it is larger.

    What is no regular file is refused and never waited for: a pipe that nobody writes to would hold
    its reader up for ever, and a device may have no end.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(bytes_max + 1)
    finally:
        os.close(handle)


def set_aside(path: Path) -> str | None:
    """
    Rename `path` to the first free `NAME.bad-N`, so that nothing of it is lost.

    Returns:
        The new name; None when a thousand are taken.

    Raises:
        OSError: It cannot be renamed.
    """
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.bad-{number}")
        if not aside.exists():
            path.rename(aside)
            return str(aside)
    return None
