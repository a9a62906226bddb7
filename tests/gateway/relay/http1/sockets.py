"""The HTTP/1.1 relay on real sockets, with slices that are a few lines of asyncio."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.fleet.health import Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.limits import MIB, Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream
from gateway.relay.http1.stock import Stocks
from gateway.relay.listener import Listener
from gateway.relay.slabs import Slabs
from tests.gateway.making import live

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run `scenario` on uvloop, in at most 30 s; an exception in any callback fails it."""
    errors: list[dict[str, Any]] = []

    async def timed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        async with asyncio.timeout(30):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(timed())
    assert errors == [], errors


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds; `run()` limits for how long."""
    while not condition():  # noqa: ASYNC110  (what is waited for knows of no event)
        await asyncio.sleep(0.005)


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the head and the body of a message with Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    return head, await reader.readexactly(length)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its own body, in pieces, now slow and now fast."""
    while True:
        _, body = await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 300_000):
            writer.write(body[at : at + 300_000])
            await writer.drain()
            await asyncio.sleep(random.choice([0, 0, 0.001]))


class Relay:
    """A gateway's HTTP/1.1 side with slices in the same loop: `async with Relay(...) as relay`."""

    def __init__(self, *handlers: Handler, limits: Limits | None = None) -> None:
        self.handlers = handlers
        self.limits = limits or Limits()
        self.servers: list[asyncio.AbstractServer] = []
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> "Relay":
        loop = asyncio.get_running_loop()
        specs = []
        for at, handler in enumerate(self.handlers):
            server = await asyncio.start_server(
                partial(self._serve, handler), "127.0.0.1", 0, limit=4 * MIB
            )
            self.servers.append(server)
            endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
            specs.append(SliceSpec(f"s{at}", endpoint, endpoint))
        self.registry = SliceRegistry(LeastLoad, Thresholds(), loop.time)
        self.registry.replace(specs)
        for member in self.registry.slices.values():
            self.registry.record(member, live("m"))
        self.core = RelayCore(
            loop, self.registry, Counters(), self.limits, Timeouts(), lambda member: None
        )
        self.core.deadlines.start()
        self.slabs = Slabs(self.limits.buffered_bytes)
        self.stocks = Stocks(self.core, self.slabs)
        make = lambda: Downstream(self.stocks.shared)  # noqa: E731
        self.listener = Listener(self.core, make, make)
        # The port is the kernel's choice; Endpoint does not know 0.
        server = await loop.create_server(make, "127.0.0.1", 0)
        self.servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for client in list(self.core.clients):
            client.abort()
        self.stocks.close()
        for writer in self.writers:
            writer.transport.abort()
        await until(lambda: not (self.core.clients or self.serving))
        self.core.deadlines.stop()
        await self.core.dialer.stop()
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.01)

    async def _serve(
        self, handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writers.add(writer)
        self.serving.add(asyncio.current_task())
        try:
            await handler(reader, writer)
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.serving.discard(asyncio.current_task())

    async def connect(
        self, port: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port or self.port, limit=4 * MIB
        )
        self.writers.add(writer)
        return reader, writer

    async def at_rest(self) -> None:
        """Wait until nothing is in flight, abandoned or accounted for."""
        slices = self.registry.slices.values()
        await until(lambda: not (any(m.in_flight for m in slices) or self.core.buffered_bytes))


def infer(body: bytes) -> bytes:
    return (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
