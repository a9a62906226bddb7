"""
What has happened between two looks at the counters: rates, latencies and queues of late. Pure.

The relays only count; whatever a curve shows is the difference of two counts.
"""

from collections.abc import Collection
from typing import Any, Final

from gateway.fleet.histogram import BUCKETS, Histogram
from gateway.fleet.queue_report import QueueReport, waits
from gateway.fleet.slices import Slice

Sample = dict[str, Any]
"""
{"t": wall-clock ms, "dt": seconds since the last, "all": Curve, "slices": {name: Curve}, "queue": Queue};
a Curve is {"rate": answers/s, "failures": failed attempts/s, "p50", "p99": ms or null, "busy": requests
in flight, on average}; a Queue is {"models": {model: requests that wait, on average}, "p50", "p99": ms
that those waited that were served, or null}.
"""
_DIGITS: Final = 3


class Sampler:
    """Remembers what was counted at the last look."""

    def __init__(self) -> None:
        self._looked_s: float | None = None
        self._seen: dict[Slice, _Seen] = {}
        self._busy: dict[Slice, int] = {}
        self._waiting: dict[str, int] = {}
        self._waits = Histogram()
        self._glances = 0

    @property
    def begun(self) -> bool:
        """There is something to compare the next look with."""
        return self._looked_s is not None

    def forget(self) -> None:
        """Nobody has looked for a while: the next look begins anew."""
        self._looked_s, self._seen = None, {}
        self._busy, self._waiting, self._glances = {}, {}, 0

    def glance(self, members: Collection[Slice], queues: QueueReport) -> None:
        """Take in who is in flight and who waits now: as often as the mean is to be good."""
        self._glances += 1
        for model, (waiting, _, _) in queues["lines"].items():
            self._waiting[model] = self._waiting.get(model, 0) + waiting
        for member in members:
            self._busy[member] = self._busy.get(member, 0) + member.in_flight

    def look(
        self, members: Collection[Slice], queues: QueueReport, now_s: float, wall_ms: int
    ) -> Sample | None:
        """
        Return what has happened since the last look; None at the first.

        A slice that has come since is at zero: what it counts, it has counted from then on.
        """
        before, self._seen = self._seen, {member: _Seen(member) for member in members}
        looked_s, self._looked_s = self._looked_s, now_s
        self.glance(members, queues)
        waited_before, self._waits = self._waits, waits(queues)
        waiting, self._waiting = self._waiting, {}
        busy, self._busy = self._busy, {}
        glances, self._glances = self._glances, 0
        if looked_s is None or now_s <= looked_s:
            return None
        elapsed_s = now_s - looked_s
        everything = Histogram()
        failures, all_busy = 0, 0.0
        curves = {}
        for member, seen in self._seen.items():
            past = before.get(member)
            more = seen.latencies_since(past, everything)
            failed = seen.failures - (past.failures if past else 0)
            mean = busy[member] / glances
            curves[member.name] = _curve(more, failed, mean, elapsed_s)
            failures += failed
            all_busy += mean
        return {
            "t": wall_ms,
            "dt": round(elapsed_s, _DIGITS),
            "all": _curve(everything, failures, all_busy, elapsed_s),
            "slices": curves,
            "queue": {
                "models": {
                    model: round(total / glances, _DIGITS) for model, total in waiting.items()
                },
                **_latencies(_added(self._waits, waited_before)),
            },
        }


class _Seen:
    """The counts of one slice at one look."""

    __slots__ = ("failures", "grpc", "http")

    def __init__(self, member: Slice) -> None:
        self.failures = member.failures
        self.http = member.http_latency.counts.copy()
        self.grpc = member.grpc_latency.counts.copy()

    def latencies_since(self, past: "_Seen | None", everything: Histogram) -> Histogram:
        """Return what was added since `past`, and add it to `everything` as well."""
        more = Histogram()
        for now, then in (
            (self.http, past.http if past else None),
            (self.grpc, past.grpc if past else None),
        ):
            if now == then:
                continue  # no answer over this protocol
            for bucket, count in enumerate(now):
                # Most buckets have never been hit.
                if count and (added := count - (then[bucket] if then else 0)):
                    more.counts[bucket] += added
                    everything.counts[bucket] += added
        assert len(more.counts) == BUCKETS, "histograms are of one size"
        return more


def _added(now: Histogram, then: Histogram) -> Histogram:
    """Return what was added; a process that has ended may have taken some of it with it."""
    more = Histogram()
    for bucket, count in enumerate(now.counts):
        if count:
            more.counts[bucket] = max(0, count - then.counts[bucket])
    return more


def _curve(latency: Histogram, failures: int, busy: float, elapsed_s: float) -> dict[str, Any]:
    return {
        "rate": round(latency.count / elapsed_s, _DIGITS),
        "failures": round(failures / elapsed_s, _DIGITS),
        **_latencies(latency),
        "busy": round(busy, _DIGITS),
    }


def _latencies(latency: Histogram) -> dict[str, float | None]:
    if not latency.count:
        return {"p50": None, "p99": None}
    p50_s, p99_s = latency.quantiles_s((0.50, 0.99))
    return {"p50": round(p50_s * 1e3, _DIGITS), "p99": round(p99_s * 1e3, _DIGITS)}
