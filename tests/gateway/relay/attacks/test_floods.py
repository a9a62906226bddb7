"""Slow, many, and malformed clients against the whole data plane; a good client is served meanwhile."""

import asyncio
import random

import pytest

from gateway.limits import KIB, MIB
from gateway.relay.http2 import frames
from tests.gateway.relay.attacks.plane import INFER, Plane, answer_of, identity, run
from tests.gateway.relay.http1.corpus import SMUGGLING

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
PREFACE = frames.PREFACE + frames.settings({})


async def trickle(writer: asyncio.StreamWriter, data: bytes, every_s: float) -> None:
    """Send a byte at a time until all is sent or the other side has closed."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await asyncio.sleep(every_s)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    ("data", "expected"),  # None: a GOAWAY, which has tests of its own
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 900, b"HTTP/1.1 408"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: " + b"a" * 900, b"HTTP/1.1 408"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r", b""),
        (frames.PREFACE + b"\0\0\x06\x04\0\0\0\0\0\0", None),
    ],
    ids=["fields", "empty lines", "half a preface", "settings"],
)
def test_a_head_that_comes_byte_by_byte_has_to_be_there_in_time(data, expected):
    """Slowloris: each byte is progress, and yet the whole head has `head` seconds."""

    async def slow(plane: Plane) -> None:
        reader, writer = await plane.connect()
        sending = asyncio.ensure_future(trickle(writer, data, 0.01))
        answer = await answer_of(reader)
        sending.cancel()
        writer.transport.abort()
        if expected is not None:
            assert answer[:12] == expected

    async def scenario() -> None:
        async with Plane(timeouts={"head_s": 0.5}) as plane:
            async with asyncio.TaskGroup() as group:
                for _ in range(50):
                    group.create_task(slow(plane))
                await plane.serves(20)
            await plane.at_rest()

    run(scenario())


def test_a_body_that_stops_is_given_up_and_its_slice_freed():
    async def slow(plane: Plane, size: int) -> None:
        reader, writer = await plane.connect()
        writer.write(HEAD % size + b"x" * (size // 2))
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 408")
        writer.transport.abort()

    async def scenario() -> None:
        async with Plane(timeouts={"body_idle_s": 0.4}) as plane:
            async with asyncio.TaskGroup() as group:
                for n in range(60):
                    group.create_task(slow(plane, (1000, 100_000, 1_000_000)[n % 3]))
                await plane.serves(20)
            await plane.at_rest()

    run(scenario())


def test_who_does_not_read_its_answer_is_cut_off_in_time():
    async def scenario() -> None:
        async with Plane(timeouts={"send_idle_s": 0.5}) as plane:
            loop = asyncio.get_running_loop()
            socks = [plane.socket(4096) for _ in range(30)]
            async with asyncio.TaskGroup() as group:
                for sock in socks:
                    data = HEAD % (8 * MIB) + bytes(8 * MIB)
                    group.create_task(_send_all(loop, sock, data))
                await plane.serves(20)
            state = await plane.at_rest()
            assert state["limits"]["send_idle"] > 0

    run(scenario())


async def _send_all(loop, sock, data: bytes) -> None:
    try:
        await loop.sock_sendall(sock, data)
    except ConnectionError:
        pass


def test_more_connections_than_allowed_are_closed_at_once():
    """The others go on, and the places of those who leave can be taken again."""

    async def scenario() -> None:
        async with Plane(limits={"connections": 100}) as plane:
            good, writer = await plane.connect()
            writer.write(INFER)
            await plane.reaches(clients=1, in_flight=0)
            many = [await plane.connect() for _ in range(400)]
            state = await plane.reaches(limits={"connections": 301})
            assert state["sniffing"] + state["clients"] == 100
            writer.write(INFER)
            for _ in range(2):
                assert (await good.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await good.readexactly(4)
            for _, other in many:
                other.transport.abort()
            await plane.reaches(sniffing=0, clients=1)
            await plane.serves()

    run(scenario())


def garbage(rng: random.Random) -> bytes:
    """Return bytes such as no honest client sends: noise, or a request with something broken."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 5000))
    if kind == 1:
        return rng.choice(list(SMUGGLING.values()))
    data = bytearray(INFER if kind == 2 else PREFACE + rng.randbytes(400))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    return bytes(data)


def test_garbage_is_refused_and_hurts_nobody():
    """Each connection ends or waits for more; nothing is left counted, and no callback raises."""

    async def throw(plane: Plane, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(8):
            reader, writer = await plane.connect()
            writer.write(garbage(rng))
            writer.write_eof()
            await answer_of(reader)
            writer.transport.abort()

    async def scenario() -> None:
        async with Plane() as plane:
            async with asyncio.TaskGroup() as group:
                for seed in range(60):
                    group.create_task(throw(plane, seed))
                await plane.serves(20)
            await plane.at_rest()

    run(scenario())


H2_GET = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x83\x86\x84\x41\x01a")
FLOODS = {
    "ping": frames.ping(b"12345678") * 4000,
    "settings": frames.settings({}) * 4000,
    "empty data": H2_GET + frames.frame(frames.DATA, 0, 1, b"") * 4000,
    "priority": frames.frame(2, 0, 1, b"\0\0\0\3\x10") * 4000,
    "unknown": frames.frame(0xFE, 0, 0, b"") * 4000,
    "window update": H2_GET + frames.window_update(0, 1) * 8000,
    "continuation": frames.frame(frames.HEADERS, 0, 1, b"\x83")
    + frames.frame(frames.CONTINUATION, 0, 1, b"") * 4000,
    "rapid reset": b"".join(
        frames.frame(frames.HEADERS, frames.END_HEADERS, n, b"\x83\x86\x84\x41\x01a")
        + frames.rst_stream(n, 8)
        for n in range(1, 4001, 2)
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_frames_ends_its_connection_and_no_other(flood):
    async def attack(plane: Plane) -> None:
        reader, writer = await plane.connect()
        writer.write(PREFACE + FLOODS[flood])
        answer = await answer_of(reader)
        writer.transport.abort()
        assert b"\x07\0\0\0\0\0" in answer, "no GOAWAY"

    async def scenario() -> None:
        async with Plane() as plane:
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(attack(plane))
                await plane.serves(10)
            await plane.at_rest()

    run(scenario())


def test_a_slice_that_sends_garbage_hurts_only_its_own_requests():
    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rng = random.Random(1)
        while await reader.read(64 * KIB):
            writer.write(rng.randbytes(rng.randrange(1, 3000)))
            await writer.drain()

    async def scenario() -> None:
        async with Plane(noise, identity) as plane:
            answers = []
            for _ in range(30):
                reader, writer = await plane.connect()
                writer.write(INFER)
                answers.append((await reader.read(12)) or b"closed")
                writer.transport.abort()
            assert b"HTTP/1.1 200" in answers
            assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 502", b"closed"}
            await plane.at_rest()

    run(scenario())
