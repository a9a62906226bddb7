"""Connections that cannot be opened: whose fault that is."""

import asyncio
import errno
import time
from collections.abc import Callable
from typing import Any

import pytest

from contract.slice_spec import Endpoint
from gateway.fleet.outcomes import CONNECT_FAILED, REJECTED
from gateway.relay.dial import Dialer

THERE = Endpoint("127.0.0.1", 1)
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
