"""Doors: the sockets clients connect to, owned by the main process whoever accepts from them."""

import socket
from collections.abc import Iterable, Mapping, Sequence

from contract.slice_spec import Endpoint
from gateway.sockets import bind, close_all

Shares = list[list[socket.socket]]
"""For each address of one endpoint, its shares: sockets among which the kernel spreads clients."""


class Doors:
    """
    The listening sockets of all endpoints; door i is the i-th share of each address.

    Attributes:
        count: How many doors there are; an address with fewer shares has one behind several.
    """

    def __init__(self, by_endpoint: dict[str, Shares]) -> None:
        self._by_endpoint = by_endpoint
        addresses = self._addresses()
        self.count = max((len(shares) for shares in addresses), default=1)

    @classmethod
    def open(
        cls, endpoints: Sequence[Endpoint], shares: int, taken_over: Mapping[str, Shares]
    ) -> "Doors":
        """
        Return the doors of `endpoints`: taken over where a gateway before us had them, else bound.

        Raises:
            OSError: One of them cannot be had; its message says which and why. None is kept.
        """
        by_endpoint: dict[str, Shares] = {}
        try:
            for endpoint in endpoints:
                key = str(endpoint)
                by_endpoint[key] = taken_over.get(key) or bind(endpoint, shares)
        except OSError:
            cls(by_endpoint).close()
            raise
        return cls(by_endpoint)

    def sockets(self, doors: Iterable[int]) -> list[socket.socket]:
        """Return the sockets behind these doors, each once."""
        indexes = sorted(doors)
        found = {
            shares[door % len(shares)]: None for shares in self._addresses() for door in indexes
        }
        return list(found)

    @property
    def numbers(self) -> dict[str, list[list[int]]]:
        """The file descriptors by endpoint, for a process that inherits them."""
        return {
            key: [[sock.fileno() for sock in shares] for shares in addresses]
            for key, addresses in self._by_endpoint.items()
        }

    def close(self) -> None:
        """Close our hold on all of them."""
        for shares in self._addresses():
            close_all(shares)

    def _addresses(self) -> Shares:
        return [shares for addresses in self._by_endpoint.values() for shares in addresses]


def opened(numbers: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Shares]:
    """Return inherited file descriptors as sockets; processes of ours inherit them only if told."""
    found: dict[str, Shares] = {}
    for key, addresses in numbers.items():
        found[key] = [[_socket(number) for number in shares] for shares in addresses]
    return found


def flat(numbers: Mapping[str, Sequence[Sequence[int]]]) -> list[int]:
    """Return all file descriptors in `numbers`."""
    return [number for addresses in numbers.values() for shares in addresses for number in shares]


def divided_among(workers: Sequence[int], doors: int) -> dict[int, set[int]]:
    """
    Return at which doors each of `workers` (indexes from 0) accepts.

    Worker i has door i; with fewer doors than workers some share one, and a door whose worker is
    away is looked after by another, so that no client ever knocks in vain.
    """
    found = {worker: {worker % doors} for worker in workers}
    kept = set().union(*found.values())
    for door in range(doors) if found else ():
        if door not in kept:
            found[workers[door % len(workers)]].add(door)
    return found


def _socket(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock
