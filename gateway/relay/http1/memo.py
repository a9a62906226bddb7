"""Outcomes remembered by the exact bytes that they came from."""

from typing import Final, Generic, TypeVar

T = TypeVar("T")

ENTRIES_MAX: Final = 8192
BYTES_MAX: Final = 8 * 1024 * 1024
"""Key bytes of both generations; an outcome takes about as much again, plus 500 bytes."""


class Memo(Generic[T]):
    """
    A bounded cache of two generations.

    What is used lives in `hot`; when that is half of what is allowed it becomes `old`, and what
    was old and unused since is forgotten. So a hit costs one dict look-up (`memo.hot.get(raw)`,
    100 ns; an LRU's reordering would double that), and a stream of heads never seen twice costs
    a client's own hits at most one re-judgement each generation.
    """

    __slots__ = ("_bytes", "_bytes_max", "_entries_max", "hot", "old")

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.hot: dict[bytes, T] = {}
        self.old: dict[bytes, T] = {}
        self._bytes = 0
        self._entries_max = entries_max // 2
        self._bytes_max = bytes_max // 2

    def recall(self, raw: bytes) -> T | None:
        """Return what is remembered for `raw`, from either generation."""
        found = self.hot.get(raw)
        if found is None:
            found = self.old.get(raw)
            if found is not None:
                self.remember(raw, found)
        return found

    def remember(self, raw: bytes, outcome: T) -> None:
        """Remember `outcome` for `raw`, which is not in `hot`."""
        if len(raw) > self._bytes_max:
            return
        if len(self.hot) >= self._entries_max or self._bytes + len(raw) > self._bytes_max:
            self.old, self.hot, self._bytes = self.hot, {}, 0
        self.hot[raw] = outcome
        self._bytes += len(raw)
