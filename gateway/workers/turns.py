"""
Turns: whose request goes next when several workers have some that wait for the same model.

Each worker has a line of its own, and tells in shared memory who goes next there. A slot that has
become free belongs to the one that has waited longest in all of them; a worker whose own is younger
by more than SLACK_S leaves the slot to the other, which looks for it every POLL_S. So no worker's
requests wait while another's pass by.
"""

from collections.abc import Callable, Sequence
from typing import Final

from gateway.workers.table import LANES, RANKS, SLICES, Table

POLL_S: Final = 0.002
"""How often a worker with requests that wait looks for slots that others have freed."""
SLACK_S: Final = 0.01
"""Within it a worker serves its own: handing a slot over leaves it idle for about POLL_S / 2."""
GRACE_S: Final = 0.025
"""A worker that does not take what was left to it (it hangs, or leaves a slow slice idle on purpose)
is passed over for as long as its next request is the same."""
_TICKS_PER_S: Final = 1e6


class Tables:
    """The three tables of one memory, as one worker or the main process sees them."""

    def __init__(self, workers: int, number: int | None = None) -> None:
        self.slices = Table(workers, number, SLICES)
        self.number = self.slices.number
        self.lanes = Table(workers, self.number, LANES)
        self.ranks = Table(workers, self.number, RANKS)

    def clear(self, worker: int) -> None:
        """Forget what a worker has that has ended."""
        for table in (self.slices, self.lanes, self.ranks):
            table.clear(worker)

    def close(self) -> None:
        self.slices.close()


class Turn:
    """
    One worker's part in the order of one line's requests. A gateway.fleet.line.Turn.

    Args:
        rows: Of the table of ranks.
        own: Which of them this worker writes.
        column: The line's.
    """

    __slots__ = ("_column", "_now_s", "_others", "_own", "_seen", "_since_s")

    def __init__(
        self, rows: Sequence[memoryview], own: int, column: int, now_s: Callable[[], float]
    ) -> None:
        self._own = rows[own]
        self._others = [row for index, row in enumerate(rows) if index != own]
        self._column = column
        self._now_s = now_s
        self._seen = [0] * len(self._others)
        self._since_s = [0.0] * len(self._others)

    def tell(self, rank: float) -> None:
        """Tell the others who goes next here; 0 when nobody waits."""
        self._own[self._column] = max(1, int(rank * _TICKS_PER_S)) if rank else 0

    def is_others(self, rank: float) -> bool:
        """Say whether a request of that rank is to leave a free slot to another worker's."""
        column, before = self._column, (rank - SLACK_S) * _TICKS_PER_S
        found = False
        for index, row in enumerate(self._others):
            other = row[column]
            if not 0 < other < before:
                continue
            if self._seen[index] != other:
                self._seen[index] = other
                self._since_s[index] = self._now_s()
                found = True
            elif self._now_s() - self._since_s[index] < GRACE_S:
                found = True
        return found
