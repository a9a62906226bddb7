"""`top`: the status, live."""

import time
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from launcher import status, tables, usage


def run(folder: Path, interval_s: float, console: Console) -> int:
    """Show the status every `interval_s` until Ctrl-C; once where there is no terminal."""
    if not console.is_terminal:
        console.print(_shown(folder))
        return 0
    with Live(_shown(folder), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(_shown(folder), refresh=True)


def _shown(folder: Path) -> RenderableType:
    document = status.as_dict(status.read(folder))
    usage.add(document, folder)
    if not document["up"]:
        return Text(f"nothing is up (state folder {folder})")
    return tables.status_table(document)
