"""The sign of a state folder: what its launchers make carries it, whichever of them made it."""

import os
import secrets
from pathlib import Path
from typing import Final

FILE: Final = "launcher.id"


def sign_of(folder: Path) -> str:
    """Return the sign, made when there is none; it stays for as long as the folder does."""
    path = folder / FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{FILE}.{secrets.token_hex(4)}")
    made.write_text(f"{secrets.token_hex(8)}\n", encoding="ascii")
    try:
        os.link(made, path)  # whole or not at all, and only if nobody else was first
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_text(encoding="ascii").strip()
