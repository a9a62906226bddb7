"""What every connection of the data plane shares."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from gateway.fleet.outcomes import TIMEOUT
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.forwarding_rules import ForwardingRules
from gateway.hedging_rules import HedgingRules
from gateway.limits import REPLAY_ANY, Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.composed import ComposedCalls, Composer
from gateway.relay.deadlines import Deadlines
from gateway.relay.dial import Dialer
from gateway.relay.flow import Flusher
from gateway.relay.forwarding import Forwarding
from gateway.relay.hedges import Hedges
from gateway.relay.quarantine import Quarantine
from gateway.relay.replays import Replays
from gateway.relay.slabs import Slabs

AGAIN_S: Final = 0.5
"""Between two looks whether what waits for a slice that hangs can be sent elsewhere."""


class Client(Protocol):
    """A client's connection, of either protocol."""

    def retire(self) -> None:
        """
        Close after the next answer that can say so; called again and again until then.

        Unlike with drain() no request is lost that the client has sent in good faith.
        """

    def drain(self) -> None:
        """Take no new request; close once what is in flight has been answered."""

    def abort(self) -> None:
        """Close now."""


class Relay(Protocol):
    """The slices' side of one protocol."""

    def slice_down(self, member: Slice) -> None:
        """
        Send elsewhere what `member` was given and has not begun to answer.

        The slice was up, and has stopped answering its checks: what waits for it could wait for
        ever. Called when that is found, and again every AGAIN_S for as long as it lasts, since
        somebody may become able to take what could not be moved before; from the event loop and
        never from within a relay's own callback, in the order in which the relays were added. By
        then the registry has published, so pick() no longer returns the slice except as the last
        resort, and pick_other(tried) does not when it has been tried. The connections to it are
        open: whoever's answer has begun may go on. Not called for a slice whose port is closed or
        which says that it is not live: the first breaks its connections by itself, the second
        finishes what it has.
        """

    def hedge_late(self, now_s: float) -> None:
        """
        Send inferences that are late to a second slice as well; see gateway.relay.hedges.

        Args:
            now_s: By time.monotonic(), as requests note when they were begun.
        """


class RelayCore:
    """
    Shared state of one process's data plane.

    Attributes:
        leaving: The gateway is about to stop: it says that it is not ready.
        draining: It is stopping: clients are told to go elsewhere.
        clients: Open client connections of both protocols.
        buffered_bytes: Body bytes held for clients and slices that are slower than their peer, or
            for replay.
        slabs: Where large bodies are received.
        forwarding: What slices are told about where a request came from.
        replays: Which requests go to a second slice.
        quarantine: What is refused because it breaks slices.
        suspects: Of the quarantine, by size: empty while nothing is suspected.
        hedges: Which requests go to a second slice because they are late.
        relays: Told of slices that hang, and asked for what is late.
        deadline_s: When they are told again; 0 while no slice hangs.
        composer: Answers composed calls; without one a slice answers them for itself.
        composed: Those under way.
    """

    __slots__ = (
        "_check_soon",
        "_ended",
        "_hung",
        "buffered_bytes",
        "clients",
        "composed",
        "composer",
        "counters",
        "deadline_s",
        "deadlines",
        "dialer",
        "draining",
        "flusher",
        "forwarding",
        "hedges",
        "leaving",
        "limits",
        "loop",
        "quarantine",
        "registry",
        "relays",
        "replays",
        "slabs",
        "suspects",
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
        forwarding: ForwardingRules | None = None,
        replay: str = REPLAY_ANY,
        hedging: HedgingRules | None = None,
    ) -> None:
        self.loop = loop
        self.registry = registry
        self.counters = counters
        self.limits = limits
        self.timeouts = timeouts
        self.deadlines = Deadlines(loop)
        self.dialer = Dialer(loop, timeouts.connect_s)
        self.flusher = Flusher(loop)
        self.forwarding = Forwarding(forwarding or ForwardingRules())
        # A quarter, for a slab is held as a whole for the sake of a few bytes. Beyond it, reads are
        # copied.
        self.slabs = Slabs(limits.buffered_bytes // 4)
        self.clients: set[Client] = set()
        self.leaving = False
        self.draining = False
        self.buffered_bytes = 0
        self.quarantine = Quarantine(limits, timeouts, counters)
        self.suspects = self.quarantine.by_size
        self.replays = Replays(
            limits, replay, lambda: counters.http_requests + counters.grpc_calls,
            lambda: self.in_flight, self._each_second,
        )  # fmt: skip
        self.deadlines.add(self.replays)
        self.relays: list[Relay] = []
        self.hedges = Hedges(loop, registry, counters, self.relays)
        self.hedges.configure(hedging or HedgingRules())
        self.composer: Composer | None = None
        self.composed = ComposedCalls(loop)
        self._check_soon = check_soon
        self._ended = registry.attempt_ended
        self._hung: list[Slice] = []  # to be told of in the next turn
        self.deadline_s = 0.0
        self.deadlines.add(self)
        registry.listeners.append(self)

    def configure(
        self,
        limits: Limits,
        timeouts: Timeouts,
        replay: str = REPLAY_ANY,
        hedging: HedgingRules | None = None,
    ) -> None:
        """
        Take over what a reload has changed.

        HTTP/1.1 follows with the next request; a connection of HTTP/2 keeps the limits that it has
        told its peer. A timeout that runs already ends as it was begun.
        """
        self.limits = limits
        self.timeouts = timeouts
        self.dialer.configure(timeouts.connect_s)
        self.slabs.configure(limits.buffered_bytes // 4)
        self.quarantine.configure(limits, timeouts)
        self.replays.configure(limits, replay)
        self.hedges.configure(hedging or HedgingRules())

    def slice_refused(self, member: Slice, reason: str) -> None:
        """
        A connection to the slice could not be opened: nobody is there, so nobody is sent.

        Said of the connection, once; of each request that waited for it, see attempt_ended().
        """
        self.registry.condemn(member, reason)
        self._check_soon(member)

    def slice_lost(self, member: Slice) -> None:
        """The slice broke a connection that it owed an answer on: it is looked after at once."""
        self._check_soon(member)

    def attempt_ended(self, member: Slice, key: str, outcome: int) -> None:
        """
        Say how one attempt at `member` ended; once for each `member.end()`.

        Costs 60 ns for a success of a slice that does not fail. Failures charge the slice, and may
        eject it before this returns.

        Args:
            member: The slice the request was given to.
            key: Of the pool the request was picked from, such as `infer/M`.
            outcome: See gateway.fleet.outcomes.
        """
        if outcome or member.tallies:
            self._ended(member, key, outcome)
            if outcome == TIMEOUT:
                self._check_soon(member)

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """A SliceListener: tells the relays of slices that hang; see Relay.slice_down."""
        self._look_at_suspects()
        if event == "health" and member.health.hung:
            if not self._hung:
                self.loop.call_soon(self._tell_relays)
            if member not in self._hung:
                self._hung.append(member)

    def _tell_relays(self) -> None:
        hung, self._hung = self._hung, []
        for member in hung:
            for relay in self.relays:
                relay.slice_down(member)
        self.deadline_s = self.loop.time() + AGAIN_S

    def on_deadline(self, now_s: float) -> None:
        """Tell of slices that still hang."""
        self._hung = [member for member in self.registry.slices.values() if member.health.hung]
        self.deadline_s = 0.0
        if self._hung:
            self._tell_relays()

    def _each_second(self, now_s: float) -> None:
        if self.suspects:
            self._look_at_suspects()
            self.quarantine.sweep(now_s)

    def _look_at_suspects(self) -> None:
        if self.suspects and not self.registry.everywhere.members:
            self.quarantine.none_left(self.deadlines.now_s)

    @property
    def in_flight(self) -> int:
        """Requests given to slices and not yet answered, over all slices still configured."""
        return sum(member.in_flight for member in self.registry.slices.values())
