"""Queuer: an Exchange that waits in its model's line while every slice has as much as it should."""

from time import monotonic

from gateway.errors import NO_SLICE, REQUEST_TIMEOUT, Fault
from gateway.fleet.lanes import HASTE_S, SLOW_S, Lane
from gateway.fleet.line import anybody
from gateway.fleet.outcomes import REJECTED
from gateway.fleet.places import Place
from gateway.fleet.pools import SlicePool
from gateway.fleet.slices import Slice
from gateway.relay.http1.exchange import Exchange


class Queuer(Exchange):
    """
    A gateway.fleet.places.Waiter.

    Only whole requests are in the line, and those of which there is as much as may be kept: one that
    comes slowly is before nobody. Its time in the line is the line's affair: it has no deadline of its
    own.
    """

    __slots__ = ()

    def bind(self) -> None:
        assert self.request is not None, "bind() without a request"
        pool = self.shared.core.registry.pool(self.request.route.key)
        line = pool.line
        if line is None or pool.sequences is not None:
            super().bind()
            return
        lane = line.admit(pool)
        if lane is not None:
            self.go_to(lane.member, lane)
        elif not anybody(pool, ()):
            self.fail(NO_SLICE)
        elif self.body_left and self.kept_bytes <= self.shared.core.limits.replay_bytes:
            self.wait_for_more(self.shared.core.limits.replay_bytes)
        else:
            got = line.enter(self, pool, self.request.urgency, self.kept_bytes, 0.0)
            if isinstance(got, Fault):
                self.fail(got)
            else:
                self._wait(got)

    @property
    def _others_wait(self) -> bool:
        assert self.request is not None, "nobody asks for anything"
        line = self.shared.core.registry.pool(self.request.route.key).line
        return line is not None and line.waiting > 0

    def await_body(self) -> None:
        """More of the body is to come: who takes long for it does not count on its slice meanwhile."""
        idle_s, deadlines = self.shared.core.timeouts.body_idle_s, self.shared.deadlines
        if self.lane is not None:
            held_s = deadlines.now_s - self.lane_s
            if held_s < HASTE_S or (held_s < SLOW_S and not self._others_wait):
                self.deadline_s = deadlines.after(min(HASTE_S, idle_s or HASTE_S))
                return
            self.parked, self.lane = self.lane, None
            self.parked.end()
        self.deadline_s = deadlines.after(idle_s)

    def body_late(self) -> None:
        """Nothing has come for as long as await_body() allows."""
        if self.lane is not None:
            self.await_body()
        else:
            self.fail(REQUEST_TIMEOUT)

    def body_came(self) -> None:
        """More of the body has come; once it is whole the slice begins with it."""
        if self.parked is not None and not self.body_left:
            self.lane, self.parked = self.parked, None
            self.lane.begin()

    def on_turn(self, lane: Lane) -> None:
        self.place = None
        # A slice's latency is its own: what went before says nothing of it.
        self.began_s = monotonic()
        self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.response_s)
        self.go_to(lane.member, lane)

    def on_refused(self, fault: Fault) -> None:
        self.place = None
        self.fail(fault)

    def let_go(self, outcome: int = REJECTED) -> None:
        place, self.place = self.place, None
        if place is not None:
            place.leave()
        super().let_go(outcome)

    def go_elsewhere(self, pool: SlicePool, tried: tuple[Slice, ...]) -> None:
        """Go to a slice of `pool` that is not in `tried`, before all that wait; there is one."""
        line = pool.line
        if line is None:
            other = pool.pick_other(tried)
            assert other is not None, "nobody is left"
            self.go_to(other)
            return
        lane = line.choose(pool, tried, 1, 0.0)
        if lane is not None:
            self.go_to(lane.member, lane)
        else:
            self._wait(line.enter_again(self, pool, tried, self.kept_bytes))

    def wait_for_more(self, enough_bytes: int) -> None:
        """Let the body come before anything else is done, or more than `enough_bytes` of it."""
        raise NotImplementedError

    def _wait(self, place: Place) -> None:
        self.place = place
        self.deadline_s = 0.0
        self.update_reading()
