"""`mig-gateway top`: the live page in a terminal."""

import argparse
import sys
import time
from collections import deque
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.admin_client import AdminClient, CallError
from gateway.terminal.connecting import add_admin_options, admin

SILENCE_S: Final = 8.0
"""The gateway says something each second."""
AGAIN_S: Final = 1.0
EVENTS: Final = 8
COLOURS: Final = {"ready": "green", "disabled": "dim", "draining": "yellow", "starting": "yellow"}
BARS: Final = "▏▎▍▌▋▊▉█"
BAR_CELLS: Final = 10


def add_command(commands: Any) -> None:
    """Add `top` to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "top", help="watch the slices of a running gateway"
    )
    parser.add_argument(
        "--once", action="store_true", help="print one look, a second long, and end"
    )
    add_admin_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Show what the gateway streams until Ctrl-C; once where nobody watches."""
    calls, screen = admin(arguments), Screen()
    if arguments.once or not sys.stdout.isatty():
        for event, data in calls.follow("/v1/live", SILENCE_S):
            screen.take(event, data)
            if "sample" in data:
                break
        Console(width=None if sys.stdout.isatty() else 160).print(screen.drawn())
        return 0
    try:
        with Live(screen.drawn(), screen=True, auto_refresh=False) as live:
            _watch(calls, screen, live)
    except KeyboardInterrupt:
        pass
    return 0


def _watch(calls: AdminClient, screen: "Screen", live: Live) -> None:
    """Follow the stream, and again when it ends: a gateway that is restarted comes back."""
    reached = False
    while True:
        try:
            for event, data in calls.follow("/v1/live", SILENCE_S):
                reached = True
                screen.trouble = ""
                screen.take(event, data)
                live.update(screen.drawn(), refresh=True)
            screen.trouble = "the gateway has ended the connection"
        except CallError as error:
            if not reached:
                raise
            screen.trouble = str(error)
        live.update(screen.drawn(), refresh=True)
        time.sleep(AGAIN_S)


class Screen:
    """
    The state, as streamed so far.

    Attributes:
        trouble: Why nothing comes at the moment; "" while it does.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._gateway: dict[str, Any] = {}
        self._slices: dict[str, dict[str, Any]] = {}
        self._sample: dict[str, Any] = {"all": {}, "slices": {}}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)

    def take(self, event: str, data: dict[str, Any]) -> None:
        """Take in one message of `GET /v1/live`."""
        match event:
            case "snapshot":
                self._gateway = data["gateway"]
                self._slices = {view["name"]: view for view in data["slices"]}
                self._events = deque(data["events"], maxlen=EVENTS)
            case "change":
                self._events.append(data)
            case "tick":
                self._gateway |= data["gateway"]
                for name, changed in data["slices"].items():
                    self._slices[name] = self._slices.get(name, {}) | changed
                if "order" in data:
                    self._slices = {name: self._slices[name] for name in data["order"]}
                self._sample = data.get("sample", self._sample)
            case _:
                pass  # of a newer gateway

    def drawn(self) -> RenderableType:
        """Return all of it for a terminal."""
        if not self._gateway:
            return Text(self.trouble or "connecting …")
        return Group(self._summary(), self._table(), self._log())

    def _summary(self) -> Text:
        gateway, now = self._gateway, self._sample["all"]
        text = Text()
        if self.trouble:
            text.append(f"{self.trouble}; trying again\n", "bold red")
        good = gateway["ready"] and gateway["routable"] == len(self._slices)
        text.append(gateway["reason"], "bold green" if good else "bold yellow" if gateway["ready"] else "bold red")  # fmt: skip
        text.append(
            f"   {gateway['policy']}   {_brief(now.get('rate'))} answers/s"
            f"   p50 {_brief(now.get('p50'))} ms   p99 {_brief(now.get('p99'))} ms"
            f"   {gateway['waiting']} waiting   {gateway['connections']} clients"
            f"   faults {sum(gateway['faults'].values())}"
        )
        if any(view["simulated"] for view in self._slices.values()):
            text.append("   simulated: the MIG devices exist on paper only", "yellow")
        return text

    def _table(self) -> Table:
        table = Table(expand=True)
        for heading in ("slice", "state", "profile", "models"):
            table.add_column(heading, no_wrap=True)
        for heading in ("in flight", "answers/s", "p50 ms", "p99 ms", "served", "failed"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("why", overflow="fold")
        most = max([view["in_flight"] for view in self._slices.values()], default=0)
        for name, view in self._slices.items():
            now = self._sample["slices"].get(name, {})
            table.add_row(
                name,
                Text(view["state"], COLOURS.get(view["state"], "bold red")),
                view["profile"],
                ", ".join(dict.fromkeys(model["name"] for model in view["models"])),
                f"{_bar(view['in_flight'], most)} {view['in_flight']}",
                _brief(now.get("rate")),
                _brief(now.get("p50")),
                _brief(now.get("p99")),
                f"{view['requests']:,}",
                Text(f"{view['failures']:,}", "red" if view["failures"] else ""),
                Text(view["reason"]),
            )
        return table

    def _log(self) -> Text:
        lines = Text()
        for event in reversed(self._events):
            what = f"{event['from']} → {event['to']}" if event["to"] else event["event"]
            lines.append(f"{event['time'][11:19]}  {event['name'] or 'all':6} ", "dim")
            lines.append(f"{what}  ", COLOURS.get(event["state"], "red"))
            lines.append(f"{event['reason']}\n")
        return lines


def _bar(value: int, most: int) -> str:
    eighths = round(8 * BAR_CELLS * value / most) if most else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BARS[rest - 1] if rest else "")).ljust(BAR_CELLS)


def _brief(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
