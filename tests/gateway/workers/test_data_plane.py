"""A data plane that stops loses nobody whom it has accepted."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from contract.slice_spec import Endpoint
from gateway.balance.policies import POLICIES
from gateway.config import parse
from gateway.fleet.health import Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.metrics import Counters
from gateway.sockets import bind
from gateway.workers.data_plane import DataPlane
from tests.support.waiting import free_ports

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
ALIVE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
CONFIG = """
listen: "127.0.0.1:1"
slices: [{name: s0, http: "127.0.0.1:2", grpc: "127.0.0.1:3"}]
"""


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[DataPlane, socket.socket]]:
    """Yield a data plane that accepts at the socket beside it."""
    loop = asyncio.get_running_loop()
    registry = SliceRegistry(POLICIES["least_load"], Thresholds(), loop.time)
    config = parse(CONFIG, "test")
    plane = DataPlane(config, registry, Counters(), lambda member: None)
    [[door]] = bind(Endpoint("127.0.0.1", free_ports(1)[0]))
    await plane.start()
    await plane.accept([door])
    with door:
        yield plane, door


@asynccontextmanager
async def connected(
    door: socket.socket,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*door.getsockname())
    yield reader, writer
    writer.close()


async def connect_and_stop(turns: int) -> tuple[int, int]:
    """
    Connect, and stop the plane so many turns of the loop later.

    Returns:
        How many clients the plane had seen when it said that it had stopped, and a little later.
    """
    async with serving() as (plane, door):
        with socket.create_connection(door.getsockname(), 10) as client:
            client.sendall(LIVE)
            for _ in range(turns):
                await asyncio.sleep(0)
            await plane.stop(5.0, 1.0)
            seen = plane.core.counters.accepted
            await asyncio.sleep(0.05)
            return seen, plane.core.counters.accepted


@pytest.mark.parametrize("turns", range(4))
def test_nobody_whom_it_has_accepted_comes_after_its_end(turns: int) -> None:
    """For a turn of the loop nobody knows of a connection that has been accepted."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen, seen_later = runner.run(connect_and_stop(turns))
    assert seen == seen_later


async def test_whoever_is_idle_may_send_one_more_request() -> None:
    async with serving() as (plane, door), connected(door) as (reader, writer):
        writer.write(LIVE)
        assert await reader.readexactly(len(ALIVE)) == ALIVE
        deaf = asyncio.Event()
        stopping = asyncio.ensure_future(plane.stop(5.0, 3.0, deaf.set))
        await deaf.wait()
        await asyncio.sleep(0.1)
        writer.write(LIVE)
        assert b"Connection: close" in await reader.read()
        assert await stopping == 0


async def test_it_says_that_it_is_not_ready_while_it_serves_as_before() -> None:
    async with serving() as (plane, door), connected(door) as (reader, writer):
        plane.leave()
        writer.write(LIVE.replace(b"live", b"ready"))
        assert (await reader.readuntil(b'exiting"}')).startswith(b"HTTP/1.1 503")
        writer.write(LIVE)
        assert await reader.readexactly(len(ALIVE)) == ALIVE
        assert await plane.stop(0.0) == 1
