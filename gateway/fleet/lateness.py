"""Lateness: how long the answers of each pool take of late, and so when one is late. Pure."""

from collections.abc import Iterable
from typing import Final

from gateway.fleet.histogram import Histogram
from gateway.fleet.slices import Slice

WINDOW_S: Final = 30.0
"""Answers count for once to twice as long."""
COUNT_S: Final = 1.0
"""Between two looks; one costs 20 us for each slice and each model that it has answered for."""
SAMPLES_MIN: Final = 50
"""With fewer answers nobody knows what is usual."""
NEVER_S: Final = 1e9
AFTER_MIN_S: Final = 0.001

Seen = dict[tuple[Slice, str], list[int]]
"""What a slice had counted of the answers of a pool."""


class Lateness:
    """
    A quantile of what the slices' answers take, each model for itself: where one takes 5 ms and
    another 500, what is late for all together would be every answer of the slower one.

    It is read off the slices' paces, so that nothing is done for a request.

    Args:
        quantile: Such as 0.95.
    """

    __slots__ = ("_after_s", "_looked_s", "_newer", "_older", "_quantile", "_turned_s")

    def __init__(self, quantile: float, now_s: float) -> None:
        self._quantile = quantile
        self._after_s: dict[str, float] = {}
        self._older: Seen = {}
        self._newer: Seen = {}
        self._looked_s = self._turned_s = now_s

    def after_s(self, key: str) -> float:
        """Return when a request of the pool `key` is late; NEVER_S while that is not known."""
        return self._after_s.get(key, NEVER_S)

    @property
    def least_s(self) -> float:
        """The smallest of all."""
        return min(self._after_s.values(), default=NEVER_S)

    def tick(self, members: Iterable[Slice], now_s: float) -> None:
        """Bring `after_s` up to date by what `members` have answered; call it as often as you like."""
        if now_s - self._looked_s < COUNT_S:
            return
        self._looked_s = now_s
        turns = now_s - self._turned_s >= WINDOW_S
        seen: Seen = {}
        recent: dict[str, Histogram] = {}
        for member in members:
            for key, pace in member.paces.items():
                _add(
                    recent.setdefault(key, Histogram()), pace.counts, self._older.get((member, key))
                )
                if turns:
                    seen[member, key] = pace.counts.copy()
        self._after_s = {
            key: max(AFTER_MIN_S, counted.quantile_s(self._quantile))
            for key, counted in recent.items()
            if counted.count >= SAMPLES_MIN
        }
        if turns:
            self._turned_s = now_s
            self._older, self._newer = self._newer, seen


def _add(counted: Histogram, counts: list[int], before: list[int] | None) -> None:
    """Add what `counts` has more than `before`; a count that fell has begun anew."""
    if before is None or any(now < then for now, then in zip(counts, before, strict=True)):
        before = [0] * len(counts)
    counted.counts = [
        have + now - then for have, now, then in zip(counted.counts, counts, before, strict=True)
    ]
