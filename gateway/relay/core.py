"""What every connection of the data plane shares."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.deadlines import Deadlines
from gateway.relay.dial import Dialer
from gateway.relay.flow import Flusher
from gateway.relay.slabs import Slabs


class Client(Protocol):
    """A client's connection, of either protocol."""

    def drain(self) -> None:
        """Take no new request; close once what is in flight has been answered."""

    def abort(self) -> None:
        """Close now."""


class RelayCore:
    """
    Shared state of one process's data plane.

    Attributes:
        draining: The gateway is stopping: clients are told to go elsewhere.
        clients: Open client connections of both protocols.
        buffered_bytes: Body bytes held for clients and slices that are slower than their peer, or
            for replay.
        slabs: Where large bodies are received.
    """

    __slots__ = (
        "_check_soon",
        "buffered_bytes",
        "clients",
        "counters",
        "deadlines",
        "dialer",
        "draining",
        "flusher",
        "limits",
        "loop",
        "registry",
        "slabs",
        "timeouts",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: SliceRegistry,
        counters: Counters,
        limits: Limits,
        timeouts: Timeouts,
        check_soon: Callable[[Slice], None],
    ) -> None:
        self.loop = loop
        self.registry = registry
        self.counters = counters
        self.limits = limits
        self.timeouts = timeouts
        self.deadlines = Deadlines(loop)
        self.dialer = Dialer(loop, timeouts.connect_s)
        self.flusher = Flusher(loop)
        self.slabs = Slabs(limits.buffered_bytes)
        self.clients: set[Client] = set()
        self.draining = False
        self.buffered_bytes = 0
        self._check_soon = check_soon

    def slice_refused(self, member: Slice, reason: str) -> None:
        """A connection to the slice could not be opened: nobody is there, so nobody is sent."""
        member.failed()
        self.registry.condemn(member, reason)
        self._check_soon(member)

    def slice_lost(self, member: Slice) -> None:
        """The slice broke a connection that it owed an answer on."""
        member.failed()
        self._check_soon(member)

    @property
    def in_flight(self) -> int:
        """Requests given to slices and not yet answered, over all slices still configured."""
        return sum(member.in_flight for member in self.registry.slices.values())
