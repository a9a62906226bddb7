"""What `up` tells while it works: a live display in a terminal, plain lines elsewhere."""

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Progress(Protocol):
    """Receives what happens during `up`, in order."""

    def step(self, text: str) -> None:
        """Say what is being done."""

    def starting(self, names: Sequence[str]) -> None:
        """Tell that these servers are starting."""

    def ready(self, name: str, after_s: float) -> None:
        """Tell that a server is ready, so long after the start of all."""

    def up(self) -> None:
        """Tell that everything is ready and the inventory written."""


class PlainProgress:
    """One line for each event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def step(self, text: str) -> None:
        """Print it."""
        print(text, file=self._out, flush=True)

    def starting(self, names: Sequence[str]) -> None:
        """Print the names."""
        self.step(f"starting {', '.join(names)}")

    def ready(self, name: str, after_s: float) -> None:
        """Print the time."""
        self.step(f"{name} ready after {after_s:.1f} s")

    def up(self) -> None:
        """Print nothing: the caller prints the table."""


class LiveProgress:
    """A line per server with a spinner that becomes a time; gone from the screen at the end."""

    def __init__(self, console: Console, on_redraw: Callable[[TextIO], None]) -> None:
        """
        Args:
            console: The terminal.
            on_redraw: Told the stream that log lines must go to: above the display while it is
                shown, standard error afterwards.
        """
        self._live = Live(console=console, transient=True, refresh_per_second=12)
        self._on_redraw = on_redraw
        self._text = ""
        self._ready_s: dict[str, float | None] = {}

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        self._on_redraw(sys.stderr)  # which the live display has replaced by its own
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._finish()

    def step(self, text: str) -> None:
        """Show it beside the spinner."""
        self._text = text
        self._draw()

    def starting(self, names: Sequence[str]) -> None:
        """Show a line for each."""
        self._text = "starting servers"
        self._ready_s = dict.fromkeys(names)
        self._draw()

    def ready(self, name: str, after_s: float) -> None:
        """Mark its line."""
        self._ready_s[name] = after_s
        self._draw()

    def up(self) -> None:
        """Remove the display."""
        self._finish()

    def _finish(self) -> None:
        self._live.stop()
        self._on_redraw(sys.stderr)

    def _draw(self) -> None:
        rows: list[RenderableType] = [Spinner("dots", text=self._text)]
        if self._ready_s:
            table = Table.grid(padding=(0, 2))
            for name, after_s in self._ready_s.items():
                done = after_s is not None
                said = f"ready after {after_s:.1f} s" if done else "starting"
                table.add_row(Text(name), Text(said, style="green" if done else "dim"))
            rows.append(table)
        self._live.update(Group(*rows))


class PipeProgress:
    """Writes events as JSON lines for another process to show; see `replay`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def step(self, text: str) -> None:
        """Send it."""
        self._send("step", text)

    def starting(self, names: Sequence[str]) -> None:
        """Send it."""
        self._send("starting", list(names))

    def ready(self, name: str, after_s: float) -> None:
        """Send it."""
        self._send("ready", name, after_s)

    def up(self) -> None:
        """Send it."""
        self._send("up")

    def failed(self, message: str, code: int) -> None:
        """Send why `up` failed, and its exit code."""
        self._send("failed", message, code)

    def _send(self, event: str, *arguments: object) -> None:
        try:
            print(json.dumps([event, *arguments]), file=self._out, flush=True)
        except BrokenPipeError:
            pass  # whoever watched has gone; the work goes on


def replay(line: str, progress: Progress) -> tuple[str, int] | None:
    """Show one line of a PipeProgress; return message and exit code when it is a failure."""
    event, *arguments = json.loads(line)
    if event == "failed":
        return str(arguments[0]), int(arguments[1])
    getattr(progress, event)(*arguments)
    return None
