"""The data plane in a process of its own, the slices behind it, and a client that must not suffer."""

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import uvloop

from gateway.limits import MIB
from tests.support.children import ending_with_us

ROOT = Path(__file__).parents[4]
HOST = "127.0.0.1"
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
ZEROS = bytes(MIB)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def run(scenario: Coroutine[Any, Any, None], limit_s: float = 50) -> None:
    """Run `scenario` on uvloop, for at most `limit_s`."""

    async def timed() -> None:
        async with asyncio.timeout(limit_s):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(timed())


async def until(condition: Callable[[], object], every_s: float = 0.02) -> None:
    """Wait until `condition()` holds; `run()` limits for how long."""
    while not condition():  # noqa: ASYNC110  (what is waited for knows of no event)
        await asyncio.sleep(every_s)


def allow_descriptors() -> int:
    """Allow this process as many descriptors as may be; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def identity(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """
    Answer each request with as many bytes as it brought.

    They come out of one piece of memory that all connections share: a thousand of these slices
    must not need more than the gateway that is measured.
    """
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = left = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        while left:
            left -= len(await reader.read(min(left, 256 * 1024)) or _hung_up())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        while length:
            writer.write(memoryview(ZEROS)[: min(length, MIB)])
            length -= min(length, MIB)
            await writer.drain()


def _hung_up() -> bytes:
    raise ConnectionResetError


class Plane:
    """`async with Plane(...) as plane`: a data plane and one slice for each handler."""

    def __init__(
        self,
        *handlers: Handler,
        limits: dict[str, int] | None = None,
        timeouts: dict[str, float] | None = None,
    ) -> None:
        self._handlers = handlers or (identity,)
        self._limits = limits or {}
        self._timeouts = timeouts or {}
        self._servers: list[asyncio.AbstractServer] = []
        self._serving: set[asyncio.Task[None] | None] = set()
        self._open: list[socket.socket] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> "Plane":
        ports = []
        for handler in self._handlers:
            server = await asyncio.start_server(
                partial(self._serve, handler), HOST, 0, backlog=2048
            )
            self._servers.append(server)
            ports.append(server.sockets[0].getsockname()[1])
        wanted = {
            "slices": [(port, port) for port in ports],
            "limits": self._limits,
            "timeouts": self._timeouts,
        }
        command = [sys.executable, "-m", "tests.support.data_plane", json.dumps(wanted)]
        self._process = await asyncio.create_subprocess_exec(
            *ending_with_us(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.port = (await self._line())["port"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for sock in self._open:
            sock.close()
        for writer in self._writers:
            writer.transport.abort()
        assert self._process.stdin is not None
        self._process.stdin.close()
        returncode = await self._process.wait()
        for server in self._servers:
            server.close()
        for task in list(self._serving):
            if task is not None:
                task.cancel()
        await until(lambda: not self._serving)
        if exc == (None, None, None):
            assert returncode == 0

    async def _serve(
        self, handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._serving.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            self._serving.discard(asyncio.current_task())

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the data plane has ended; its error is above"
        found: dict[str, Any] = json.loads(line)
        return found

    async def state(self) -> dict[str, Any]:
        """Return the data plane's state, after making sure that no callback has raised."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        state = await self._line()
        assert state["errors"] == []
        return state

    async def reaches(self, **wanted: object) -> dict[str, Any]:
        """Wait until the state has these values, and return it."""
        while True:
            state = await self.state()
            if all(state[key] == value for key, value in wanted.items()):
                return state
            await asyncio.sleep(0.02)

    async def at_rest(self) -> dict[str, Any]:
        """Wait until all clients have gone and nothing is counted or held for them."""
        return await self.reaches(clients=0, sniffing=0, in_flight=0, buffered_bytes=0)

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def socket(self, receive_bytes: int = 0) -> socket.socket:
        """Return a new client's connection, a plain socket that does not block."""
        sock = socket.socket()
        self._open.append(sock)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect((HOST, self.port))
        sock.setblocking(False)
        return sock

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.port, limit=4 * MIB)
        self._writers.append(writer)
        return reader, writer

    async def serves(self, times: int = 3) -> None:
        """A well-behaved client is served, on a connection of its own."""
        reader, writer = await self.connect()
        for _ in range(times):
            writer.write(INFER)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert len(await reader.readexactly(4)) == 4
        writer.close()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the gateway closes; what it cuts off counts as closed."""
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionError:
        pass
    return data
