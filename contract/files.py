"""Files that another process may read at any moment: whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """
    Replace `path` by `text`: a reader sees the old content or the new, never a part.

    The folder is made when it is missing. The file's data is on disk before its name is, so a
    crash leaves one of the two versions; a full disk leaves the old one.

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
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


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
