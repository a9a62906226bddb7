"""
A pool under load, on paper: clients that wait for their answers, slices that serve or fail, a clock.

What the relays do is done here as they do it: pick, begin, end, attempt_ended, in that order.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from gateway.balance.policies import POLICIES
from gateway.fleet.ejection import EjectionSettings
from gateway.fleet.health import Thresholds
from gateway.fleet.outcomes import OK
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from tests.gateway.making import Clock, live, make_spec

Behaviour = Callable[[Slice, float], tuple[float, int]]
"""(slice, now) → (seconds until the attempt ends, outcome)."""
TICK_S = 0.5


def serve_in(seconds: float) -> Behaviour:
    return lambda member, now_s: (seconds, OK)


class Simulation:
    """
    Attributes:
        behaviours: What a slice does; `serves` for those without one.
        key: Of the pool that clients ask, from their next request on.
        pause_s: Of a client between an answer and its next request.
        given: How many requests each slice was given; outcomes: how they ended.
        peak: The most that was in flight at once on each slice.
    """

    def __init__(
        self,
        slices: int,
        serves: Behaviour,
        policy: str = "least_load",
        settings: EjectionSettings | None = None,
        seed: int = 1,
        models: Sequence[str] = ("m",),
    ) -> None:
        chance = random.Random(seed)
        self.clock = Clock()
        self.registry = SliceRegistry(
            POLICIES[policy], Thresholds(), self.clock, settings, chance.random
        )
        self.events: list[tuple[float, str, str, str]] = []
        self.registry.recorders.append(
            lambda change: self.events.append(
                (self.clock.now_s, getattr(change.member, "name", ""), change.event, change.model)
            )
        )
        self.registry.replace([make_spec(f"s{i}", 18000 + 10 * i) for i in range(slices)])
        for member in self.members:
            self.registry.record(member, live(*models))
        self.clock.now_s += 60.0  # long after the start
        self.behaviours: dict[str, Behaviour] = {}
        self.serves = serves
        self.key = "infer/m"
        self.pause_s = 0.0
        self.given: Counter[str] = Counter()
        self.outcomes: Counter[int] = Counter()
        self.peak: Counter[str] = Counter()
        self.refused = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count().__next__
        self._tick()

    @property
    def members(self) -> list[Slice]:
        return list(self.registry.slices.values())

    def __getitem__(self, name: str) -> Slice:
        return self.registry.slices[name]

    def clients(self, n: int) -> None:
        """Start `n` clients that each send their next request when the last was answered."""
        for _ in range(n):
            self._later(0.0, self._request)

    def run(self, seconds: float) -> None:
        """Let time pass, event by event."""
        end_s = self.clock.now_s + seconds
        while self._due and self._due[0][0] <= end_s:
            at_s, _, action = heapq.heappop(self._due)
            self.clock.now_s = max(self.clock.now_s, at_s)
            action()
        self.clock.now_s = end_s

    def told(self, event: str) -> list[str]:
        """The slices of which `event` was told, in order."""
        return [name for _, name, what, _ in self.events if what == event]

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.clock.now_s + seconds, self._order(), action))

    def _tick(self) -> None:
        self.registry.tick(TICK_S)
        self._later(TICK_S, self._tick)

    def _request(self) -> None:
        key = self.key
        target = self.registry.pool(key).pick()
        if target is None:
            self.refused += 1
            self._later(0.01, self._request)
            return
        assert target.order.value == "enabled", "given to a slice that the operator took out"
        target.begin()
        self.given[target.name] += 1
        self.peak[target.name] = max(self.peak[target.name], target.in_flight)
        takes_s, outcome = self.behaviours.get(target.name, self.serves)(target, self.clock.now_s)
        self._later(takes_s, lambda: self._ended(target, key, takes_s, outcome))

    def _ended(self, target: Slice, key: str, took_s: float, outcome: int) -> None:
        self.outcomes[outcome] += 1
        if outcome == OK:
            target.answered_http(took_s, key)
        target.end()
        self.registry.attempt_ended(target, key, outcome)
        self._later(self.pause_s, self._request)
