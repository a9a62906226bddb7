"""
What an attacker can make the gateway hold. The bounds are those of docs/operating.md, "Memory".

Measured from outside, on a process of its own, over real sockets.
"""

import asyncio
import socket
from typing import Any, Final

import pytest

from gateway.limits import KIB, MIB
from gateway.relay.http2 import frames
from gateway.relay.http2.headers import encode
from tests.gateway.relay.attacks.h2_slice import grpc_growing
from tests.gateway.relay.attacks.plane import Plane, allow_descriptors, identity, run

pytestmark = pytest.mark.chaos

IDLE_MANY = 10_000
IDLE_BYTES_EACH = 8 * KIB
"""Of one idle connection."""
CLIENTS = 1_000
GREEDY_BYTES_MAX = 1024 * MIB
UNCOUNTED_BYTES_EACH = 256 * KIB
BODY = MIB
GREEDY = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BODY
) + bytes(BODY)


@pytest.mark.slow
def test_idle_connections_cost_little():
    """1,000 within 100 MiB in all; 10,000, or what descriptors allow, within 8 KiB each."""
    many = min(IDLE_MANY, allow_descriptors() - 500)

    async def scenario() -> None:
        async with Plane() as plane:
            await plane.serves()
            before = plane.rss_bytes
            figures = {}
            for count in (1_000, many):
                state = await plane.state()
                while state["sniffing"] < count:
                    for _ in range(min(250, count - state["sniffing"])):
                        plane.socket()
                    state = await plane.state()
                figures[count] = plane.rss_bytes
            assert figures[1_000] < 100 * MIB
            assert figures[many] < before + many * IDLE_BYTES_EACH
            await plane.serves()

    run(scenario())


@pytest.mark.slow
def test_idle_connections_that_were_used_cost_little():
    """After a request a connection has a protocol object and the kernel's buffers: no more."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with Plane() as plane:
            await plane.serves()
            for _ in range(1_000):
                sock = plane.socket()
                await loop.sock_sendall(sock, b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.1 200")
            state = await plane.state()
            assert state["clients"] == 1_000
            assert plane.rss_bytes < 100 * MIB

    run(scenario())


async def send_and_never_read(plane: Plane, receive_bytes: int, data: bytes, times: int) -> None:
    loop = asyncio.get_running_loop()
    sock = plane.socket(receive_bytes)
    try:
        for _ in range(times):
            await loop.sock_sendall(sock, data)
    except ConnectionError:
        pass  # cut off


async def most_held(
    plane: Plane,
    receive_bytes: int,
    data: bytes = GREEDY,
    times: int = 3,
    reached: dict[str, int] | None = None,
) -> tuple[int, dict[str, Any]]:
    """
    Let CLIENTS send until the state has what was to be `reached` and nothing moves any more.

    Returns:
        The most resident memory seen meanwhile, in bytes, and the data plane's last state.
    """
    most, still, before = 0, 0, None
    async with asyncio.TaskGroup() as group:
        clients = [
            group.create_task(send_and_never_read(plane, receive_bytes, data, times))
            for _ in range(CLIENTS)
        ]
        while still < 25:  # half a second
            state = await plane.state()
            most = max(most, plane.rss_bytes)
            now = (state["clients"], state["in_flight"], state["slab_bytes"])
            arrived = all(state[key] >= value for key, value in (reached or {}).items())
            still = still + 1 if now == before and arrived else 0
            before = now
            await asyncio.sleep(0.02)
        for client in clients:
            client.cancel()
    return most, state


@pytest.mark.slow
@pytest.mark.parametrize("receive_bytes", [4096, 0], ids=["small window", "default window"])
def test_clients_that_send_and_never_read_cannot_fill_the_memory(receive_bytes):
    """1,000 clients each send 1 MB to a slice that sends it back; none of them reads."""

    async def scenario() -> None:
        # A slice that accepts late is none of this test's business.
        async with Plane(identity, identity, timeouts={"connect_s": 20}) as plane:
            await plane.serves()
            most, _ = await most_held(plane, receive_bytes)
            assert most < GREEDY_BYTES_MAX
            await plane.serves()

    allow_descriptors()
    run(scenario())


@pytest.mark.slow
def test_with_less_memory_who_does_not_read_is_cut_off():
    """`buffered_bytes` holds, and a client that reads is served all the same."""
    buffered_bytes = 64 * MIB

    async def scenario() -> None:
        limits = {"buffered_bytes": buffered_bytes}
        async with Plane(identity, limits=limits, timeouts={"connect_s": 20}) as plane:
            await plane.serves()
            most, state = await most_held(plane, 4096)
            assert state["buffered_bytes"] <= buffered_bytes
            assert state["limits"]["buffered_bytes"] > 0
            assert most < 100 * MIB + 1.5 * buffered_bytes + CLIENTS * UNCOUNTED_BYTES_EACH
            await plane.serves()

    allow_descriptors()
    run(scenario())


GRPC_BODY: Final = 1_000_000
GREEDY_GRPC_BYTES_MAX: Final = 1280 * MIB
LIMIT_S: Final = 150.0
"""Of a scenario that moves some gigabytes: the slices are Python as well."""
GRPC_HEAD: Final = encode(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"a"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
)


def greedy_call() -> bytes:
    """Return a client's first bytes: every window as large as may be, and a call of 1 MB."""
    message = b"\0" + (GRPC_BODY - 5).to_bytes(4, "big") + b"\x0a\x01m\x3a"
    body = message.ljust(GRPC_BODY, b"y")
    out = [
        frames.PREFACE,
        frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31 - 1}),
        frames.window_update(0, 2**31 - 1 - 65535),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, GRPC_HEAD),
    ]
    for start in range(0, GRPC_BODY, 16384):
        piece = body[start : start + 16384]
        last = frames.END_STREAM if start + 16384 >= GRPC_BODY else 0
        out.append(frames.frame(frames.DATA, last, 1, piece))
    return b"".join(out)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_grpc_clients_that_send_and_never_read_cannot_fill_the_memory():
    """1,000 clients each send 1 MB to a slice that sends four times that back; none of them reads."""

    async def scenario() -> None:
        async with Plane(grpc_growing, grpc_growing, timeouts={"connect_s": 20}) as plane:
            loaded = {"in_flight": CLIENTS}
            most, state = await most_held(plane, 4096, greedy_call(), 1, loaded)
            assert state["errors"] == []
            assert most < GREEDY_GRPC_BYTES_MAX

    allow_descriptors()
    run(scenario(), LIMIT_S)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_with_less_memory_grpc_clients_that_do_not_read_are_cut_off():
    """`buffered_bytes` holds: calls are refused or reset, or their connection ends."""
    buffered_bytes = 64 * MIB

    async def scenario() -> None:
        limits = {"buffered_bytes": buffered_bytes}
        async with Plane(grpc_growing, limits=limits, timeouts={"connect_s": 20}) as plane:
            most, state = await most_held(plane, 4096, greedy_call(), 1)
            assert state["limits"]["buffered_bytes"] > 0
            assert state["buffered_bytes"] <= buffered_bytes
            assert most < 100 * MIB + 1.5 * buffered_bytes + CLIENTS * UNCOUNTED_BYTES_EACH

    allow_descriptors()
    run(scenario(), LIMIT_S)


def test_sockets_here_take_a_small_window():
    """The kernel may not be asked for less than 2 KiB; if that changes, look at the test above."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 16 * KIB
