"""Queuer: an Exchange that waits in its model's line while every slice has as much as it should."""

from time import monotonic

from gateway.errors import NO_SLICE, Fault
from gateway.fleet.lanes import Lane
from gateway.fleet.line import anybody
from gateway.fleet.outcomes import REJECTED
from gateway.fleet.places import Place
from gateway.fleet.pools import SlicePool
from gateway.fleet.slices import Slice
from gateway.relay.http1.exchange import Exchange


class Queuer(Exchange):
    """
    A gateway.fleet.places.Waiter.

    What it has received is kept meanwhile, and no more is read than may be sent once more. Its time
    in the line is the line's affair: it has no deadline of its own, but that for its body to come.
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
        else:
            got = line.enter(self, pool, self.request.urgency, self.kept_bytes, 0.0)
            if isinstance(got, Fault):
                self.fail(got)
            else:
                self._wait(got)

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

    def _wait(self, place: Place) -> None:
        self.place = place
        self.deadline_s = 0.0
        self.update_reading()
