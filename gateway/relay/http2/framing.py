"""
Reading HTTP/2 frames from a byte stream, and telling a subclass what they are.

A DATA frame is told in pieces as it arrives, so that a slow sender inside a large frame holds up
nobody else; every other frame is waited for, and a header block is put together from its
CONTINUATIONs. Which frame is allowed where is judged here; what it means is the subclass's affair.
"""

from typing import Final

from gateway.metrics import Counters
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
from gateway.relay.http2.stream import COPY_BYTES_MAX, Chunk

BLOCK_BYTES_MAX: Final = 32 * 1024
"""A compressed header block. hpack's time grows with its square, so it is kept short."""


class FrameReader:
    """The receiving half of a connection."""

    __slots__ = (
        "_block",
        "_block_continuations",
        "_block_flags",
        "_block_stream",
        "_continuations_max",
        "_counters",
        "_data_flags",
        "_data_left",
        "_data_stream",
        "_partial",
        "closed",
        "frame_bytes_max",
    )

    def __init__(self, frame_bytes_max: int, continuations_max: int, counters: Counters) -> None:
        self.closed = False
        self.frame_bytes_max = frame_bytes_max
        self._continuations_max = continuations_max
        self._counters = counters
        # Per-frame state
        self._partial: bytes = b""
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

    # --- reading ------------------------------------------------------------------------------

    def read_frames(self, data: Chunk) -> None:
        """Read what has come. Raises ProtocolError when the connection cannot go on."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        at, size = self._rest_of_data(data) if self._data_left else 0, len(data)
        while size - at >= FRAME_HEAD_BYTES:
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
                if length:
                    self.on_data(
                        stream_id,
                        data[start:end] if length < COPY_BYTES_MAX else memoryview(data)[start:end],
                        length,
                        flags & END_STREAM != 0,
                    )
                else:
                    self._empty_data(stream_id, flags)
            elif end > size:
                break
            elif kind == HEADERS and flags & (END_HEADERS | PADDED | HAS_PRIORITY) == END_HEADERS:
                self.on_headers(stream_id, bytes(data[start:end]), flags & END_STREAM != 0)
            else:
                self._other_frame(kind, flags, stream_id, bytes(data[start:end]))
            if self.closed:
                return
            at = end
        if at < size:
            self._partial = bytes(data[at:])

    def _begin_of_data(
        self, data: Chunk, start: int, size: int, length: int, flags: int, stream_id: int
    ) -> None:
        """Pass on what has come of a DATA frame; the rest follows."""
        self._data_left = length - (size - start)
        self._data_stream, self._data_flags = stream_id, flags
        if size > start:
            self.on_data(stream_id, memoryview(data)[start:], size - start, ends=False)

    def _rest_of_data(self, data: Chunk) -> int:
        """Pass on more of a DATA frame; return the offset behind what belongs to it."""
        size = min(self._data_left, len(data))
        self._data_left -= size
        ends = not self._data_left and self._data_flags & END_STREAM != 0
        piece = data if size == len(data) else memoryview(data)[:size]
        self.on_data(self._data_stream, piece, size, ends)
        return size

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
        elif kind == DATA:
            self.on_data(
                stream_id, frames.unpad(flags, payload), len(payload), flags & END_STREAM != 0
            )
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
        elif kind > CONTINUATION:
            self.spend("unknown frames")
        elif stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "connection frame on a stream")
        elif kind == SETTINGS:
            self._settings_frame(flags, payload)
        elif kind == PING:
            self._ping_frame(flags, payload)
        else:
            self.on_goaway(*frames.parse_goaway(payload))

    def _ping_frame(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING must have 8 bytes")
        if flags & ACK:
            self.on_ping_ack(payload)
        else:
            self.spend("PING")
            self.on_ping(payload)

    def _settings_frame(self, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.spend("SETTINGS")
            self.on_settings(frames.parse_settings(payload))
        elif payload:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "SETTINGS ACK carries data")

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
            self._whole_block(stream_id, payload, flags)
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
            self._whole_block(stream_id, block, self._block_flags)

    def _check_block(self) -> None:
        if self._block_continuations > self._continuations_max:
            self._counters.limit("continuations")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        if sum(map(len, self._block)) > BLOCK_BYTES_MAX:
            self._counters.limit("head_bytes")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "header block too large")

    def _whole_block(self, stream_id: int, block: bytes, flags: int) -> None:
        if len(block) > BLOCK_BYTES_MAX:
            self._counters.limit("head_bytes")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "header block too large")
        self.on_headers(stream_id, block, flags & END_STREAM != 0)


def _check_dependency(stream_id: int, payload: bytes) -> None:
    """A stream cannot depend on itself; nothing else of the priority scheme is kept."""
    if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MAX == stream_id:
        raise ProtocolError(frames.PROTOCOL_ERROR, "stream depends on itself")
