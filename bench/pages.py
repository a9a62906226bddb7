"""
What open pages cost the gateway: `python -m bench.pages`.

A page is what it is to the gateway: one reader of `GET /v1/live`, and the flower client's page one of
`POST /v1/flowers` as well. No browser draws them, which on a small machine would take the processor
that is measured. The numbers of pages take turns, and the first turn moves on each round.
"""

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import yaml
from rich.console import Console

from bench import load, machine, report
from bench.cells import Cell, all_cells
from bench.measure import Cores, Target, start_proxies
from bench.processes import BenchError, Programs, end_on_sigterm
from bench.proxies import known_proxies
from bench.standins import start_slices
from contract.slice_spec import Endpoint

LIVE: Final = (("GET", "/v1/live"),)
FLOWERS: Final = (*LIVE, ("POST", "/v1/flowers"))
PAGES: Final = {"no page": (), "1 page": LIVE, "3 pages": LIVE * 3, "the flower client": FLOWERS}
"""What is open, and what that is to the gateway."""
TIMEOUT_S: Final = 30.0
SETTLE_S: Final = 1.0
"""The whole state, which a new reader is given once, is not what is measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One turn.

    Attributes:
        pages: A key of PAGES.
        idle_ms: CPU time of the gateway's process each second without any client.
        cpu_us: Of the same for each answered request, under load.
        per_s: Answered requests a second.
    """

    pages: str
    idle_ms: float
    cpu_us: float
    per_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("--cell", choices=[cell.name for cell in all_cells()], default="http-512")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each turn")
    parser.add_argument("--idle-seconds", type=float, default=2.0, help="without, in each turn")
    parser.add_argument("--json", type=Path, default=Path("run/bench/pages.json"))
    options = parser.parse_args(arguments)
    (cell,) = (cell for cell in all_cells() if cell.name == options.cell)
    console = Console(stderr=True)
    end_on_sigterm()
    try:
        found = list(_measure(cell, options, console))
    except BenchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    report.console().print(markdown(found), highlight=False)
    facts = machine.describe({}, Cores.of_this_machine())
    document = {"version": 1, "machine": facts, "found": [asdict(one) for one in found]}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def markdown(found: Sequence[Sample]) -> str:
    """Return a table; ratios are the median over the rounds, each against its own round's."""
    lines = [
        "| open | CPU without clients, ms/s | CPU µs per request | against no page | requests/s |",
        "|---|--:|--:|--:|--:|",
    ]
    alone = [one for one in found if one.pages == next(iter(PAGES))]
    for pages in PAGES:
        those = [one for one in found if one.pages == pages]
        ratios = [
            100 * (one.cpu_us / base.cpu_us - 1) for one, base in zip(those, alone, strict=True)
        ]
        beside = (
            "-"
            if those == alone
            else f"{statistics.median(ratios):+.1f} % ({min(ratios):+.1f} to {max(ratios):+.1f})"
        )
        lines.append(
            f"| {pages} | {statistics.median(one.idle_ms for one in those):.1f} "
            f"| {statistics.median(one.cpu_us for one in those):.1f} | {beside} "
            f"| {statistics.median(one.per_s for one in those):,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _measure(cell: Cell, options: argparse.Namespace, console: Console) -> Iterator[Sample]:
    cores = Cores.of_this_machine()
    (gateway,) = (proxy for proxy in known_proxies() if proxy.name == "gateway")
    with (
        tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as name,
        Programs(Path(name)) as programs,
    ):
        slices = start_slices(programs, 7, cores.rest, "own")
        (target,) = start_proxies(programs, [gateway], slices, cores)
        (config,) = (programs.folder / gateway.name).glob("*.yaml")
        admin = yaml.safe_load(config.read_text())["admin"]["listen"]
        port = target.port(cell)
        assert port is not None, "the gateway takes part in every cell"
        names = list(PAGES)
        for number in range(options.rounds):
            turn = number % len(names)
            for pages in (*names[turn:], *names[:turn]):
                console.print(f"round {number + 1} of {options.rounds}: {pages}")
                with _open(admin, PAGES[pages]):
                    time.sleep(SETTLE_S)
                    idle_s = _idle(target, options.idle_seconds)
                    before_s = _cpu_s(target)
                    result = load.drive(
                        cell, port, options.seconds, programs.folder, cores.rest, False
                    )
                    cpu_s = _cpu_s(target) - before_s
                target.running.check_alive()
                yield Sample(
                    pages, 1e3 * idle_s, 1e6 * cpu_s / result.requests,
                    result.requests / options.seconds,
                )  # fmt: skip


def _idle(target: Target, seconds: float) -> float:
    """Return the CPU time of each second."""
    before_s, began_s = _cpu_s(target), time.monotonic()
    time.sleep(seconds)
    return (_cpu_s(target) - before_s) / (time.monotonic() - began_s)


def _cpu_s(target: Target) -> float:
    """
    Return the CPU time of the gateway's own process with all its threads, to the nanosecond.

    That is clients' and admin API's together; the flower client's own process is none of them.
    """
    tasks = Path(f"/proc/{target.running.process.pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


@contextlib.contextmanager
def _open(admin: str, calls: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Read the answers to `calls` for as long as the block runs. Raises BenchError."""
    endpoint = Endpoint.parse(admin)
    with contextlib.ExitStack() as stack:
        readers = []
        for method, path in calls:
            sock = socket.create_connection((endpoint.host, endpoint.port), TIMEOUT_S)
            stack.enter_context(sock)
            stack.callback(sock.shutdown, socket.SHUT_RDWR)
            head = f"{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nContent-Length: 0\r\n\r\n"
            sock.sendall(head.encode())
            begin = sock.recv(64 * 1024)
            if not begin.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"{method} {path} was answered {begin[:200]!r}")
            readers.append(threading.Thread(target=_read, args=(sock,), daemon=True))
            readers[-1].start()
        yield
        if not all(reader.is_alive() for reader in readers):
            raise BenchError("a page was closed by the gateway before its time")


def _read(sock: socket.socket) -> None:
    try:
        while sock.recv(64 * 1024):
            pass
    except OSError:
        pass  # silent for TIMEOUT_S: whoever looks at the end finds that nobody reads any more


if __name__ == "__main__":
    sys.exit(main())
