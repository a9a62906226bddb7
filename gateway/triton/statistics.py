"""
Statistics of N slices added up as if one server had done the work. Pure.

perf_analyzer takes the difference of two readings, so a sum must never fall: not when a slice
restarts and counts from zero, not when it is unloaded and loaded, not when it leaves or does not
answer. The ledger therefore keeps what each slice said last; when a counter falls, what it had
reached is retired into a base that goes on being added.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

Path = tuple[str, ...]
"""Where a counter stands, such as ("inference_stats", "queue", "ns") or
("batch_stats", "8", "compute_infer", "count")."""
Key = tuple[str, str]
"""(model, version)"""

ENTRIES_MAX: Final = 16384
"""Readings kept, over slices and models; past it the oldest is retired early."""


@dataclass(slots=True)
class ModelStatistics:
    """
    What one slice, or all together, counted for one version of a model.

    Attributes:
        key: (model, version).
        last_inference: Milliseconds since 1970; 0 for none.
        counters: Everything that only grows.
        memory: Bytes in use by (type, id).
    """

    key: Key
    last_inference: int = 0
    counters: dict[Path, int] = field(default_factory=dict)
    memory: dict[tuple[str, int], int] = field(default_factory=dict)


class Ledger:
    """What each slice counted, and the sum that never falls."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Key], ModelStatistics] = {}
        self._retired: dict[Key, dict[Path, int]] = {}

    def take(self, name: str, readings: Iterable[ModelStatistics]) -> None:
        """
        Take in what the slice `name` says now.

        Readings of one slice must come in the order in which they were made, or a late one would
        look like a restart.
        """
        for reading in readings:
            place = (name, reading.key)
            before = self._last.pop(place, None)
            if before is not None and _fell(before.counters, reading.counters):
                self._retire(before)
            self._last[place] = reading  # at the end: the oldest stand first
        while len(self._last) > ENTRIES_MAX:
            self._retire(self._last.pop(next(iter(self._last))))

    def total(self, keys: Iterable[Key], answered: Sequence[str]) -> list[ModelStatistics]:
        """
        Return the sums for `keys`, in order of name and version.

        Args:
            keys: The models and versions asked about.
            answered: The slices that answered: only their memory is in use now.
        """
        sums = {key: ModelStatistics(key, counters=dict(self._retired.get(key, {})))
                for key in keys}  # fmt: skip
        for (name, key), reading in self._last.items():
            total = sums.get(key)
            if total is None:
                continue
            total.last_inference = max(total.last_inference, reading.last_inference)
            _add(total.counters, reading.counters)
            if name in answered:
                for place, size in reading.memory.items():
                    total.memory[place] = total.memory.get(place, 0) + size
        return [sums[key] for key in sorted(sums, key=_order)]

    def _retire(self, reading: ModelStatistics) -> None:
        _add(self._retired.setdefault(reading.key, {}), reading.counters)
        while len(self._retired) > ENTRIES_MAX:
            del self._retired[next(iter(self._retired))]


def _fell(before: dict[Path, int], now: dict[Path, int]) -> bool:
    return any(value > now.get(path, 0) for path, value in before.items())


def _add(to: dict[Path, int], counters: dict[Path, int]) -> None:
    for path, value in counters.items():
        to[path] = to.get(path, 0) + value


def _order(key: Key) -> tuple[str, int, str]:
    version = key[1]
    number = int(version) if version.isascii() and version.isdigit() else 0
    return key[0], number, version
