"""The connections to slices: idle ones to take, how many there may be, and who waits for one."""

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, cast

from gateway.fleet.outcomes import CONNECT_FAILED, REJECTED
from gateway.fleet.slices import Slice
from gateway.relay.core import RelayCore
from gateway.relay.http1.shared import Shared
from gateway.relay.http1.upstream import Upstream
from gateway.relay.slabs import Slabs

if TYPE_CHECKING:
    from gateway.relay.http1.exchange import Exchange


class Stock:
    """
    The connections to one slice.

    Attributes:
        idle: Connections without a request; the one used last is on top, so that a surplus grows
            old at the bottom and is closed.
        open: Connections there are, those being opened included.
        made: Those that are open, idle or busy.
        server: Where they lead to: the address, and whose it is.
        queued: Somebody waits, or the stock is retired: a connection that has finished must come
            through `checkin()` and may not simply be put on `idle`.
    """

    __slots__ = (
        "_dialing",
        "_shared",
        "idle",
        "made",
        "member",
        "open",
        "queued",
        "retired",
        "server",
        "waiting",
    )

    def __init__(self, shared: Shared, member: Slice) -> None:
        self._shared = shared
        self.member = member
        self.server = (member.spec.http, member.spec.mig_uuid)
        self.idle: list[Upstream] = []
        self.open = 0
        self.made: set[Upstream] = set()
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        self.queued = False
        self.retired = False
        self._dialing = 0

    def wait(self, client: "Exchange", first: bool) -> bool:
        """
        Have `client.on_upstream()` or `client.on_dial_failed()` called later.

        Args:
            first: Ahead of the others, because it has waited before.

        Returns:
            False when too many wait already.
        """
        if len(self.waiting) >= self._shared.core.limits.waiting_per_slice:
            return False
        self.waiting[client] = None
        if first:
            self.waiting.move_to_end(client, last=False)
        self.queued = True
        self._dial()
        return True

    def give_up(self, client: "Exchange") -> None:
        """`client` no longer waits."""
        self.waiting.pop(client, None)
        self.queued = self.retired or bool(self.waiting)

    def checkin(self, upstream: Upstream) -> None:
        """Take back a connection that can be used again."""
        if self.retired:
            upstream.close()
        elif self.waiting:
            self._next_waiting().on_upstream(upstream)
        else:
            self.idle.append(upstream)

    def connected(self, upstream: Upstream) -> None:
        """A connection that this stock opened is there."""
        self._dialing -= 1
        self.made.add(upstream)
        upstream.rest()
        self.checkin(upstream)

    def lost(self, upstream: Upstream) -> None:
        """A connection has closed, for whatever reason."""
        self.open -= 1
        self.made.discard(upstream)
        self.forget(upstream)
        if self.waiting:
            self._dial()

    def forget(self, upstream: Upstream) -> None:
        """A connection is being closed: nobody may take it any more."""
        if upstream in self.idle:
            self.idle.remove(upstream)

    def make_room(self) -> None:
        """Close the oldest idle connection if a new one would be one too many."""
        if self.open >= self._shared.core.limits.connections_per_slice and self.idle:
            self.idle.pop(0).close()

    def retire(self) -> None:
        """Close idle connections now, busy ones after their answer; send who waits elsewhere."""
        self.retired = self.queued = True
        idle, self.idle = self.idle, []
        for upstream in idle:
            upstream.close()
        while self.waiting:
            self._next_waiting().on_dial_failed(REJECTED)

    def _next_waiting(self) -> "Exchange":
        client, _ = self.waiting.popitem(last=False)
        self.queued = self.retired or bool(self.waiting)
        return client

    def _dial(self) -> None:
        """Open connections for those who wait, as far as the limit allows."""
        core = self._shared.core
        while (
            self._dialing < len(self.waiting)
            and self.open < core.limits.connections_per_slice
            and not self.retired
        ):
            self._dialing += 1
            self.open += 1
            upstream = Upstream(self._shared, self)
            protocol = cast("asyncio.BaseProtocol", upstream)
            failed = partial(self._dial_failed, upstream)
            core.dialer.dial(self.member.spec.http, protocol, failed)

    def _dial_failed(
        self, upstream: Upstream, reason: str, refused: bool, outcome: int = CONNECT_FAILED
    ) -> None:
        """Nobody answers: all who wait go elsewhere. Too slow: the one who waited longest does."""
        if upstream.transport is not None:  # made, and taken back by the connect timeout
            upstream.connection_lost(None)
        else:
            self._dialing -= 1
            self.open -= 1
        if refused:
            # Taken out first: whoever hears that the slice is down retires this stock, which would
            # say of them that they were only turned away.
            clients = list(self.waiting)
            self.waiting.clear()
            self._shared.core.slice_refused(self.member, reason)
        else:
            self._shared.core.slice_lost(self.member)
            clients = [self.waiting.popitem(last=False)[0]] if self.waiting else []
        self.queued = self.retired or bool(self.waiting)
        for client in clients:
            client.on_dial_failed(outcome)


class Stocks:
    """The stock of each slice."""

    __slots__ = ("by_slice", "shared")

    def __init__(self, core: RelayCore, slabs: Slabs) -> None:
        self.by_slice: dict[Slice, Stock] = {}
        self.shared = Shared(core, slabs, self)

    def stock(self, member: Slice) -> Stock:
        """Return the stock of `member`."""
        stock = self.by_slice.get(member)
        if stock is None:
            stock = self.by_slice[member] = Stock(self.shared, member)
        return stock

    def close_slice(self, member: Slice) -> None:
        """Close the connections to `member`, those at work after their answer."""
        stock = self.by_slice.pop(member, None)
        if stock is not None:
            stock.retire()

    def close_moved(self, member: Slice) -> None:
        """Close the connections to `member` if another server has its name now."""
        stock = self.by_slice.get(member)
        if stock is not None and stock.server != (member.spec.http, member.spec.mig_uuid):
            self.close_slice(member)

    def slice_down(self, member: Slice) -> None:
        """A Relay: the slice hangs, so what it was given and has not begun to answer moves on."""
        stock = self.by_slice.get(member)
        if stock is None:
            return
        idle, stock.idle = stock.idle, []
        for upstream in idle:
            upstream.close()
        for client in [*stock.waiting, *(c for u in list(stock.made) if (c := u.client))]:
            client.slice_hangs(member)

    def hedge_late(self, now_s: float) -> None:
        """A Relay: what was given to a slice and is late goes to another as well."""
        begun_s = now_s - self.shared.core.hedges.least_s
        for stock in list(self.by_slice.values()):
            if stock.member.in_flight:
                clients = [*stock.waiting, *[c for u in stock.made if (c := u.client) is not None]]
                for client in clients:
                    if client.began_s <= begun_s:
                        client.hedge_if_late(now_s)

    def close(self) -> None:
        """Close the connections to every slice."""
        for member in list(self.by_slice):
            self.close_slice(member)
