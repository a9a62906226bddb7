"""`mig-gateway flowers`: the flower client without a browser, over HTTP or gRPC."""

import argparse
import asyncio
import signal
import ssl
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from contract.slice_spec import Endpoint
from gateway.admin_client import CallError
from gateway.config import load
from gateway.flowers import addresses
from gateway.flowers.asking import Answer, Asker, AskError, HttpAsker
from gateway.flowers.loop import OUTSTANDING_MAX, Figures, Loop
from gateway.flowers.pictures import listed, tensor_of_png
from gateway.quantities import duration_s

REFRESH_S: Final = 0.25
ANSWERS: Final = 10
DEFAULT: Final = "127.0.0.1:50050"
BAR_CELLS: Final = 40


def add_command(commands: Any) -> None:
    """Add `flowers` to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "flowers", help="send flower pictures to a running gateway, some always outstanding"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url", metavar="HOST:PORT", help=f"the gateway's port for clients (default {DEFAULT})"
    )
    where.add_argument("--config", type=Path, metavar="FILE", help="take its address from there")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="speak TLS; who signed (PEM)")
    parser.add_argument("--grpc", action="store_true", help="over gRPC instead of HTTP")
    parser.add_argument(
        "--outstanding", type=_outstanding, default=8, metavar="N",
        help=f"requests outstanding at any time, 1 to {OUTSTANDING_MAX} (8)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, default=50.0, metavar="MS", help="for the p90 latency (50)"
    )
    parser.add_argument(
        "--for", dest="seconds", type=_duration, metavar="30s", help="end by itself after that"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Send until Ctrl-C or until time is up; exit 1 when anything failed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    pictures = [(one.name, tensor_of_png(one.file.read_bytes())) for one in listed()]
    view = View([name for name, _ in pictures], arguments)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if arguments.seconds:
        loop.call_later(arguments.seconds, ended.set)
    order = range(len(pictures))
    async with _asker(arguments) as asker:
        sending = Loop(asker, lambda: order, lambda picture: pictures[picture][1], view.came)
        sending.keep(arguments.outstanding)
        with Live(auto_refresh=False, transient=True, console=Console()) as live:
            while not ended.is_set():
                if sys.stdout.isatty():
                    live.update(view.drawn(sending.figures()), refresh=True)
                await _within(ended, REFRESH_S)
        figures = sending.figures()
        await sending.stop()
    print(view.summary(sending, figures))
    return 1 if sending.failed else 0


class View:
    """
    What the terminal shows.

    Attributes:
        right: Pictures whose flower was named rightly.
    """

    def __init__(self, names: list[str], arguments: argparse.Namespace) -> None:
        self._names = names
        self._budget_ms = arguments.budget
        self._protocol = "gRPC" if arguments.grpc else "HTTP"
        self._outstanding = arguments.outstanding
        self._answers: deque[Text] = deque(maxlen=ANSWERS)
        self._by_slice: dict[str, int] = {}
        self.right = 0
        self.error = ""

    def came(self, picture: int, answer: Answer | AskError) -> None:
        if isinstance(answer, AskError):
            self.error = str(answer)
            self._answers.append(Text(f"{self._names[picture]:24} no answer: {answer}", "red"))
            return
        score, name = answer.classes[0] if answer.classes else (0.0, "nothing")
        right = name == self._names[picture]
        self.right += right
        self._by_slice[answer.slice] = self._by_slice.get(answer.slice, 0) + 1
        line = f"{self._names[picture]:24} {answer.slice:6} {answer.took_s * 1e3:8.1f} ms  {name} {score:.0%}"  # fmt: skip
        self._answers.append(Text(line, "" if right else "yellow"))

    def drawn(self, figures: Figures) -> RenderableType:
        kept = figures.p90_ms is None or figures.p90_ms <= self._budget_ms
        head = Text(
            f"{self._outstanding} outstanding over {self._protocol}   {figures.rate:,.0f} answers/s   "
            f"p50 {_ms(figures.p50_ms)}   p90 {_ms(figures.p90_ms)} of {self._budget_ms:g} ms",
            "bold green" if kept else "bold red",
        )
        head.append(f"   {figures.answered:,} answered, {figures.failed:,} failed\n", "")
        most = max(figures.slices.values(), default=1)
        bars = Text()
        for name, count in sorted(figures.slices.items()):
            bars.append(f"{name or 'slice not named':16} ")
            bars.append("█" * max(1, round(BAR_CELLS * count / most)), "cyan")
            bars.append(f" {count}/s\n")
        return Group(head, bars, *self._answers)

    def summary(self, sending: Loop, figures: Figures) -> str:
        """Return the last words: what came of all of it."""
        by_slice = ", ".join(f"{name} {n}" for name, n in sorted(self._by_slice.items()) if name)
        lines = [
            f"{sending.answered} answered over {self._protocol}, {sending.failed} failed, "
            f"{self.right} flowers named rightly",
            f"last second: {figures.rate:.0f} answers/s, p50 {_ms(figures.p50_ms)}, "
            f"p90 {_ms(figures.p90_ms)}",
        ]
        if by_slice:
            lines.append(f"by slice: {by_slice}")
        if self.error:
            lines.append(f"the last failure: {self.error}")
        return "\n".join(lines)


def _asker(arguments: argparse.Namespace) -> Asker:
    """Return the way to the gateway that the command line means. Raises CallError, ConfigError."""
    certificate: Path | None = arguments.ca
    context: ssl.SSLContext | None = None
    try:
        if arguments.config:
            config = load(arguments.config)
            endpoint = config.listen[0]
            if config.tls is not None:
                certificate, context = config.tls.cert, addresses.pinned(config.tls.cert)
        else:
            endpoint = Endpoint.parse(arguments.url or DEFAULT)
            context = ssl.create_default_context(cafile=certificate) if certificate else None
        if not arguments.grpc:
            return HttpAsker(addresses.near(endpoint), context)
        from gateway.flowers import asking_grpc  # whoever asks over HTTP need not load it

        return asking_grpc.open_asker(addresses.near(endpoint), certificate)
    except (OSError, ValueError) as error:
        raise CallError(str(error)) from None


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _outstanding(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= OUTSTANDING_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {OUTSTANDING_MAX}")
    return int(text)


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
