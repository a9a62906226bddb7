"""
Latencies of slices against each other: which one is far slower than the rest, of late.

Only like is compared with like: answers to the same model, in the same time. A slice is not slow
because its clients ask it for a slower model, nor because others were idle while it was busy.

The relays count such answers in the slices' paces; here those are looked at a few times per window,
and what has been added since the window's beginning is compared. Nothing is done per request.
"""

from collections import deque
from collections.abc import Collection, Iterable
from statistics import median_high
from typing import Final

from gateway.fleet.ejection import EjectionSettings, Ejector
from gateway.fleet.histogram import Histogram
from gateway.fleet.lifecycle import FREE
from gateway.fleet.slices import Slice

LOOKS: Final = 5
"""Looks per window. One costs 3 us for each slice and each model that it has answered for."""
SLICES_MIN: Final = 3
"""With two, nobody can tell which of them is unusual."""

Look = dict[str, Histogram]
"""A slice's paces at one time, of the models that it takes all work for."""


class LatencyWatch:
    """Ejects slices, or models on them, that answer far more slowly than the others."""

    def __init__(self, ejector: Ejector) -> None:
        self._ejector = ejector
        self._looks: dict[Slice, deque[Look]] = {}
        self._next_s = 0.0

    def keep_only(self, members: Collection[Slice]) -> None:
        """Start over with a slice that does not take all work: who was away is not compared."""
        for gone in [member for member in self._looks if member not in members]:
            del self._looks[gone]

    def tick(self, members: Iterable[Slice], now_s: float) -> None:
        """
        Look at the paces of `members`, those that take all work, when it is time to.

        A slice is judged when it was there for a whole window; a smaller slice may be slower in
        proportion to its weight.
        """
        settings = self._ejector.settings
        if not settings.enabled or not settings.latency_factor or now_s < self._next_s:
            return
        self._next_s = now_s + settings.window_s / LOOKS
        medians_s: dict[str, dict[Slice, float]] = {}
        for member in members:
            looks = self._looks.setdefault(member, deque(maxlen=LOOKS + 1))
            looks.append(_look(member, looks[-1] if looks else {}))
            if len(looks) > LOOKS:
                for key, recent in _added(looks):
                    if recent.count >= settings.samples:
                        medians_s.setdefault(key, {})[member] = recent.quantile_s(0.5)
        found: dict[Slice, dict[str, str]] = {}
        for key, by_slice in medians_s.items():
            if len(by_slice) >= SLICES_MIN:
                for member in by_slice:
                    found.setdefault(member, {})[key] = _slow(member, by_slice, settings)
        for member, by_key in found.items():
            self._judge(member, by_key, now_s)

    def _judge(self, member: Slice, by_key: dict[str, str], now_s: float) -> None:
        """Eject what is slow: the slice, if that is all that it can be compared by."""
        slow = {key.split("/", 2)[1]: reason for key, reason in by_key.items() if reason}
        if not slow:
            return
        if all(by_key.values()):
            slow = {"": next(iter(slow.values()))}
        for model, reason in slow.items():
            self._ejector.eject_slow(member, model, reason, now_s)
        # What was slow before it went does not count when it returns.
        self._looks.pop(member, None)


def _look(member: Slice, last: Look) -> Look:
    """Return what is to be remembered of the slice's paces; what has not changed is not copied."""
    look: Look = {}
    for key, pace in member.paces.items():
        tally = member.tallies.get(key.split("/", 2)[1])
        if tally is not None and tally.ejection is not FREE:
            continue
        before = last.get(key)
        if before is None or before.total_us != pace.total_us:
            before = Histogram()
            before.counts, before.total_us = pace.counts.copy(), pace.total_us
        look[key] = before
    return look


def _added(looks: deque[Look]) -> Iterable[tuple[str, Histogram]]:
    """Yield (key, what was added) for all that was looked at each time, and has been used since."""
    first, last = looks[0], looks[-1]
    for key, now in last.items():
        then = first.get(key)
        if then is None or then is now or not all(key in look for look in looks):
            continue
        recent = Histogram()
        recent.counts = [n - t for n, t in zip(now.counts, then.counts, strict=True)]
        yield key, recent


def _slow(member: Slice, medians_s: dict[Slice, float], settings: EjectionSettings) -> str:
    """Say why `member` is too slow, or "". Half of the slices cannot be: then slow is what is usual."""
    own_s = medians_s[member]
    usual_s = median_high(
        theirs_s * max(1.0, other.weight / member.weight) for other, theirs_s in medians_s.items()
    )
    if own_s <= max(usual_s * settings.latency_factor, settings.latency_min_s):
        return ""
    return (
        f"half of its answers took more than {own_s * 1e3:.3g} ms, where "
        f"{usual_s * 1e3:.3g} ms are usual"
    )
