"""Late binding under any interleaving: nothing lost, nothing twice, nobody waits beside a free slot."""

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.fleet.health import Order
from gateway.fleet.lanes import ModelLimit
from gateway.fleet.places import URGENCIES, QueueSettings
from tests.gateway.fleet.waiting import LimitedFleet, Request

NAMES = ("a", "b", "c")
LENGTH = 6
TIMEOUT_S = 20.0


class LineMachine(RuleBasedStateMachine):
    """
    Requests come, end, leave and are sent once more; slices, limits and time change.

    Slices are equal and policies leave none idle, so whoever waits beside a free slot is a mistake.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fleet = LimitedFleet(*NAMES, policy="least_load")
        self.configure(LENGTH)
        self.requests: list[Request] = []
        self.gone: set[Request] = set()
        self.urgencies: dict[Request, int] = {}
        self.arrived_s: dict[Request, float] = {}
        self.repeated: set[Request] = set()

    # --- what may happen ----------------------------------------------------------------------

    @rule(urgency=st.integers(0, URGENCIES - 1), size=st.integers(0, 50))
    def ask(self, urgency: int, size: int) -> None:
        request = self.fleet.ask(urgency=urgency, size=size)
        self.requests.append(request)
        self.urgencies[request] = urgency
        self.arrived_s[request] = self.fleet.clock()

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.served))
        request.end()
        self.gone.add(request)

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """The slice did not answer; the request is sent once more."""
        request = data.draw(st.sampled_from(self.served))
        tried = [self.fleet[name] for name in request.served]
        request.end()
        members = self.fleet.registry.pool("infer/m").members
        if request in self.repeated or all(member in tried for member in members):
            self.gone.add(request)
            return
        self.repeated.add(request)
        self.fleet.ask_again(request, *tried)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        assert request.place is not None
        request.place.leave()
        request.place = None
        self.gone.add(request)

    @rule(at_once=st.integers(1, 4))
    def limit(self, at_once: int) -> None:
        self.fleet.queues.follow("m", ModelLimit(at_once, batches=True))

    @rule(length=st.integers(1, LENGTH))
    def configure(self, length: int) -> None:
        self.fleet.queues.configure(QueueSettings(length=length, timeout_s=TIMEOUT_S, step_s=1.0))

    @rule(name=st.sampled_from(NAMES), order=st.sampled_from([Order.ENABLED, Order.DRAINED]))
    def order(self, name: str, order: Order) -> None:
        self.fleet.registry.order(self.fleet[name], order, "test")
        self.fleet[name].drag = 1.0  # slow starts are another test's

    @rule(seconds=st.sampled_from([0.001, 0.5, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.fleet.clock.now_s += seconds

    @rule()
    def pump(self) -> None:
        """What was wanted is done; from here to the next change nothing can go on."""
        before = set(self.waiting)
        queue = sorted(before - self.repeated, key=self._rank)
        self.fleet.pump()
        assert not self._could_go(), "somebody waits beside a free slot"
        went = [request for request in queue if request.lane is not None]
        stayed = [request for request in queue if request.place is not None]
        if went and stayed:
            assert max(map(self._rank, went)) <= min(map(self._rank, stayed)), "out of turn"

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def each_request_is_in_one_place(self) -> None:
        for request in self.requests:
            states = [
                request.lane is not None, request.place is not None, bool(request.faults),
                request in self.gone,
            ]  # fmt: skip
            assert sum(states) == 1, (request.served, request.faults, states)
            assert len(request.served) == len(set(request.served)), "to the same slice twice"

    @invariant()
    def counts_are_exact(self) -> None:
        lines = self.fleet.queues.lines.values()
        for name in NAMES:
            member = self.fleet[name]
            here = sum(request.lane.member is member for request in self.served if request.lane)
            assert member.in_flight == here
            assert (
                sum(line.lanes[member].in_flight for line in lines if member in line.lanes) == here
            )
        waiting = self.waiting
        assert self.fleet.queues.waiting == len(waiting)
        assert self.fleet.queues.common.bytes == sum(r.place.bytes for r in waiting if r.place)
        figures = self.fleet.queues.figures
        assert figures.wait.count == figures.ended.get("m served", 0)

    def teardown(self) -> None:
        """All ends well: who waits is served as soon as there is room for all."""
        for name in NAMES:
            self.fleet.registry.order(self.fleet[name], Order.ENABLED, "test")
            self.fleet[name].drag = 1.0
        while self.served or self.waiting:
            for request in self.served:
                request.end()
                self.gone.add(request)
            before = len(self.waiting)
            self.fleet.pump()
            assert len(self.waiting) < before or not before, "somebody waits for ever"
        assert not any(self.fleet[name].in_flight for name in NAMES)
        assert not self.fleet.queues.common.busy
        assert not any(line.groups for line in self.fleet.queues.lines.values())

    # --- helpers ------------------------------------------------------------------------------

    @property
    def served(self) -> list[Request]:
        return [request for request in self.requests if request.lane is not None]

    @property
    def waiting(self) -> list[Request]:
        return [request for request in self.requests if request.place is not None]

    def _rank(self, request: Request) -> tuple[float, int]:
        rank = self.arrived_s[request] + self.urgencies[request]
        return rank, self.requests.index(request) if self._alone(request) else 0

    def _alone(self, request: Request) -> bool:
        """Among those of one urgency the order is that of arrival; equal ranks tie otherwise."""
        return len(set(self.urgencies.values())) == 1

    def _could_go(self) -> bool:
        line = self.fleet.registry.pool("infer/m").line
        members = self.fleet.registry.pool("infer/m").members
        free = [m for m in members if line is not None and line.lane(m).has_room()]
        tried = {request: {self.fleet[name] for name in request.served} for request in self.waiting}
        return any(member not in tried[request] for request in self.waiting for member in free)


TestLine = LineMachine.TestCase
TestLine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
