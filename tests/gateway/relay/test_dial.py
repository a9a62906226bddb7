"""Opening connections to slices; where that fails, whose fault it is."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from contract.slice_spec import Endpoint
from gateway.fleet.outcomes import CONNECT_FAILED, REJECTED
from gateway.relay.dial import Dialer, loopback_socket

THERE = Endpoint("192.0.2.1", 1)  # never asked
TIMEOUT_S = 0.05


async def failure(monkeypatch: pytest.MonkeyPatch, connect: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what is said of a connection that `connect` does not open."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "create_connection", connect)
    told: asyncio.Future[tuple[Any, ...]] = loop.create_future()
    dialer = Dialer(loop, TIMEOUT_S)
    dialer.dial(THERE, asyncio.Protocol(), lambda *what: told.set_result(what))
    try:
        return await told
    finally:
        await dialer.stop()


async def refused_with(number: int) -> None:
    raise OSError(number, "no")


@pytest.mark.parametrize(
    ("number", "refused", "outcome"),
    [
        (errno.ECONNREFUSED, True, CONNECT_FAILED),
        (errno.EHOSTUNREACH, False, CONNECT_FAILED),
        (errno.EMFILE, False, REJECTED),
        (errno.EADDRNOTAVAIL, False, REJECTED),
    ],
)
async def test_what_we_lack_ourselves_says_nothing_of_the_slice(
    monkeypatch: pytest.MonkeyPatch, number: int, refused: bool, outcome: int
) -> None:
    """Out of descriptors, each attempt fails at whatever slice: none of them must be ejected."""
    said = await failure(monkeypatch, lambda *_: refused_with(number))
    assert said[1:] == (refused, outcome)


async def test_a_connection_that_is_not_there_in_time_is_the_slices_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = await failure(monkeypatch, lambda *_: asyncio.sleep(60))
    assert said[1:] == (False, CONNECT_FAILED)


async def test_a_time_out_of_a_loop_that_stood_still_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its timers come before its sockets: the connection may be there."""

    async def connect(*_: object) -> None:
        time.sleep(TIMEOUT_S + 0.2)  # noqa: ASYNC251 (that it blocks is the point)
        await asyncio.sleep(60)

    said = await failure(monkeypatch, connect)
    assert said[1:] == (False, REJECTED)


def congestion_control(sock) -> str:
    found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return found.rstrip(b"\0").decode()


class Told(asyncio.Protocol):
    def __init__(self, told: asyncio.Future) -> None:
        self.told = told

    def connection_made(self, transport) -> None:
        sock = transport.get_extra_info("socket")
        nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        self.told.set_result((congestion_control(sock), bool(nodelay)))
        transport.close()


def dialled(host: str, family: int = socket.AF_INET):
    """Open a connection to a listener at `host`; return what its protocol saw."""

    async def dial():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, host, 0, family=family)
        dialer, told = Dialer(loop, 5.0), loop.create_future()
        port = server.sockets[0].getsockname()[1]
        dialer.dial(Endpoint(host, port), Told(told), lambda *why: told.set_exception(OSError(why)))
        try:
            return await told
        finally:
            server.close()
            await dialer.stop()

    return uvloop.run(dial())


@pytest.mark.parametrize(
    ("host", "family"),
    [
        pytest.param("127.0.0.1", socket.AF_INET, id="IPv4"),
        pytest.param("::1", socket.AF_INET6, id="IPv6"),
    ],
)
def test_what_goes_to_a_slice_of_this_machine_is_not_paced(host, family):
    assert dialled(host, family) == ("reno", True)


def test_a_host_that_is_a_name_is_left_as_the_machine_has_it():
    with socket.socket() as sock:
        default = congestion_control(sock)
    assert dialled("localhost") == (default, True)


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1", "fe80::1", "slice-0.example"])
def test_only_loopback_is_set_otherwise(host):
    assert loopback_socket(host) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_nobody_listening_is_told_as_refused_in_words(host):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        async def dial():
            loop = asyncio.get_running_loop()
            dialer, told = Dialer(loop, 5.0), loop.create_future()
            dialer.dial(Endpoint(host, port), Told(told), lambda *why: told.set_result(why))
            return await told

        reason, refused, outcome = uvloop.run(dial())
    assert (refused, outcome) == (True, CONNECT_FAILED)
    assert reason.startswith(f"{host}:{port}: ")
    assert host == "localhost" or reason.endswith(os.strerror(errno.ECONNREFUSED))
