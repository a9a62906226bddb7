"""A client that sends without a pause what costs work is not the only one that is served."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from gateway.limits import KIB, MIB
from gateway.relay.http2 import frames
from gateway.relay.http2.frames import DATA, END_HEADERS, HEADERS, PADDED, frame
from gateway.relay.http2.headers import encode
from tests.gateway.relay.attacks.plane import Plane, run
from tests.support.h2_peers import head

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
PREFACE = frames.PREFACE + frames.settings({})
SERVER_LIVE = encode(head(b"/inference.GRPCInferenceService/ServerLive"))
REQUESTS = 10


def pipelined() -> Iterator[bytes]:
    while True:
        yield LIVE * 1000


def chunks() -> Iterator[bytes]:
    yield CHUNKED
    while True:
        yield b"2\r\nab\r\n" * 8000


def late_data(one: bytes) -> Iterator[bytes]:
    """Send on after the answer: that is no mistake, and has no end."""
    yield PREFACE + frame(HEADERS, END_HEADERS, 1, SERVER_LIVE)
    while True:
        yield one * 6000


FLOODS = {
    "pipelined requests": pipelined,
    "chunks of two bytes": chunks,
    "data of one byte": lambda: late_data(frame(DATA, 0, 1, b"x")),
    "data of one byte, padded": lambda: late_data(frame(DATA, PADDED, 1, b"\x09x" + bytes(9))),
}


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a small request; read for ever what comes in chunks."""
    while b"chunked" not in await reader.readuntil(b"\r\n\r\n"):
        await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
    while await reader.read(MIB):
        pass


class Flood:
    """
    A client that sends as fast as it is read, takes all answers, and comes again when it is cut off.

    Attributes:
        sent: Bytes so far.
    """

    def __init__(self, plane: Plane, make: Callable[[], Iterator[bytes]]) -> None:
        self.sent = 0
        self._plane = plane
        self._make = make

    async def run(self) -> None:
        while True:
            reader, writer = await self._plane.connect()
            writer.transport.set_write_buffer_limits(64 * KIB)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send(writer))
                    group.create_task(self._take(reader))
            except* ConnectionError:
                pass

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        for data in self._make():
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
            self.sent += len(data)

    async def _take(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(MIB):
            pass
        raise ConnectionResetError


@pytest.mark.parametrize("flood", FLOODS)
def test_a_client_that_sends_without_a_pause_leaves_turns_to_others(flood):
    """
    libuv reads up to 32 times 256 KB from one socket before it looks at another, 8 MB. What is
    counted is what was read of the flood until somebody else was answered: that does not depend on
    what else the machine has to do.
    """

    async def scenario() -> None:
        async with Plane(swallow) as plane:
            one = Flood(plane, FLOODS[flood])
            task = asyncio.ensure_future(one.run())
            while one.sent < MIB:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            before = one.sent
            await plane.serves(REQUESTS)
            during = one.sent - before
            task.cancel()
            await asyncio.wait([task])
            assert during < REQUESTS * MIB

    run(scenario())
