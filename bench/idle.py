"""
Resident memory with idle client connections, proxy by proxy: `python -m bench.idle`.

A connection has been used once and then keeps still, as those of a client's pool do.
"""

import argparse
import contextlib
import json
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import machine, report, usage
from bench.measure import Cores, Target, start_proxies
from bench.processes import BenchError, Programs, end_on_sigterm
from bench.proxies import Proxy, known_proxies
from bench.standins import READY_PATH, start_slices

_REQUEST: Final = f"GET {READY_PATH} HTTP/1.1\r\nHost: idle\r\n\r\n".encode()
# RFC 9113 3.4 and 6.5: the preface and an empty SETTINGS frame; the answer begins with one.
_H2_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_TIMEOUT_S: Final = 10.0
_SPARE_FILES: Final = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """
    Memory of one proxy over one protocol, all its processes together, in bytes.

    Attributes:
        before: Resident before a client had connected.
        after: Resident with all connections open.
        connections: How many there were.
    """

    proxy: str
    protocol: str
    before: int
    after: int
    connections: int

    @property
    def per_connection(self) -> float:
        return (self.after - self.before) / self.connections


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status: 0, 1 when it failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    end_on_sigterm()
    try:
        _allow_files(options.connections)
        found = list(_measure(options.connections, console))
    except ValueError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 2
    except BenchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been ended")
        return 130
    text = markdown(found)
    report.console().print(text, highlight=False)
    facts = machine.describe({}, Cores.of_this_machine())
    document = {"version": 1, "machine": facts, "found": [asdict(one) for one in found]}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    console.print(f"written: {options.json}")
    if options.markdown:
        options.markdown.write_text(text)
    return 0


def markdown(found: Sequence[Figures]) -> str:
    """Return a table, a line per proxy and protocol."""
    lines = [
        "| proxy | connections | MiB before | MiB with them | kB each |",
        "|---|---|--:|--:|--:|",
    ]
    for one in found:
        before, after = one.before / report.MIB, one.after / report.MIB
        lines.append(
            f"| {one.proxy} | {one.connections:,} idle, {one.protocol} "
            f"| {before:.1f} | {after:.1f} | {one.per_connection / 1e3:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _measure(connections: int, console: Console) -> Iterator[Figures]:
    # A proxy is started anew for each protocol: memory that it keeps would count as the second's.
    for protocol in ("HTTP/1.1", "HTTP/2"):
        for proxy in known_proxies():
            if sentence := proxy.missing():
                console.print(f"[yellow]left out: {sentence}[/yellow]", highlight=False)
            elif not (protocol == "HTTP/2" and proxy.name == "nginx-streaming"):
                console.print(f"{connections} idle {protocol} connections: {proxy.name}")
                yield _one(proxy, protocol, connections)


def _one(proxy: Proxy, protocol: str, connections: int) -> Figures:
    cores = Cores.of_this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as name,
        Programs(Path(name)) as programs,
        contextlib.ExitStack() as clients,
    ):
        Path(name).chmod(0o755)  # nginx, started by root, works as another user
        slices = start_slices(programs, 7, cores.rest, "own")
        (target,) = start_proxies(programs, [proxy], slices, cores)
        pid = target.running.process.pid
        before = usage.rss_bytes(pid)
        for _ in range(connections):
            clients.enter_context(_connected(target, protocol))
        target.running.check_alive()
        return Figures(proxy.name, protocol, before, usage.rss_bytes(pid), connections)


def _connected(target: Target, protocol: str) -> socket.socket:
    port = target.launch.http_port if protocol == "HTTP/1.1" else target.launch.grpc_port
    assert port is not None, "the variant without a gRPC port takes no part in HTTP/2"
    client = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    client.sendall(_REQUEST if protocol == "HTTP/1.1" else _H2_HELLO)
    answer = client.recv(4096)
    if protocol == "HTTP/1.1" and not answer.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"{target.name} answered {answer[:80]!r}")
    if protocol == "HTTP/2" and answer[3:4] != b"\x04":
        raise BenchError(f"{target.name} did not begin with SETTINGS: {answer[:80]!r}")
    return client


def _allow_files(connections: int) -> None:
    """Let this process, and the proxies that it starts, open so many sockets."""
    wanted = 2 * connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise ValueError(f"--connections {connections} needs {wanted} open files; allowed: {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.idle", description=__doc__)
    add = parser.add_argument
    add("--connections", type=int, default=1000, metavar="N", help="per proxy (default 1000)")
    json_file = Path("run/bench/idle.json")
    add("--json", type=Path, default=json_file, metavar="FILE", help=f"default {json_file}")
    add("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
