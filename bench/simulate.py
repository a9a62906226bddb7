"""
Late against early binding in simulated time, with the gateway's own queues and policies.

    python -m bench.simulate

No sockets, no clock and nothing else of the machine: what differs is the decision alone, so the
figures are the same everywhere. `bench.tail` measures the same through the whole gateway.
"""

import argparse
import heapq
import sys
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Final

from rich.table import Table

from bench import report
from bench.arrivals import Arrival, poisson
from bench.load import percentile
from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.errors import Fault
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.lanes import Lane, ModelLimit
from gateway.fleet.places import URGENCY_DEFAULT, QueueSettings
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice

LAYOUTS: Final = {"seven equal slices": (1.0,) * 7, "3g + 2g + 1g + 1g": (3.0, 2.0, 1.0, 1.0)}
MEAN_S: Final = 1.0
SIGMA: Final = 0.8


class Job:
    """One request; a gateway.fleet.places.Waiter."""

    def __init__(self, simulation: "Simulation", arrival: Arrival) -> None:
        self._simulation = simulation
        self.arrival = arrival
        self.lane: Lane | None = None

    def on_turn(self, lane: Lane) -> None:
        self.lane = lane
        lane.begin()
        self._simulation.begin(self, lane.member)

    def on_refused(self, fault: Fault) -> None:
        raise AssertionError(f"refused: {fault.code}")


class Simulation:
    """Slices that serve one request at a time, in order, and the gateway's decisions before them."""

    def __init__(self, speeds: Sequence[float], late: bool) -> None:
        self.now_s = 0.0
        self.latencies_s: list[float] = []
        self._late = late
        self._events: list[tuple[float, int, Slice]] = []
        self._order = count()
        self._speeds = speeds
        self._registry = SliceRegistry(LeastLoad, Thresholds(), lambda: self.now_s)
        here = "127.0.0.1"
        self._registry.replace(
            [
                SliceSpec(
                    f"s{i}",
                    Endpoint(here, 1000 + 2 * i),
                    Endpoint(here, 1001 + 2 * i),
                    weight=speed,
                )
                for i, speed in enumerate(speeds)
            ]
        )
        for member in self._registry.slices.values():
            self._registry.record(member, CheckResult(True, "simulated", models={"m": ("1",)}))
        self._queues = self._registry.queues
        self._queues.configure(QueueSettings(enabled=late, length=1 << 30, timeout_s=0.0))
        self._queues.follow("m", ModelLimit(1))
        self._work: dict[Slice, deque[Job]] = {
            member: deque() for member in self._registry.slices.values()
        }

    def run(self, arrivals: Sequence[Arrival]) -> None:
        pool = self._registry.pool("infer/m")
        for arrival in arrivals:
            self._until(arrival.at_s)
            self.now_s = arrival.at_s
            job = Job(self, arrival)
            if not self._late:
                target = pool.pick()
                assert target is not None, "there are slices"
                self.begin(job, target)
                continue
            assert pool.line is not None, "there are limits"
            lane = pool.line.admit(pool)
            if lane is not None:
                job.on_turn(lane)
            else:
                pool.line.enter(job, pool, URGENCY_DEFAULT, 0, 0.0)
                self._queues.pump()
        self._until(float("inf"))

    def begin(self, job: Job, member: Slice) -> None:
        """The slice has the request from now on."""
        member.begin()
        waiting = self._work[member]
        waiting.append(job)
        if len(waiting) == 1:
            self._serve(job, member)

    def _serve(self, job: Job, member: Slice) -> None:
        due_s = self.now_s + job.arrival.work_s / member.weight
        heapq.heappush(self._events, (due_s, next(self._order), member))

    def _until(self, end_s: float) -> None:
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, member = heapq.heappop(self._events)
            waiting = self._work[member]
            job = waiting.popleft()
            self.latencies_s.append(self.now_s - job.arrival.at_s)
            member.end()
            if job.lane is not None:
                job.lane.end()
            if waiting:
                self._serve(waiting[0], member)
            if self._late:
                self._queues.pump()


def latencies(
    speeds: Sequence[float], load: float, late: bool, requests: int, seed: int
) -> list[float]:
    """Return all latencies but of the first twentieth, in mean services, sorted."""
    simulation = Simulation(speeds, late)
    simulation.run(poisson(requests, load, speeds, MEAN_S, SIGMA, seed))
    return sorted(simulation.latencies_s[requests // 20 :])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    table = Table(title="p99 in mean services of a slice of weight 1, early and late binding")
    for heading in ("slices", "load", "early", "late", "late to early"):
        table.add_column(heading, justify="right")
    for name, speeds in LAYOUTS.items():
        for load in (0.5, 0.7, 0.9):
            early, late = (
                sum(
                    percentile(latencies(speeds, load, binding, options.requests, seed), 0.99)
                    for seed in range(options.seeds)
                )
                / options.seeds
                for binding in (False, True)
            )
            table.add_row(name, f"{load:g}", f"{early:.1f}", f"{late:.1f}", f"{late / early:.2f}")
    report.console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
