"""What ties a call to one slice: its sequence, or the sequences of its stream's messages."""

from gateway.fleet.pools import SlicePool
from gateway.fleet.sequences import (
    LiveSequence,
    SequenceFields,
    SequenceTable,
    TableFullError,
)
from gateway.fleet.slices import Slice
from gateway.relay.core import RelayCore
from gateway.relay.http2.stream import Chunk
from gateway.relay.sequence_fields import MessageTap


class Sticky:
    """
    Attributes:
        bound: The call belongs to a sequence: no other slice can answer it.
        tap: Follows the messages of a stream; None for a unary call.
    """

    __slots__ = ("_core", "_sequence", "_table", "bound", "tap")

    def __init__(self, core: RelayCore, table: SequenceTable, streams: bool) -> None:
        self._core = core
        self._table = table
        self._sequence: LiveSequence | None = None
        self.bound = False
        self.tap = MessageTap() if streams else None

    def begin(self, fields: SequenceFields, pool: SlicePool) -> Slice | None:
        """
        Return the slice for a call whose first message says `fields`; `finish` is owed.

        Raises:
            TableFullError: A new sequence finds no room.
        """
        sequence = self._table.begin(fields, pool.members, self._core.deadlines.now_s)
        if sequence is None:
            if pool.members or pool.trials or pool.reserve:
                return pool.pick()
            return self._core.registry.everywhere.pick()
        self.bound = True
        if self.tap is None:
            self._sequence = sequence
        else:
            # From here on it is followed like those of the stream's other messages.
            self._table.finish(sequence, self._core.deadlines.now_s)
        return sequence.member

    def passes(self, data: Chunk, member: Slice) -> None:
        """A piece of the stream goes to `member`, and with it the sequences that begin there."""
        assert self.tap is not None, "a unary call is not followed"
        for start in self.tap.feed(data):
            table = self._core.registry.sequences.by_model.get(start.model)
            if table is not None and start.fields.id:
                self.bound = True
                try:
                    table.adopt(start.fields, member, self._core.deadlines.now_s)
                except TableFullError:
                    self._core.counters.limit("sequences")

    def finish(self) -> None:
        """The slice's part in the call is over, however it ended."""
        sequence, self._sequence = self._sequence, None
        if sequence is not None:
            self._table.finish(sequence, self._core.deadlines.now_s)
