"""
Latencies of slices against each other: which one is far slower than the rest, of late.

The relays count every answer in the slices' histograms; here those are looked at a few times per
window, and what has been added since the window's beginning is compared. Nothing is done per request.
"""

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Final

from gateway.fleet.ejection import EjectionSettings, Ejector
from gateway.fleet.histogram import Histogram
from gateway.fleet.slices import Slice

LOOKS: Final = 5
"""Looks per window. One costs 20 us a slice."""
SLICES_MIN: Final = 3
"""With two, nobody can tell which of them is unusual."""


class LatencyWatch:
    """Ejects slices that answer far more slowly than the others."""

    def __init__(self, ejector: Ejector) -> None:
        self._ejector = ejector
        self._seen: dict[Slice, deque[list[int]]] = {}
        self._next_s = 0.0

    def tick(self, members: Iterable[Slice], now_s: float) -> None:
        """
        Look at the histograms of `members`, when it is time to.

        Only slices that take all work are compared, and only with slices of the same models; a
        smaller slice may be slower in proportion to its weight.
        """
        settings = self._ejector.settings
        if not settings.enabled or not settings.latency_factor or now_s < self._next_s:
            return
        self._next_s = now_s + settings.window_s / LOOKS
        seen, self._seen = self._seen, {}
        groups: dict[frozenset[str], dict[Slice, float]] = {}
        for member in members:
            counts = (member.http_latency + member.grpc_latency).counts
            past = self._seen[member] = seen.get(member) or deque(maxlen=LOOKS)
            past.append(counts)
            recent = Histogram()
            recent.counts = [now - then for now, then in zip(counts, past[0], strict=True)]
            if recent.count >= settings.samples:
                group = groups.setdefault(frozenset(member.models or ()), {})
                group[member] = recent.quantile_s(0.5)
        for medians in groups.values():
            if len(medians) >= SLICES_MIN:
                self._compare(medians, settings, now_s)

    def _compare(
        self, medians: dict[Slice, float], settings: EjectionSettings, now_s: float
    ) -> None:
        for member, own_s in medians.items():
            others_s = median(
                theirs_s * max(1.0, other.weight / member.weight)
                for other, theirs_s in medians.items()
                if other is not member
            )
            if own_s > max(others_s * settings.latency_factor, settings.latency_min_s):
                self._ejector.eject_slow(
                    member,
                    f"half of its answers took more than {own_s * 1e3:.3g} ms, where "
                    f"{others_s * 1e3:.3g} ms are usual",
                    now_s,
                )
                # What was slow before it went does not count when it returns.
                del self._seen[member]
