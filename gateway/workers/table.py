"""Table: what each process has in flight on each slice, in memory that all of them share."""

import mmap
import os
import struct
from collections.abc import Collection, Sequence
from typing import Final

COLUMNS: Final = 4096
"""Slice names one gateway can tell apart before it uses a column of one that is gone again."""
_CELL_BYTES: Final = 8
_ROW_BYTES: Final = COLUMNS * _CELL_BYTES


class Table:
    """
    One row a worker, one column a slice; a worker writes its own row only, so nobody locks.

    A cell is eight aligned bytes, which the CPU writes as a whole: a reader sees the count before
    or after a change, never a part of it. Pages nobody has written to take no memory.

    Args:
        number: File descriptor of the memory; a new one is made when None.

    Attributes:
        number: For the processes that share it.
        rows: `rows[worker][column]` is a count; see `row`.
    """

    def __init__(self, workers: int, number: int | None = None) -> None:
        if number is None:
            number = os.memfd_create("mig-gateway-in-flight")
            os.ftruncate(number, workers * _ROW_BYTES)
        self.number = number
        self._bytes = memoryview(mmap.mmap(number, workers * _ROW_BYTES))
        cells = self._bytes.cast("q")
        self.rows = [cells[i * COLUMNS : (i + 1) * COLUMNS] for i in range(workers)]
        self._width = 0
        self._used: list[memoryview] = []
        self._unpack = struct.Struct("").unpack
        self.widen(1)

    def widen(self, columns: int) -> None:
        """Let `sums` look at the first `columns` columns, if it does not yet."""
        if columns > self._width:
            self._width = columns
            used = columns * _CELL_BYTES
            self._used = [
                self._bytes[i * _ROW_BYTES : i * _ROW_BYTES + used] for i in range(len(self.rows))
            ]
            self._unpack = struct.Struct(f"<{columns}q").unpack

    def sums(self) -> Sequence[int]:
        """
        Return what is in flight on the slice of each column, over all workers.

        Each row is added as one large number, whose digits are the cells: no count is negative or
        comes near 2**63, so nothing is carried from one into the next. For 7 slices and 4 workers
        that takes 0.5 us, cell by cell 0.8; for 56 slices 1.8 against 6.
        """
        total = 0
        for row in self._used:
            total += int.from_bytes(row, "little")
        return self._unpack(total.to_bytes(self._width * _CELL_BYTES, "little"))

    def clear(self, worker: int) -> None:
        """Set a worker's row to zero; it must have ended."""
        self._used[worker][:] = bytes(self._width * _CELL_BYTES)

    def in_flight(self, worker: int) -> int:
        """Return what one worker has in flight."""
        return sum(self.rows[worker][: self._width].tolist())

    def close(self) -> None:
        os.close(self.number)


class Columns:
    """Which slice has which column. A name keeps its column as long as there is room."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def of(self, name: str, in_use: Collection[str], sums: Sequence[int]) -> int:
        """
        Return the column of the slice `name`.

        Args:
            in_use: Names of slices that exist; their columns are not given away.
            sums: What is in flight in each column; only an idle one is given away.
        """
        column = self._of.get(name)
        if column is None:
            column = len(self._of)
            if column >= COLUMNS:
                gone = next(n for n, c in self._of.items() if n not in in_use and not sums[c])
                column = self._of.pop(gone)
            self._of[name] = column
        return column
