"""One line that says what is being done: rewritten in a terminal, one after the other elsewhere."""

from typing import Self

from rich.console import Console
from rich.live import Live


class Progress:
    """
    Shows the present step until its `with` block ends.

    Without rich's refresh thread: we fork with a function of ours in between, which is only safe
    in a program of one thread, and a busy cursor would take time from what is measured.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, step: str) -> None:
        """Show `step` in place of the one before."""
        if self._console.is_terminal:
            self._live.update(step, refresh=True)
        else:
            self._console.print(step, highlight=False)
