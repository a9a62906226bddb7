"""Requests that wait, as a relay would have them, and a fleet with limits."""

from gateway.errors import NO_SLICE, Fault
from gateway.fleet.lanes import Lane, ModelLimit
from gateway.fleet.line import anybody
from gateway.fleet.places import URGENCY_DEFAULT, Place, QueueSettings
from gateway.fleet.slices import Slice
from tests.gateway.making import Fleet, live


class Request:
    """
    A request: it is given to a slice, waits, or has been refused.

    Attributes:
        served: Names of the slices it was given to, over all its attempts.
        faults: What it was refused with.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lane: Lane | None = None
        self.place: Place | None = None
        self.served: list[str] = []
        self.faults: list[str] = []
        self.retry_after_s = 0

    def on_turn(self, lane: Lane) -> None:
        assert self.lane is None, "given to two slices"
        self.place = None
        self.lane = lane
        lane.member.begin()
        lane.begin()
        self.served.append(lane.member.name)

    def on_refused(self, fault: Fault) -> None:
        assert self.lane is None, "refused while it is served"
        self.place = None
        self.faults.append(fault.code)
        self.retry_after_s = fault.retry_after_s

    def end(self) -> Slice:
        """The slice has answered."""
        lane, self.lane = self.lane, None
        assert lane is not None, "nobody has it"
        lane.member.end()
        lane.end()
        return lane.member


class LimitedFleet(Fleet):
    """
    A fleet whose model `m` may have so many requests at once on each slice.

    Nothing happens by itself: `pump` is what an event loop would call.
    """

    def __init__(
        self,
        *names: str,
        at_once: int = 1,
        policy: str = "least_load",
        batches: bool = False,
        weights: tuple[float, ...] = (),
        settings: QueueSettings | None = None,
    ) -> None:
        super().__init__(*names, policy=policy)
        if weights:
            self.registry.replace(
                [
                    type(spec)(spec.name, spec.http, spec.grpc, weight=weight)
                    for spec, weight in zip(self.specs, weights, strict=True)
                ]
            )
        self.queues = self.registry.queues
        self.queues.configure(settings or QueueSettings(timeout_s=10.0))
        self.queues.follow("m", ModelLimit(at_once, batches))
        self.wanted = 0
        self.queues.run_by(self._soon, lambda delay_s, callback: None)

    def _soon(self, callback: object) -> None:
        self.wanted += 1

    def ask(
        self,
        name: str = "",
        key: str = "infer/m",
        urgency: int = URGENCY_DEFAULT,
        size: int = 100,
        may_wait_s: float = 0.0,
    ) -> Request:
        """A request comes."""
        request = Request(name)
        pool = self.registry.pool(key)
        line = pool.line
        if not anybody(pool, ()):
            request.on_refused(NO_SLICE)
            return request
        assert line is not None, "there is no limit"
        lane = line.admit(pool)
        if lane is not None:
            request.on_turn(lane)
            return request
        got = line.enter(request, pool, urgency, size, may_wait_s)
        if isinstance(got, Fault):
            request.on_refused(got)
        else:
            request.place = got
        return request

    def ask_again(self, request: Request, *tried: Slice, key: str = "infer/m") -> None:
        """A request that `tried` have not answered looks for another slice."""
        pool = self.registry.pool(key)
        assert pool.line is not None, "there is no limit"
        lane = pool.line.choose(pool, tried, 1, 0.0)
        if lane is not None:
            request.on_turn(lane)
        else:
            request.place = pool.line.enter_again(request, pool, tried, 100)

    def pump(self) -> float:
        return self.queues.pump()

    def learn(self, name: str, *models: str) -> None:
        self.registry.record(self[name], live(*models))
