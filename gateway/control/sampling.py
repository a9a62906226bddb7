"""
What has happened between two looks at the slices' counters: rates and latencies of late. Pure.

The relays only count; whatever a curve shows is the difference of two counts.
"""

from collections.abc import Collection
from typing import Any, Final

from gateway.fleet.histogram import BUCKETS, Histogram
from gateway.fleet.slices import Slice

Sample = dict[str, Any]
"""
{"t": wall-clock ms, "dt": seconds since the last, "all": Curve, "slices": {name: Curve}}; a Curve is
{"rate": answers/s, "failures": failed attempts/s, "p50", "p99": ms or null, "busy": requests in flight,
on average}.
"""
_DIGITS: Final = 3


class Sampler:
    """Remembers what was counted at the last look."""

    def __init__(self) -> None:
        self._looked_s: float | None = None
        self._seen: dict[Slice, _Seen] = {}
        self._busy: dict[Slice, int] = {}
        self._glances = 0

    @property
    def begun(self) -> bool:
        """There is something to compare the next look with."""
        return self._looked_s is not None

    def forget(self) -> None:
        """Nobody has looked for a while: the next look begins anew."""
        self._looked_s, self._seen = None, {}
        self._busy, self._glances = {}, 0

    def glance(self, members: Collection[Slice]) -> None:
        """Take in what is in flight now: between two looks as often as the mean is to be good."""
        self._glances += 1
        for member in members:
            self._busy[member] = self._busy.get(member, 0) + member.in_flight

    def look(self, members: Collection[Slice], now_s: float, wall_ms: int) -> Sample | None:
        """
        Return what has happened since the last look; None at the first.

        A slice that has come since is at zero: what it counts, it has counted from then on.
        """
        before, self._seen = self._seen, {member: _Seen(member) for member in members}
        looked_s, self._looked_s = self._looked_s, now_s
        self.glance(members)
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


def _curve(latency: Histogram, failures: int, busy: float, elapsed_s: float) -> dict[str, Any]:
    answers = latency.count
    p50_s, p99_s = latency.quantiles_s((0.50, 0.99))
    return {
        "rate": round(answers / elapsed_s, _DIGITS),
        "failures": round(failures / elapsed_s, _DIGITS),
        "p50": round(p50_s * 1e3, _DIGITS) if answers else None,
        "p99": round(p99_s * 1e3, _DIGITS) if answers else None,
        "busy": round(busy, _DIGITS),
    }
