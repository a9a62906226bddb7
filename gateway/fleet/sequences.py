"""
Which slice has which sequence: all requests of one correlation id must reach the same Triton.

Only models whose configuration batches sequences have a table. A sequence is created by its START,
on the slice with the fewest live ones (a slice has so many slots, and queues beyond them without
limit), and is dropped once its END has been answered, once Triton has given it up as idle, or with
its slice. What belongs to no sequence here goes to any slice, whose own error is what the client
should read: "... must specify the START flag on the first request of the sequence".

A slice that is drained or disabled keeps its sequences, and gets no new ones. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.fleet.health import DOWN, UNKNOWN
from gateway.fleet.slices import Slice

SequenceId = int | str
"""1000 and "1000" are two sequences, as they are to Triton; 0 and "" are none."""

MARGIN_S: Final = 1.0
"""Beyond Triton's own idle time. What is kept too long still meets Triton's own error there."""
LIVE_MAX: Final = 65536
"""Sequences of one model; with more than that, new ones are refused."""
SWEEP_S: Final = 1.0
TEXT_MAX: Final = 128
"""Characters of an id, in Triton as well, which refuses a longer one."""


@dataclass(frozen=True, slots=True)
class SequenceFields:
    """What a request says of its sequence; `id` is 0 or "" where it belongs to none."""

    id: SequenceId = 0
    starts: bool = False
    ends: bool = False


NO_SEQUENCE: Final = SequenceFields()


class LiveSequence:
    """
    One sequence.

    Attributes:
        in_flight: Its requests that are not answered yet.
        noted_ns: Its newest note, where several processes share a table.
        used_s: When its last request came or was answered.
        ending: Its END has been sent.
    """

    __slots__ = ("ending", "id", "in_flight", "member", "noted_ns", "used_s")

    def __init__(self, sequence_id: SequenceId, member: Slice, now_s: float) -> None:
        self.id = sequence_id
        self.member = member
        self.in_flight = 0
        self.noted_ns = 0
        self.used_s = now_s
        self.ending = False


class TableFullError(Exception):
    """There are LIVE_MAX sequences of the model."""


class SequenceTable:
    """
    The live sequences of one model.

    Args:
        idle_s: Triton's own limit, `max_sequence_idle_microseconds`.

    Attributes:
        live: Sequences by id.
        counts: How many each slice has; slices with none are left out.
    """

    __slots__ = ("_live_max", "_swept_s", "counts", "idle_s", "live")

    def __init__(self, idle_s: float, live_max: int = LIVE_MAX) -> None:
        self.idle_s = idle_s
        self.live: dict[tuple[type, SequenceId], LiveSequence] = {}
        self.counts: dict[Slice, int] = {}
        self._live_max = live_max
        self._swept_s = 0.0

    @property
    def has_live(self) -> bool:
        """Some slice that takes no new ones may have to go on with a sequence."""
        return bool(self.live)

    def find(self, fields: SequenceFields, now_s: float) -> LiveSequence | None:
        """Return the sequence that a request belongs to; None when none is live."""
        sequence = self.live.get((type(fields.id), fields.id))
        if sequence is not None and self._is_over(sequence, now_s):
            self._drop(sequence)
            return None
        return sequence

    def begin(
        self, fields: SequenceFields, members: tuple[Slice, ...], now_s: float
    ) -> LiveSequence | None:
        """
        Count in a request that is about to be sent; `finish` is owed for what is returned.

        Args:
            fields: What the request says.
            members: Slices that take new work for the model.

        Returns:
            The sequence, whose `member` the request must go to; None when it belongs to none, and
            any slice may have it.

        Raises:
            TableFullError: A new sequence finds no room.
        """
        if not is_sequence(fields):
            return None
        sequence = self.find(fields, now_s)
        # A new beginning under an old id stays where it is, for the slice restarts it in its slot;
        # but it is new work, so a slice that takes none does not get it.
        restarts = sequence is not None and fields.starts and not sequence.in_flight
        if restarts and members and sequence is not None and sequence.member not in members:
            self._drop(sequence)
            sequence = None
        if sequence is None:
            if not fields.starts or not members:
                return None
            counts = self.counts
            member = min(members, key=lambda m: (counts.get(m, 0), m.in_flight, m.last_pick))
            sequence = self._add(fields.id, member, now_s)
        self._use(sequence, fields, now_s)
        sequence.in_flight += 1
        return sequence

    def finish(self, sequence: LiveSequence, now_s: float) -> None:
        """A request of the sequence is over, however it ended."""
        sequence.in_flight -= 1
        sequence.used_s = now_s
        if sequence.ending and not sequence.in_flight and self._has(sequence):
            self._drop(sequence)
            self._ended(sequence)

    def adopt(self, fields: SequenceFields, member: Slice, now_s: float) -> None:
        """
        A request is on its way to `member` inside a stream, whose answers nobody looks into.

        Raises:
            TableFullError: A new sequence finds no room. It goes on all the same, in its stream.
        """
        if not is_sequence(fields):
            return
        sequence = self.find(fields, now_s)
        if sequence is None or (fields.starts and sequence.member is not member):
            if not fields.starts:
                return
            if sequence is not None:
                self._drop(sequence)
            sequence = self._add(fields.id, member, now_s)
        if sequence.member is not member:
            return  # the slice will say so
        self._use(sequence, fields, now_s)
        if sequence.ending and not sequence.in_flight:
            self._drop(sequence)
            self._ended(sequence)

    def drop_slice(self, member: Slice) -> None:
        """The slice has lost its sequences: whoever goes on with one gets Triton's own error."""
        if count := self.counts.pop(member, 0):
            member.sequences -= count
            self.live = {
                key: sequence
                for key, sequence in self.live.items()
                if sequence.member is not member
            }

    def drop_all(self) -> None:
        """The model's requests are independent from now on."""
        for member in list(self.counts):
            self.drop_slice(member)

    def sweep(self, now_s: float) -> None:
        """Drop what Triton has given up as idle."""
        self._swept_s = now_s
        for sequence in [s for s in self.live.values() if self._is_over(s, now_s)]:
            self._drop(sequence)

    # --- inside -------------------------------------------------------------------------------

    def _is_over(self, sequence: LiveSequence, now_s: float) -> bool:
        return not sequence.in_flight and now_s - sequence.used_s > self.idle_s + MARGIN_S

    def _has(self, sequence: LiveSequence) -> bool:
        return self.live.get((type(sequence.id), sequence.id)) is sequence

    def _add(self, sequence_id: SequenceId, member: Slice, now_s: float) -> LiveSequence:
        if len(self.live) >= self._live_max:
            if now_s - self._swept_s >= SWEEP_S:
                self.sweep(now_s)
            if len(self.live) >= self._live_max:
                raise TableFullError
        sequence = LiveSequence(sequence_id, member, now_s)
        self.live[type(sequence_id), sequence_id] = sequence
        self.counts[member] = self.counts.get(member, 0) + 1
        member.sequences += 1
        return sequence

    def _use(self, sequence: LiveSequence, fields: SequenceFields, now_s: float) -> None:
        sequence.used_s = now_s
        sequence.ending = fields.ends or (sequence.ending and not fields.starts)
        self._noted(sequence)

    def _noted(self, sequence: LiveSequence) -> None:
        """A request of the sequence is about to be sent: whoever else must know is told."""

    def _ended(self, sequence: LiveSequence) -> None:
        """Its END has been answered; it is in the table no more."""

    def _drop(self, sequence: LiveSequence) -> None:
        del self.live[type(sequence.id), sequence.id]
        sequence.member.sequences -= 1
        left = self.counts[sequence.member] - 1
        if left:
            self.counts[sequence.member] = left
        else:
            del self.counts[sequence.member]


class SequenceTables:
    """
    The tables of all models that batch sequences; a SliceListener.

    Args:
        changed: Called when models get tables or lose them: pools must be told.
        make_table: Makes the table of a model, whose sequences are idle for so many seconds at most.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        changed: Callable[[], None],
        make_table: Callable[[str, float], SequenceTable] = lambda _, idle_s: SequenceTable(idle_s),
    ) -> None:
        self.by_model: dict[str, SequenceTable] = {}
        self._make_table = make_table
        self._now_s = now_s
        self._changed = changed
        self._swept_s = 0.0

    def follow(self, model: str, idle_s: float | None) -> None:
        """Say what a model's configuration asks for: None where its requests are independent."""
        table = self.by_model.get(model)
        if idle_s is None:
            if table is not None:
                table.drop_all()
                del self.by_model[model]
                self._changed()
        elif table is None:
            self.by_model[model] = self._make_table(model, idle_s)
            self._changed()
        elif table.idle_s != idle_s:
            table.idle_s = idle_s
            self._changed()

    def of_pool(self, key: str) -> SequenceTable | None:
        """Return the table of a pool's model, for pools of inference."""
        if not self.by_model or not key.startswith("infer/"):
            return None
        return self.by_model.get(key.split("/", 2)[1])

    def tick(self, now_s: float) -> None:
        """Call it a few times a second."""
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            for table in self.by_model.values():
                table.sweep(now_s)

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """A SliceListener: a server that is gone, or another one, has no sequences."""
        moved = event == "changed" and member.health.health is UNKNOWN
        if event == "removed" or moved or (event == "health" and member.health.health is DOWN):
            for table in self.by_model.values():
                table.drop_slice(member)
        elif event == "models":
            for model, table in self.by_model.items():
                if model not in (member.models or ()):
                    table.drop_slice(member)


def is_sequence(fields: SequenceFields) -> bool:
    """Return whether a request belongs to a sequence that Triton would take."""
    return bool(fields.id) and (type(fields.id) is int or len(str(fields.id)) <= TEXT_MAX)
