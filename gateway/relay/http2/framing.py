"""
Reading HTTP/2 frames from a byte stream, and telling a subclass what they are.

A DATA frame is told in pieces as it arrives, so that a slow sender inside a large frame holds up
nobody else, and frames of unknown kinds are skipped; every other frame is waited for, and a header block is put together from its
CONTINUATIONs. Which frame is allowed where is judged here; what it means is the subclass's affair.
"""

from typing import Final, cast

from gateway.relay.http2 import frames
from gateway.relay.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD_BYTES,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    SETTINGS,
    ProtocolError,
    unpack_head,
)
from gateway.relay.http2.runs import Run, runs_at
from gateway.relay.http2.stream import COPY_BYTES_MAX, Chunk

WHOLE_BYTES_MAX: Final = 32 * 1024
"""A frame that is waited for, and not a header block."""
BLOCK_BYTES_MAX: Final = 128 * 1024
"""A header block. What it means is bounded as well, by hpack: to decode the worst takes 20 ms."""
TURN_WORK: Final = 256
"""Frames to be read before everybody else has a turn; see FrameReader.yield_turn()."""
WORK_SHIFT: Final = 6
"""64 bytes of a header block are as much work as a frame."""
SMALL_FRAME_BYTES: Final = 1024
"""Larger DATA frames do not count as work: what they bring is worth it."""

_HEADERS_FLAGS: Final = END_HEADERS | PADDED | HAS_PRIORITY


class FrameReader:
    """The receiving half of a connection."""

    __slots__ = (
        "_block",
        "_block_continuations",
        "_block_flags",
        "_block_stream",
        "_continuations_max",
        "_data_flags",
        "_data_left",
        "_data_stream",
        "_partial",
        "_skip_left",
        "_turn_left",
        "_wanted",
        "closed",
        "frame_bytes_max",
    )

    def __init__(self, frame_bytes_max: int, continuations_max: int) -> None:
        self.closed = False
        self.frame_bytes_max = frame_bytes_max
        self._continuations_max = continuations_max
        # Per-frame state
        self._partial = bytearray()  # of a frame that is waited for
        self._wanted = 0  # bytes it must have before it is looked at again
        self._skip_left = 0  # padding, or a frame nobody knows
        self._turn_left = TURN_WORK
        self._data_left = 0
        self._data_stream = 0
        self._data_flags = 0
        self._block_stream = 0
        self._block: list[bytes] = []
        self._block_flags = 0
        self._block_continuations = 0

    # --- what the subclass is told ------------------------------------------------------------

    def on_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        raise NotImplementedError

    def on_data(self, stream_id: int, data: Chunk, size: int, ends: bool) -> None:
        """`size` counts against windows; it is more than `len(data)` where there was padding."""
        raise NotImplementedError

    def run_target(self, stream_id: int) -> int:
        """Return the stream whose frames those of this one may become as they lie in memory, or 0."""
        return 0

    def on_run(self, run: Run) -> bool:
        """Take several DATA frames at once, or return False to be told of each by on_data()."""
        return False

    def on_reset(self, stream_id: int, code: int) -> None:
        raise NotImplementedError

    def on_settings(self, entries: list[tuple[int, int]]) -> None:
        raise NotImplementedError

    def on_ping(self, payload: bytes) -> None:
        raise NotImplementedError

    def on_ping_ack(self, payload: bytes) -> None:
        """An answer to a PING of ours."""

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        raise NotImplementedError

    def on_window_update(self, stream_id: int, increment: int) -> None:
        raise NotImplementedError

    def is_idle_stream(self, stream_id: int) -> bool:
        """Return whether the stream has not been opened yet."""
        raise NotImplementedError

    def spend(self, what: str) -> None:
        """Take from the budget for frames that make work and carry no request."""
        raise NotImplementedError

    def yield_turn(self) -> None:
        """Read nothing more until the others had their turn, and then call read_frames(b"")."""
        self._turn_left = TURN_WORK

    # --- reading ------------------------------------------------------------------------------

    # One function, because a call costs 50 ns and this runs five times a unary call.
    def read_frames(self, data: Chunk) -> None:  # noqa: C901, PLR0915
        """Read what has come. Raises ProtocolError when the connection cannot go on."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data, self._partial = bytes(self._partial), bytearray()
        at, size = 0, len(data)
        in_place = type(data) is memoryview and not data.readonly
        if self._data_left or self._skip_left:
            at = self._rest_of_frame(data, size)
        while size - at >= FRAME_HEAD_BYTES and not self.closed:
            length_kind, flags, stream_id = unpack_head(data, at)
            length, kind, start = length_kind >> 8, length_kind & 0xFF, at + FRAME_HEAD_BYTES
            if length > self.frame_bytes_max:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "frame is larger than allowed")
            stream_id &= frames.STREAM_ID_MAX
            if self._block_stream and (kind != CONTINUATION or stream_id != self._block_stream):
                raise ProtocolError(frames.PROTOCOL_ERROR, "a header block was interrupted")
            end = start + length
            if kind == DATA and not flags & PADDED:
                if end > size:
                    self._begin_of_data(data, start, size, length, flags, stream_id)
                    return
                if length >= COPY_BYTES_MAX and in_place:
                    next_at = self._take_runs(cast("memoryview", data), at)
                    if next_at > at:
                        at = next_at
                        continue
                if length:
                    piece = (
                        data[start:end] if length < COPY_BYTES_MAX else memoryview(data)[start:end]
                    )
                    self.on_data(stream_id, piece, length, flags & END_STREAM != 0)
                else:
                    self._empty_data(stream_id, flags)
                if length >= SMALL_FRAME_BYTES:
                    at = end
                    continue
            elif kind == HEADERS and flags & _HEADERS_FLAGS == END_HEADERS and end <= size:
                block = data[start:end]
                if type(block) is not bytes:
                    block = bytes(block)
                self.on_headers(stream_id, block, flags & END_STREAM != 0)
            elif kind == DATA or kind > CONTINUATION:
                if size == start and length:
                    break  # the first byte says how much is padding
                end = self._begin_of_odd_frame(data, start, size, length_kind, flags, stream_id)
            elif end > size:
                _check_whole(kind, length)
                break
            else:
                self._other_frame(kind, flags, stream_id, bytes(data[start:end]))
            at = end
            self._turn_left -= 1 + (length >> WORK_SHIFT)
            if self._turn_left <= 0:
                self.yield_turn()
                break
        if at < size and not self.closed:
            self._wait_for_rest(data, at, size)

    def _wait_for_rest(self, data: Chunk, at: int, size: int) -> None:
        """Keep what lies behind `at`: a frame that is not whole, or all that another turn is for."""
        self._partial = bytearray(data[at:])
        self._wanted = FRAME_HEAD_BYTES
        if size - at >= FRAME_HEAD_BYTES:
            length_kind = unpack_head(data, at)[0]
            told_in_pieces = not length_kind & 0xFF or length_kind & 0xFF > CONTINUATION
            self._wanted += 1 if told_in_pieces else max(1, length_kind >> 8)

    def _take_runs(self, memory: memoryview, at: int) -> int:
        """Pass on the large DATA frames that begin at `at`; return the offset behind them."""
        at, runs = runs_at(memory, at, self.frame_bytes_max, COPY_BYTES_MAX, self.run_target)
        for run in runs:
            if self.on_run(run):
                continue
            pieces = run.pieces()
            last = len(pieces) - 1
            for index, piece in enumerate(pieces):
                if self.closed:
                    return at
                self.on_data(run.stream_id, piece, len(piece), run.ends and index == last)
        return at

    def _begin_of_data(
        self, data: Chunk, start: int, size: int, length: int, flags: int, stream_id: int
    ) -> None:
        """Pass on what has come of a DATA frame; the rest follows."""
        self._data_left = length - (size - start)
        self._data_stream, self._data_flags = stream_id, flags
        if size > start:
            self.on_data(stream_id, memoryview(data)[start:], size - start, ends=False)

    def _begin_of_odd_frame(
        self, data: Chunk, start: int, size: int, length_kind: int, flags: int, stream_id: int
    ) -> int:
        """Begin a padded DATA frame or one of a kind unknown; return where reading goes on."""
        length = length_kind >> 8
        if length_kind & 0xFF != DATA:
            self.spend("unknown frames")
            self._skip_left = length
            return self._rest_of_frame(data, size, start)
        if not length:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "padded frame is empty")
        padding = data[start]
        if padding >= length:
            raise ProtocolError(frames.PROTOCOL_ERROR, "padding is longer than the frame")
        content = length - 1 - padding
        if not content and not flags & END_STREAM:
            self.spend("empty DATA")
        self.on_data(stream_id, b"", 1 + padding, ends=not content and flags & END_STREAM != 0)
        self._data_left, self._skip_left = content, padding
        self._data_stream, self._data_flags = stream_id, flags
        return self._rest_of_frame(data, size, start + 1)

    def _rest_of_frame(self, data: Chunk, size: int, at: int = 0) -> int:
        """Pass on more of a frame that is told in pieces; return the offset behind it."""
        length = min(self._data_left, size - at)
        if length:
            self._data_left -= length
            ends = not self._data_left and self._data_flags & END_STREAM != 0
            piece = data if length == len(data) else memoryview(data)[at : at + length]
            self.on_data(self._data_stream, piece, length, ends)
            at += length
        skipped = min(self._skip_left, size - at)
        self._skip_left -= skipped
        return at + skipped

    def _empty_data(self, stream_id: int, flags: int) -> None:
        if not flags & END_STREAM:
            self.spend("empty DATA")
        self.on_data(stream_id, b"", 0, flags & END_STREAM != 0)

    def _other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            increment = frames.parse_u32(payload) & frames.WINDOW_MAX
            self.on_window_update(stream_id, increment)
        elif kind == HEADERS:
            self._begin_block(stream_id, flags, payload)
        elif kind == CONTINUATION:
            self._more_block(flags, payload)
        elif kind == frames.RST_STREAM:
            code = frames.parse_u32(payload)
            if not stream_id or self.is_idle_stream(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            self.on_reset(stream_id, code)
        else:
            self._control_frame(kind, flags, stream_id, payload)

    def _control_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.PRIORITY:
            self.spend("PRIORITY")
            if not stream_id:
                raise ProtocolError(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
            if len(payload) != 5:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "PRIORITY must have 5 bytes")
            _check_dependency(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(frames.PROTOCOL_ERROR, "push is switched off")
        elif stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "connection frame on a stream")
        elif kind == SETTINGS:
            self._settings_frame(flags, payload)
        elif kind == PING:
            self._ping_frame(flags, payload)
        else:
            self.spend("GOAWAY")
            self.on_goaway(*frames.parse_goaway(payload))

    def _ping_frame(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING must have 8 bytes")
        if flags & ACK:
            self.spend("PING")
            self.on_ping_ack(payload)
        else:
            self.on_ping(payload)

    def _settings_frame(self, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.spend("SETTINGS")
            self.on_settings(frames.parse_settings(payload))
        elif payload:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "SETTINGS ACK carries data")
        else:
            self.spend("SETTINGS")

    # --- header blocks in several frames ------------------------------------------------------

    def _begin_block(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "HEADERS on stream 0")
        payload = frames.unpad(flags, payload)
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            _check_dependency(stream_id, payload)
            payload = payload[5:]
        if flags & END_HEADERS:
            self.on_headers(stream_id, payload, flags & END_STREAM != 0)
            return
        self._block_stream, self._block_flags = stream_id, flags
        self._block, self._block_continuations = [payload], 0
        self._check_block()

    def _more_block(self, flags: int, payload: bytes) -> None:
        if not self._block_stream:
            raise ProtocolError(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._block.append(payload)
        self._block_continuations += 1
        self._check_block()
        if flags & END_HEADERS:
            stream_id, self._block_stream = self._block_stream, 0
            block, self._block = b"".join(self._block), []
            self.on_headers(stream_id, block, self._block_flags & END_STREAM != 0)

    def _check_block(self) -> None:
        if self._block_continuations > self._continuations_max:
            raise ProtocolError(
                frames.ENHANCE_YOUR_CALM, "too many CONTINUATION frames", "continuations"
            )
        _check_whole(HEADERS, sum(map(len, self._block)))


def _check_whole(kind: int, length: int) -> None:
    """Refuse to wait for, or put together, what is too large."""
    if kind in (HEADERS, CONTINUATION):
        if length > BLOCK_BYTES_MAX:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "header block too large", "head_bytes")
    elif length > WHOLE_BYTES_MAX:
        raise ProtocolError(frames.FRAME_SIZE_ERROR, "frame is larger than its kind may be")


def _check_dependency(stream_id: int, payload: bytes) -> None:
    """A stream cannot depend on itself; nothing else of the priority scheme is kept."""
    if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MAX == stream_id:
        raise ProtocolError(frames.PROTOCOL_ERROR, "stream depends on itself")
