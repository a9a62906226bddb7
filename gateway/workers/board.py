"""
Board: which slice has which sequence, in memory that all workers share.

Each worker has a part that nobody else writes to, so nobody locks; what the newest note about a
sequence says is so, whoever made it. A note is made before the request that it is about is sent to
its slice, and so before any answer that lets the client go on, perhaps at another worker.

Nothing here is asked or written for models without sequences. Pages nobody has written to take no
memory.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from zlib import crc32

NOTE: Final = struct.Struct("=16sQQi")
"""A sequence's key, when the note was made and until when it counts (ns), its slice's column."""
CHECKED: Final = struct.Struct("=I")
CELL_BYTES: Final = NOTE.size + CHECKED.size
CELLS: Final = 16
"""Of one bucket; a key stands in one of its bucket's."""
BUCKETS: Final = 4096
BUCKET_BYTES: Final = CELLS * CELL_BYTES
PART_BYTES: Final = BUCKETS * BUCKET_BYTES
READS_MAX: Final = 100
"""Of a cell that is being written; its writer needs less than a microsecond."""
ENDED: Final = -1
_EMPTY: Final = bytes(CELL_BYTES)


class BoardFullError(Exception):
    """All cells of the key's bucket are in use."""


@dataclass(frozen=True, slots=True)
class Note:
    """
    What one worker has noted.

    Attributes:
        at_ns: When, on the clock of `time.monotonic_ns`, which all processes share.
        until_ns: It counts no longer after that.
        column: Of the slice that has the sequence; ENDED for one that is over.
        worker: Who noted it.
    """

    at_ns: int
    until_ns: int
    column: int
    worker: int


class Board:
    """
    Args:
        number: File descriptor of the memory; a new one is made when None.

    Attributes:
        number: For the processes that share it.
    """

    def __init__(self, workers: int, number: int | None = None) -> None:
        if number is None:
            number = os.memfd_create("mig-gateway-sequences")
            os.ftruncate(number, workers * PART_BYTES)
        self.number = number
        self._workers = workers
        self._bytes = memoryview(mmap.mmap(number, workers * PART_BYTES))

    def newest(self, key: bytes, now_ns: int) -> Note | None:
        """Return the newest note about a sequence; None when there is none that counts."""
        found: Note | None = None
        for worker in range(self._workers):
            note = self._note(worker, key)
            if note is None or note.until_ns < now_ns:
                continue
            if found is None or note.at_ns > found.at_ns:
                found = note
        return found

    def is_noted(self, key: bytes, now_ns: int, but: int) -> bool:
        """Return whether any worker but this one has a note that counts."""
        others = (self._note(worker, key) for worker in range(self._workers) if worker != but)
        return any(note is not None and note.until_ns >= now_ns for note in others)

    def note(self, worker: int, key: bytes, note: Note, now_ns: int) -> None:
        """
        Write a note into this worker's part, in place of an earlier one.

        Raises:
            BoardFullError: There is no room.
        """
        start = self._bucket(worker, key)
        bucket = bytes(self._bytes[start : start + BUCKET_BYTES])
        at = _place_of(bucket, key)
        if at < 0:
            at = _room(bucket, now_ns)
        if at < 0:
            raise BoardFullError
        cell = NOTE.pack(key, note.at_ns, note.until_ns, note.column)
        self._bytes[start + at : start + at + CELL_BYTES] = cell + CHECKED.pack(crc32(cell))

    def clear(self, worker: int, key: bytes) -> None:
        """Take this worker's note back."""
        start = self._bucket(worker, key)
        at = _place_of(bytes(self._bytes[start : start + BUCKET_BYTES]), key)
        if at >= 0:
            self._bytes[start + at : start + at + CELL_BYTES] = _EMPTY

    def close(self) -> None:
        os.close(self.number)

    def _note(self, worker: int, key: bytes) -> Note | None:
        start = self._bucket(worker, key)
        for _ in range(READS_MAX):
            bucket = bytes(self._bytes[start : start + BUCKET_BYTES])
            at = _place_of(bucket, key)
            if at < 0:
                return None
            cell = bucket[at : at + NOTE.size]
            if crc32(cell) == CHECKED.unpack_from(bucket, at + NOTE.size)[0]:
                _, at_ns, until_ns, column = NOTE.unpack(cell)
                return Note(at_ns, until_ns, column, worker)
        return None  # its writer was killed in the middle

    @staticmethod
    def _bucket(worker: int, key: bytes) -> int:
        return worker * PART_BYTES + int.from_bytes(key[:4], "little") % BUCKETS * BUCKET_BYTES


def key_of(model: str, sequence_id: int | str) -> bytes:
    """Return a sequence's key: 1000 and "1000" are two."""
    kind = b"i" if isinstance(sequence_id, int) else b"s"
    text = b"%s\0%s%s" % (model.encode(), kind, str(sequence_id).encode("utf-8", "replace"))
    return blake2b(text, digest_size=16).digest()


def _place_of(bucket: bytes, key: bytes) -> int:
    """Return the offset of the key's cell; -1 when it has none."""
    at = bucket.find(key)
    while at >= 0 and at % CELL_BYTES:
        at = bucket.find(key, at + 1)
    return at


def _room(bucket: bytes, now_ns: int) -> int:
    """
    Return the offset of a cell that is free, or whose note counts no longer; -1 for none.

    In need the oldest end is forgotten: others may take its sequence for live until it is idle.
    """
    oldest, found = 0, -1
    for at in range(0, BUCKET_BYTES, CELL_BYTES):
        _, at_ns, until_ns, column = NOTE.unpack_from(bucket, at)
        if until_ns < now_ns:
            return at
        if column == ENDED and (found < 0 or at_ns < oldest):
            oldest, found = at_ns, at
    return found
