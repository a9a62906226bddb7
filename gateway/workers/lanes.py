"""Lanes and turns in shared memory: which columns they have, said by the main process."""

from collections.abc import Callable
from typing import Any

from gateway.fleet.lanes import Lane, ModelLimit, SharedLane
from gateway.fleet.queues import Queues
from gateway.fleet.slices import Slice
from gateway.workers.table import Columns
from gateway.workers.turns import POLL_S, Tables, Turn

Document = dict[str, Any]


class LaneKeeper:
    """The main process's part: gives columns away, and sees what all workers have on each lane."""

    def __init__(self, tables: Tables, queues: Queues) -> None:
        self._tables = tables
        self._queues = queues
        self._lanes = Columns()
        self._ranks = Columns()
        self._known: set[str] = set()
        queues.make_lane = self._lane

    def document(self) -> Document:
        """Return what a worker must know: limits, and the columns of each line that has one."""
        queues = self._queues
        self._known = {
            _name(model, member) for model, line in queues.lines.items() for member in line.lanes
        }
        lines: Document = {}
        for model, line in queues.lines.items():
            rank = self._ranks.of(model, queues.lines, self._tables.ranks.total)
            if rank is not None:
                lines[model] = [
                    rank, {member.name: self._column(model, member) for member in line.lanes}
                ]  # fmt: skip
        limits = {model: [one.at_once, one.batches] for model, one in queues.limits.items()}
        return {"limits": limits, "lines": lines}

    def _column(self, model: str, member: Slice) -> int | None:
        return self._lanes.of(_name(model, member), self._known, self._tables.lanes.total)

    def _lane(self, model: str, member: Slice) -> Lane:
        column = self._column(model, member)
        if column is None:
            return Lane(member)
        rows = self._tables.lanes.rows
        return SharedLane(member, rows, rows[0], column)  # nothing begins in the main process


class ToldLanes:
    """
    A worker's part: lanes and turns in the columns that it was told.

    Args:
        row: The worker's own in each table.
    """

    def __init__(
        self, tables: Tables, row: int, queues: Queues, now_s: Callable[[], float]
    ) -> None:
        self._tables = tables
        self._row = row
        self._queues = queues
        self._now_s = now_s
        self._lines: Document = {}
        queues.make_lane = self._lane
        queues.make_turn = self._turn
        queues.tick_s = POLL_S

    def take_over(self, told: Document) -> None:
        """Be told of limits and columns; lines are to be fitted after it."""
        self._lines = told["lines"]
        self._queues.limits = {
            model: ModelLimit(at_once, batches)
            for model, (at_once, batches) in told["limits"].items()
        }

    def _lane(self, model: str, member: Slice) -> Lane:
        column = self._lines.get(model, (None, {}))[1].get(member.name)
        if column is None:
            return Lane(member)  # more lanes than there is room for: counted by each for itself
        rows = self._tables.lanes.rows
        return SharedLane(member, rows, rows[self._row], column)

    def _turn(self, model: str) -> Turn | None:
        column = self._lines.get(model, (None, {}))[0]
        if column is None:
            return None
        return Turn(self._tables.ranks.rows, self._row, column, self._now_s)


def _name(model: str, member: Slice) -> str:
    return f"{member.name}/{model}"  # no slice's name has a slash
