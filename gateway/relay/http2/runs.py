"""
Large DATA frames, forwarded as they lie in memory.

A client with several calls sends their frames in turn, so what one read brings is sorted by stream
first, and then told of each stream once. See FrameReader._take_runs().
"""

from collections.abc import Callable
from struct import Struct
from typing import Final

from gateway.relay.http2.frames import (
    END_STREAM,
    FRAME_HEAD_BYTES,
    STREAM_ID_MAX,
    unpack_head,
)

_PUT_STREAM_ID: Final = Struct(">I").pack_into


class Run:
    """
    DATA frames of one stream from one read, in memory that may be written to.

    They are passed on as they lie there, heads and all, with the stream ids overwritten: a request
    of 602 kB in frames of 16 KiB then costs 320 us of CPU time, not 510 (nginx: 360, same run).

    Attributes:
        stream_id: On which they came.
        target_id: The stream of another connection whose frames they have been made.
        views: The frames; those that follow each other in one view.
        payload: Bytes in them that count against windows.
        largest: Payload of the largest.
        ends: The last has END_STREAM.
    """

    __slots__ = ("_end", "_start", "ends", "largest", "payload", "stream_id", "target_id", "views")

    def __init__(self, stream_id: int, target_id: int, start: int) -> None:
        self.stream_id = stream_id
        self.target_id = target_id
        self.views: list[memoryview] = []
        self.payload = 0
        self.largest = 0
        self.ends = False
        self._start = self._end = start  # of the view that is not in `views` yet

    def add(self, memory: memoryview, start: int, end: int, flags: int) -> None:
        """Take the frame from `start` to `end` as the next, and make it one of the target's."""
        payload = end - start - FRAME_HEAD_BYTES
        self.payload += payload
        if payload > self.largest:
            self.largest = payload
        self.ends = flags == END_STREAM
        _PUT_STREAM_ID(memory, start + 5, self.target_id)
        if start != self._end:
            self.views.append(memory[self._start : self._end])
            self._start = start
        self._end = end

    def finish(self, memory: memoryview) -> None:
        """No other frame follows."""
        self.views.append(memory[self._start : self._end])

    def pieces(self) -> list[memoryview]:
        """Return the frames' payloads."""
        found: list[memoryview] = []
        for view in self.views:
            at, size = 0, len(view)
            while at < size:
                start = at + FRAME_HEAD_BYTES
                at = start + (unpack_head(view, at)[0] >> 8)
                found.append(view[start:at])
        return found


def runs_at(
    memory: memoryview,
    at: int,
    frame_bytes_max: int,
    frame_bytes_min: int,
    target_of: Callable[[int], int],
) -> tuple[int, list[Run]]:
    """
    Sort the whole DATA frames that begin at `at` by stream, up to the first that is not plain.

    Args:
        memory: What was read.
        at: Where a frame begins.
        frame_bytes_max: A frame with more payload is not plain.
        frame_bytes_min: Nor is one with less, but behind a plain one it may end the stream.
        target_of: Returns the stream whose frames those of a stream are to be; 0 where they cannot
            go as they are. Asked once a stream.

    Returns:
        Where the first other frame begins; and the runs, which are not empty.
    """
    size = len(memory)
    runs: dict[int, Run] = {}
    while size - at >= FRAME_HEAD_BYTES:
        length_kind, flags, stream_id = unpack_head(memory, at)
        length = int(length_kind) >> 8
        end = at + FRAME_HEAD_BYTES + length
        if (
            length_kind & 0xFF
            or flags & ~END_STREAM
            or end > size
            or length > frame_bytes_max
            or (length < frame_bytes_min and not flags)
        ):
            break
        stream_id &= STREAM_ID_MAX
        run = runs.get(stream_id)
        if run is None:
            if length < frame_bytes_min:
                break
            target_id = target_of(stream_id)
            if not target_id:
                break
            run = runs[stream_id] = Run(stream_id, target_id, at)
        elif run.ends:
            break
        run.add(memory, at, end, flags)
        at = end
    found = list(runs.values())
    for run in found:
        run.finish(memory)
    return at, found
