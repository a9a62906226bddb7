"""
Lane: what one slice has in flight of one model, and how much of it it may have at once.

A request that was given to a slice through a lane is counted there until it ends, whatever becomes
of the limit, the model or the slice meanwhile: who begins on a lane keeps it, and ends on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.fleet.health import UP
from gateway.fleet.slices import NO_LIMIT, Slice

IN_FLIGHT_MAX: Final = 1_000_000
"""The largest limit that can be set; what is derived beyond it is no limit."""
SLOW_S: Final = 1.0
"""A slice has nothing to work on before it has the whole request. So a request that takes longer than
this to come is not counted on its lane until it is there: else a few clients that send byte by byte
would keep all others from a model. For streams, how long ago the last answer may be."""
HASTE_S: Final = 0.1
"""The same while others wait."""


@dataclass(frozen=True, slots=True)
class ModelLimit:
    """
    How many requests of a model one slice should have at once.

    More would wait in the slice, bound to it, while another slice may be free first.

    Attributes:
        at_once: On the slice with the smallest weight; 0 for no limit.
        batches: Requests are batched: a slice of twice the weight has twice as many. Unbatched, a
            slice has its instances, and a larger one is merely faster.
    """

    at_once: int = 0
    batches: bool = False

    def of(self, weight: float, smallest: float, ahead: int) -> int:
        """
        Return the limit of a slice; NO_LIMIT for none.

        Args:
            weight: Of the slice.
            smallest: Of all slices with the model.
            ahead: Requests beyond the instances of an unbatched model, see Line.ahead.
        """
        if not self.at_once:
            return NO_LIMIT
        if not self.batches:
            return self.at_once + ahead
        return max(1, round(self.at_once * weight / smallest)) if smallest > 0 else self.at_once


UNLIMITED: Final = ModelLimit()


class Lane:
    """
    Attributes:
        in_flight: Begun here and not ended.
        limit: NO_LIMIT for none.
    """

    __slots__ = ("in_flight", "limit", "member")

    def __init__(self, member: Slice, limit: int = NO_LIMIT) -> None:
        self.member = member
        self.limit = limit
        self.in_flight = 0

    def begin(self) -> None:
        """Count one request in; `end` is owed."""
        self.in_flight += 1

    def end(self) -> None:
        """Count one request out."""
        assert self.in_flight > 0, "end() without begin()"
        self.in_flight -= 1

    def taken(self) -> int:
        """Return what is in flight, over all processes."""
        return self.in_flight

    def has_room(self) -> bool:
        """Say whether one more request may begin; after a pick, which brings counts up to date."""
        member = self.member
        drag = member.drag
        if drag == 1.0:
            return self.taken() < self.limit and member.in_flight < member.max_in_flight
        return self.taken() < eased(self.limit, drag) and member.in_flight < eased(
            member.max_in_flight, drag
        )


class SharedLane(Lane):
    """
    A lane whose slice several worker processes give work to.

    Args:
        rows: Of the table of lanes; `own` is this process's row, which nobody else writes to.
        column: The lane's.
    """

    __slots__ = ("_column", "_own", "_rows")

    def __init__(
        self, member: Slice, rows: Sequence[memoryview], own: memoryview, column: int
    ) -> None:
        super().__init__(member)
        self._rows = rows
        self._own = own
        self._column = column

    def begin(self) -> None:
        self.in_flight += 1
        self._own[self._column] += 1

    def end(self) -> None:
        assert self.in_flight > 0, "end() without begin()"
        self.in_flight -= 1
        self._own[self._column] -= 1

    def taken(self) -> int:
        total = 0
        for row in self._rows:
            total += row[self._column]
        return total


def eased(limit: int, drag: float) -> int:
    """Return a limit during a slow start: a tenth of it at first, one at least."""
    return max(1, int(limit / drag))


def longest_well(reserve: Sequence[Slice]) -> Slice | None:
    """
    Return the slice whose last failure lies back longest: each failure passes the turn on.

    One that answers its checks comes before those that do not: an error is better than no answer.
    """
    return min(
        reserve,
        key=lambda m: (m.health.health is not UP, m.failed_at_s, m.in_flight, m.last_pick),
        default=None,
    )
