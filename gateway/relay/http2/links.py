"""The HTTP/2 connections to each slice: one, and more when its streams run out."""

import asyncio
from typing import cast

from gateway import errors
from gateway.fleet.slices import Slice
from gateway.relay.core import RelayCore
from gateway.relay.http2.call import Call
from gateway.relay.http2.hedging import prepare
from gateway.relay.http2.replaying import INFER
from gateway.relay.http2.upstream import Upstream
from gateway.relay.slabs import Slabs


class SliceLinks:
    """The connections to one slice."""

    __slots__ = ("_core", "_member", "_slabs", "connections", "server")

    def __init__(self, core: RelayCore, slabs: Slabs, member: Slice) -> None:
        self._core = core
        self._slabs = slabs
        self._member = member
        self.server = (member.spec.grpc, member.spec.mig_uuid)  # where the connections lead to
        self.connections: list[Upstream] = []

    def open(self, call: Call) -> None:
        """Start `call` on a connection with room, opening one where none has."""
        for connection in self.connections:
            if connection.has_room:
                connection.begin(call)
                return
        core = self._core
        if len(self.connections) >= core.limits.grpc_connections_per_slice:
            core.counters.limit("grpc_connections_per_slice")
            call.fail(errors.OVERLOADED)
            return
        connection = Upstream(core, self._slabs, self._member, self)
        self.connections.append(connection)
        connection.begin(call)
        protocol = cast("asyncio.BaseProtocol", connection)
        core.dialer.dial(self._member.spec.grpc, protocol, connection.dial_failed)

    def forget(self, connection: Upstream) -> None:
        if connection in self.connections:
            self.connections.remove(connection)

    def move_calls(self) -> None:
        """The slice hangs: what it has not begun to answer goes elsewhere, if it can."""
        for connection in list(self.connections):
            connection.move_calls()

    def late_calls(self, begun_s: float) -> list[Call]:
        """Return calls that were begun before `begun_s` and are not answered."""
        return [
            stream.call
            for connection in self.connections
            for stream in connection.streams.values()
            if not stream.call.begun and stream.call.started_s <= begun_s
        ]

    def close(self) -> None:
        """Take no new call on what is open; each connection closes after its last."""
        for connection in list(self.connections):
            connection.retire()


class Links:
    """The connections to all slices."""

    __slots__ = ("_core", "_slices", "slabs")

    def __init__(self, core: RelayCore) -> None:
        self._core = core
        self.slabs = core.slabs
        self._slices: dict[Slice, SliceLinks] = {}

    def open(self, member: Slice, call: Call) -> None:
        links = self._slices.get(member)
        if links is None:
            links = self._slices[member] = SliceLinks(self._core, self.slabs, member)
        links.open(call)

    def close_slice(self, member: Slice) -> None:
        """The slice is out of service or has moved: nothing new goes over what is open."""
        links = self._slices.pop(member, None)
        if links is not None:
            links.close()

    def close_moved(self, member: Slice) -> None:
        """Close the connections to `member` if another server has its name now."""
        links = self._slices.get(member)
        if links is not None and links.server != (member.spec.grpc, member.spec.mig_uuid):
            self.close_slice(member)

    def slice_down(self, member: Slice) -> None:
        """See gateway.relay.core.Relay; what cannot be moved waits on, within its timeouts."""
        links = self._slices.get(member)
        if links is not None:
            links.move_calls()

    def hedge_late(self, now_s: float) -> None:
        """A Relay: what was given to a slice and is late goes to another as well."""
        begun_s = now_s - self._core.hedges.least_s
        for member, links in list(self._slices.items()):
            if member.in_flight:
                for call in links.late_calls(begun_s):
                    self._hedge_if_late(call, now_s)

    def _hedge_if_late(self, call: Call, now_s: float) -> None:
        hedges, target = self._core.hedges, call.target
        if target is None or call.peer is None or not _may_hedge(call):
            return
        if now_s - max(call.started_s, call.whole_s) < hedges.after_s(call.key):
            return
        found = hedges.second(call.key, target)
        if found is not None:
            hedge = Call(call.client, call.id, call.request)
            prepare(hedge, call)
            hedge.give_to(found[0], errors.NO_SLICE, found[1])

    def close(self) -> None:
        for member in list(self._slices):
            self.close_slice(member)


def _may_hedge(call: Call) -> bool:
    """Say whether two slices may be given `call`: a whole inference that only one has had so far."""
    request = call.request
    return (
        request.is_grpc
        and request.path == INFER
        and call.ended_in
        and bool(call.kept)
        and not call.tried
        and call.rival is None
        and call.sticky is None
        and call.suspect is None
    )
