"""Doors: which worker accepts at which, and what is taken over from another gateway."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint
from gateway.sockets import bind, close_all
from gateway.workers.doors import Doors, divided_among, flat, opened
from tests.gateway.workers.running import free_ports


@given(st.sets(st.integers(0, 63), max_size=16), st.integers(1, 64))
def test_every_door_is_looked_after_and_every_worker_has_one(alive: set[int], doors: int) -> None:
    found = divided_among(sorted(alive), doors)
    assert set(found) == alive
    assert all(found.values())
    if alive:
        assert set().union(*found.values()) == set(range(doors))


@given(st.integers(1, 16), st.integers(0, 15))
def test_who_stays_keeps_its_door_when_another_leaves(count: int, gone: int) -> None:
    staying = [worker for worker in range(count) if worker != gone % count]
    for worker, doors in divided_among(staying, count).items():
        assert worker in doors


def test_shares_of_a_port_are_spread_over_and_closed_to_others() -> None:
    port = free_ports(1)[0]
    (shares,) = bind(Endpoint("127.0.0.1", port), 3)
    try:
        for sock in shares:
            sock.listen(64)
        with pytest.raises(OSError, match="another program does"):
            bind(Endpoint("127.0.0.1", port))
        with pytest.raises(OSError, match="another program does"):
            bind(Endpoint("127.0.0.1", port), 3)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        accepted = [0, 0, 0]
        for i, sock in enumerate(shares):
            try:
                while True:
                    sock.accept()[0].close()
                    accepted[i] += 1
            except BlockingIOError:
                pass
        assert sum(accepted) == 30
        assert sum(map(bool, accepted)) > 1
        close_all(clients)
    finally:
        close_all(shares)


def test_inherited_sockets_are_used_and_others_are_bound() -> None:
    one, two = (Endpoint("127.0.0.1", port) for port in free_ports(2))
    first = Doors.open([one], 2, {})
    numbers = {
        key: [[os.dup(number) for number in shares] for shares in addresses]
        for key, addresses in first.numbers.items()
    }
    first.close()
    second = Doors.open([one, two], 4, opened(numbers))
    assert second.count == 4
    names = [sock.getsockname()[1] for sock in second.sockets(range(4))]
    assert sorted(names) == sorted([one.port] * 2 + [two.port] * 4)
    assert flat(second.numbers)[:2] == flat(numbers)
    second.close()


def test_a_port_that_cannot_be_had_leaves_nothing_open() -> None:
    port, taken = free_ports(2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        with pytest.raises(OSError, match=f"127.0.0.1:{taken}: another program does"):
            Doors.open([Endpoint("127.0.0.1", port), Endpoint("127.0.0.1", taken)], 2, {})
    for sockets in bind(Endpoint("127.0.0.1", port)):
        close_all(sockets)
