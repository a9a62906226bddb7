"""Latencies in fixed buckets: constant memory, one list increment a request, quantiles within 6 %."""

from typing import Final

SUB_BITS: Final = 3
"""Each power of two is cut into 2**SUB_BITS buckets; a bucket is at most 12.5 % wide."""
_SUBS: Final = 1 << SUB_BITS
OCTAVES: Final = 32
"""Microseconds up to 2**32: an hour and eleven minutes; what is longer counts as that."""
BUCKETS: Final = OCTAVES * _SUBS


def bucket_of(microseconds: int) -> int:
    """Return the bucket index of a duration; 0 for less than a microsecond."""
    if microseconds < _SUBS:
        return max(microseconds, 0)
    shift = microseconds.bit_length() - SUB_BITS - 1
    index = (shift << SUB_BITS) + (microseconds >> shift)
    return index if index < BUCKETS else BUCKETS - 1


def lower_bound(index: int) -> int:
    """Return the smallest duration, in microseconds, of bucket `index`."""
    if index < 2 * _SUBS:
        return index
    shift = (index >> SUB_BITS) - 1
    return ((index & (_SUBS - 1)) + _SUBS) << shift


class Histogram:
    """Counts of durations; add() is inlined by the relays as `counts[bucket_of(us)] += 1`."""

    __slots__ = ("counts", "total_us")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total_us = 0

    def add(self, seconds: float) -> None:
        microseconds = int(seconds * 1e6)
        self.counts[bucket_of(microseconds)] += 1
        self.total_us += microseconds

    def __add__(self, other: "Histogram") -> "Histogram":
        both = Histogram()
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total_us = self.total_us + other.total_us
        return both

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile_s(self, q: float) -> float:
        """Return the duration in seconds below which a share `q` of the requests stayed; 0 if none."""
        count = self.count
        if not count:
            return 0.0
        wanted, seen = q * count, 0
        for index, n in enumerate(self.counts):
            if n and seen + n >= wanted:
                low, high = lower_bound(index), lower_bound(index + 1)
                return (low + (high - low) * (wanted - seen) / n) / 1e6
            seen += n
        return lower_bound(BUCKETS) / 1e6

    def quantiles_s(self, shares: tuple[float, ...]) -> list[float]:
        """Return `quantile_s` of each of `shares`, which ascend, in one pass."""
        count = self.count
        found: list[float] = []
        if not count:
            return [0.0] * len(shares)
        seen = 0
        wanted = shares[0] * count
        for index, n in enumerate(self.counts):
            if not n:
                continue
            while seen + n >= wanted:
                low, high = lower_bound(index), lower_bound(index + 1)
                found.append((low + (high - low) * (wanted - seen) / n) / 1e6)
                if len(found) == len(shares):
                    return found
                wanted = shares[len(found)] * count
            seen += n
        return found + [lower_bound(BUCKETS) / 1e6] * (len(shares) - len(found))

    def cumulative(self, bounds_s: tuple[float, ...]) -> list[int]:
        """Return, for each bound in ascending order, how many durations were at most about that."""
        result = []
        for bound_s in bounds_s:
            last = bucket_of(int(bound_s * 1e6))
            result.append(sum(self.counts[: last + 1]))
        return result
