"""
What an attacker can make the gateway hold. The bounds are those of docs/operating.md, "Memory".

Measured from outside, on a process of its own, over real sockets.
"""

import asyncio
import socket
from typing import Any

import pytest

from gateway.limits import KIB, MIB
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


async def send_and_never_read(plane: Plane, receive_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    sock = plane.socket(receive_bytes)
    try:
        for _ in range(3):
            await loop.sock_sendall(sock, GREEDY)
    except ConnectionError:
        pass  # cut off


async def most_held(plane: Plane, receive_bytes: int) -> tuple[int, dict[str, Any]]:
    """
    Let CLIENTS send until nothing moves any more.

    Returns:
        The most resident memory seen meanwhile, in bytes, and the data plane's last state.
    """
    most, still, before = 0, 0, None
    async with asyncio.TaskGroup() as group:
        clients = [
            group.create_task(send_and_never_read(plane, receive_bytes)) for _ in range(CLIENTS)
        ]
        while still < 25:  # half a second
            state = await plane.state()
            most = max(most, plane.rss_bytes)
            now = (state["clients"], state["in_flight"], state["slab_bytes"])
            still = still + 1 if now == before else 0
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


def test_sockets_here_take_a_small_window():
    """The kernel may not be asked for less than 2 KiB; if that changes, look at the test above."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 16 * KIB
