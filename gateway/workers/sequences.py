"""
The sequences of one model, of which several workers have requests.

A worker keeps those that it has had requests of, and reads on the board what others have noted since
then. See board.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Final

from gateway.fleet.sequences import (
    MARGIN_S,
    SWEEP_S,
    LiveSequence,
    SequenceFields,
    SequenceId,
    SequenceTable,
    TableFullError,
    is_sequence,
)
from gateway.fleet.slices import Slice
from gateway.workers.board import ENDED, Board, BoardFullError, Note, key_of

NS: Final = 1_000_000_000
SWEPT_MAX: Final = 2048
"""Sequences that one sweep looks up on the board: 2 us each."""
ENDED_S: Final = 30.0
"""Others have seen by then that a sequence is over: each sweeps once a second."""


class SharedSequenceTable(SequenceTable):
    """
    Args:
        worker: Whose table this is.
        member_at: Returns the slice of a column, None when it has none that can have the model's
            sequences.
    """

    __slots__ = ("_board", "_member_at", "_model", "_now_ns", "_worker")

    def __init__(
        self,
        model: str,
        idle_s: float,
        board: Board,
        worker: int,
        member_at: Callable[[str, int], Slice | None],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(idle_s)
        self._model = model
        self._board = board
        self._worker = worker
        self._member_at = member_at
        self._now_ns = now_ns

    @property
    def has_live(self) -> bool:
        """Others may have some that nobody here has heard of."""
        return True

    def find(self, fields: SequenceFields, now_s: float) -> LiveSequence | None:
        if is_sequence(fields):
            self._learn(fields.id, now_s)
        return super().find(fields, now_s)

    def begin(
        self, fields: SequenceFields, members: tuple[Slice, ...], now_s: float
    ) -> LiveSequence | None:
        # Where slices have equally many, each worker begins with another one.
        first = self._worker % len(members) if members else 0
        return super().begin(fields, members[first:] + members[:first], now_s)

    def finish(self, sequence: LiveSequence, now_s: float) -> None:
        super().finish(sequence, now_s)
        took_s = (self._now_ns() - sequence.noted_ns) / NS
        if took_s > self.idle_s / 2 and self._has(sequence):
            with suppress(TableFullError):
                self._noted(sequence)  # or the others would take it for idle

    def sweep(self, now_s: float) -> None:
        """Drop also what has ended at another worker."""
        idle = [
            sequence
            for sequence in islice(self.live.values(), SWEPT_MAX)
            if not sequence.in_flight and now_s - sequence.used_s > SWEEP_S
        ]
        for sequence in idle:
            self._learn(sequence.id, now_s)
            key = (type(sequence.id), sequence.id)
            if self.live.get(key) is sequence:
                self.live[key] = self.live.pop(key)  # the next sweep looks at the others
        super().sweep(now_s)

    # --- inside -------------------------------------------------------------------------------

    def _learn(self, sequence_id: SequenceId, now_s: float) -> None:
        """Bring what is known of a sequence up to date with the board."""
        key, now_ns = key_of(self._model, sequence_id), self._now_ns()
        note = self._board.newest(key, now_ns)
        known = self.live.get((type(sequence_id), sequence_id))
        if note is None or (known is not None and note.at_ns <= known.noted_ns):
            return
        member = None
        if note.column != ENDED:
            member = self._member_at(self._model, note.column)
        elif note.worker != self._worker:
            self._board.clear(self._worker, key)  # ours is older
        if known is not None and known.member is not member:
            self._drop(known)
            known = None
        if known is None:
            if member is None:
                return
            known = self._add(sequence_id, member, now_s)
        known.noted_ns = note.at_ns
        known.used_s = max(known.used_s, now_s - (now_ns - note.at_ns) / NS)

    def _noted(self, sequence: LiveSequence) -> None:
        now_ns = sequence.noted_ns = self._now_ns()
        until_ns = now_ns + int((self.idle_s + MARGIN_S) * NS)
        self._write(sequence, Note(now_ns, until_ns, sequence.member.column, self._worker), now_ns)

    def _ended(self, sequence: LiveSequence) -> None:
        key, now_ns = key_of(self._model, sequence.id), self._now_ns()
        if not self._board.is_noted(key, now_ns, but=self._worker):
            self._board.clear(self._worker, key)
            return
        # Noted as of its END's beginning: who begins anew once that is answered is newer.
        until_ns = now_ns + int(ENDED_S * NS)
        with suppress(TableFullError):  # others take it for live until it is idle
            self._write(sequence, Note(sequence.noted_ns, until_ns, ENDED, self._worker), now_ns)

    def _write(self, sequence: LiveSequence, note: Note, now_ns: int) -> None:
        try:
            self._board.note(self._worker, key_of(self._model, sequence.id), note, now_ns)
        except BoardFullError:
            raise TableFullError from None
