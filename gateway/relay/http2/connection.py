"""
What both sides of the HTTP/2 relay do: framing, settings, pings, windows, writing once a turn.

A DATA frame is passed on as it arrives, in pieces of our own framing, so that a slow sender inside a
large frame holds up nobody else on the connection to the slice. Every other frame is waited for.
"""

import asyncio
from collections import deque
from typing import Final

from gateway.relay.core import RelayCore
from gateway.relay.http2 import frames
from gateway.relay.http2.budget import Budget
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
    header_frames,
    pack_head,
    unpack_head,
)
from gateway.relay.http2.stream import Chunk, Stream

COPY_BYTES_MAX: Final = 4096
"""Up to this a piece is copied and joined with its frame head; above, it goes by reference."""
UNREAD_BYTES_MAX: Final = 1024 * 1024
"""Answers to control frames, and header blocks, that a peer may leave unread."""
BLOCK_BYTES_MAX: Final = 32 * 1024
"""A compressed header block. hpack's time grows with its square, so it is kept short."""
WINDOW_UPDATES_A_FRAME: Final = 4
"""A peer sends one or two for each frame it gets; more for long is a flood."""


class Connection(asyncio.Protocol):
    """One HTTP/2 connection; Downstream and Upstream say what its frames mean."""

    __slots__ = (
        "_block",
        "_block_continuations",
        "_block_flags",
        "_block_stream",
        "_budget",
        "_data_flags",
        "_data_left",
        "_data_stream",
        "_dirty",
        "_out",
        "_out_is_large",
        "_partial",
        "_settled",
        "_window_updates",
        "blocked",
        "closed",
        "core",
        "deadline_s",
        "frame_bytes_max",
        "frames_sent",
        "last_read_s",
        "peer_frame_bytes",
        "peer_stream_window",
        "receive_left",
        "send_window",
        "stream_window",
        "streams",
        "transport",
        "uncredited",
        "writable",
    )

    credits_at_once = False
    """Give the connection's window back on receipt, not when the data has been passed on."""

    def __init__(self, core: RelayCore) -> None:
        # Global state
        self.core = core
        limits = core.limits
        self.frame_bytes_max = limits.frame_bytes
        self.stream_window = limits.stream_window
        # Per-connection state
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.deadline_s = 0.0
        self.last_read_s = core.deadlines.now_s
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[Stream, None] = {}  # ordered: streams with something queued
        self.writable = True
        self.send_window = frames.DEFAULT_WINDOW
        self.peer_stream_window = frames.DEFAULT_WINDOW
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.receive_left = limits.connection_window
        self.uncredited = 0
        self.frames_sent = 0
        self._settled = False  # the peer's first SETTINGS has come
        self._window_updates = 0
        self._budget = Budget(limits.control_burst, limits.control_per_s, core.deadlines.now_s)
        self._out: list[Chunk] = []
        self._out_is_large = False
        self._dirty = False
        # Per-frame state
        self._partial: bytes = b""
        self._data_left = 0
        self._data_stream = 0
        self._data_flags = 0
        self._block_stream = 0
        self._block: list[bytes] = []
        self._block_flags = 0
        self._block_continuations = 0

    # --- what the two sides say ---------------------------------------------------------------

    def on_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        raise NotImplementedError

    def on_data(self, stream_id: int, data: Chunk, size: int, ends: bool) -> None:
        """`size` counts against the windows; it is more than `len(data)` where there was padding."""
        raise NotImplementedError

    def on_reset(self, stream_id: int, code: int) -> None:
        raise NotImplementedError

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        raise NotImplementedError

    def on_ping_ack(self, payload: bytes) -> None:
        """An answer to a PING of ours."""

    def on_first_settings(self) -> None:
        """The peer has said what it allows."""

    def on_sent(self, stream: Stream) -> None:
        """END_STREAM has just been written for `stream`."""
        raise NotImplementedError

    def give_up(self, stream: Stream, code: int) -> None:
        """The other half of the call is over; end this one with RST_STREAM."""
        raise NotImplementedError

    def is_idle_stream(self, stream_id: int) -> bool:
        """Return whether the stream has not been opened yet."""
        raise NotImplementedError

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: Chunk) -> None:
        if self.closed:
            return
        self.last_read_s = self.core.deadlines.now_s
        if self._partial:
            data, self._partial = self._partial + data, b""
        try:
            self._read_frames(data)
        except ProtocolError as error:
            self.fail(error)

    def _read_frames(self, data: Chunk) -> None:
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
            self.spend(1.0, "empty DATA")
        self.on_data(stream_id, b"", 0, flags & END_STREAM != 0)

    def _other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == HEADERS:
            self._begin_block(stream_id, flags, payload)
        elif kind == CONTINUATION:
            self._more_block(flags, payload)
        elif kind == frames.RST_STREAM:
            self._on_reset_frame(stream_id, payload)
        elif kind == DATA:
            self.on_data(
                stream_id, frames.unpad(flags, payload), len(payload), flags & END_STREAM != 0
            )
        else:
            self._control_frame(kind, flags, stream_id, payload)

    def _control_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.PRIORITY:
            self.spend(1.0, "PRIORITY")
            if not stream_id:
                raise ProtocolError(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
            if len(payload) != 5:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "PRIORITY must have 5 bytes")
            _check_dependency(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(frames.PROTOCOL_ERROR, "push is switched off")
        elif kind > CONTINUATION:
            self.spend(1.0, "unknown frames")
        elif stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "connection frame on a stream")
        elif kind == SETTINGS:
            self._on_settings(flags, payload)
        elif kind == PING:
            self._on_ping(flags, payload)
        else:
            self.on_goaway(*frames.parse_goaway(payload))

    def _on_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "PING must have 8 bytes")
        if flags & ACK:
            self.on_ping_ack(payload)
        else:
            self.spend(1.0, "PING")
            self.put(frames.ping(payload, ACK))

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "SETTINGS ACK carries data")
            return
        self.spend(1.0, "SETTINGS")
        for key, value in frames.parse_settings(payload):
            self.on_setting(key, value)
        self.put(frames.SETTINGS_ACK)
        if not self._settled:
            self._settled = True
            self.on_first_settings()
        if self.blocked:
            self.pump()

    def on_setting(self, key: int, value: int) -> None:
        if key == frames.SETTING_INITIAL_WINDOW_SIZE:
            delta, self.peer_stream_window = value - self.peer_stream_window, value
            for stream in self.streams.values():
                stream.send_window += delta
                if stream.send_window > frames.WINDOW_MAX:
                    raise ProtocolError(frames.FLOW_CONTROL_ERROR, "window above 2^31-1")
        elif key == frames.SETTING_MAX_FRAME_SIZE:
            self.peer_frame_bytes = value

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        increment = frames.parse_u32(payload) & frames.WINDOW_MAX
        self._window_updates += 1
        if self._window_updates > WINDOW_UPDATES_A_FRAME * self.frames_sent:
            self.spend(1.0, "WINDOW_UPDATE")
        if not increment:
            raise ProtocolError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        if not stream_id:
            self.send_window += increment
            if self.send_window > frames.WINDOW_MAX:
                raise ProtocolError(frames.FLOW_CONTROL_ERROR, "window above 2^31-1")
            if self.blocked:
                self.pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle_stream(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_MAX:
            self.on_window_overflow(stream)
        elif stream.queue is not None:
            self.pump_stream(stream)

    def on_window_overflow(self, stream: Stream) -> None:
        """RFC 9113 section 6.9.1 asks for a stream error here, nothing less."""
        raise NotImplementedError

    def _on_reset_frame(self, stream_id: int, payload: bytes) -> None:
        code = frames.parse_u32(payload)
        if not stream_id or self.is_idle_stream(stream_id):
            raise ProtocolError(frames.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self.on_reset(stream_id, code)

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
        if self._block_continuations > self.core.limits.continuations:
            self.core.counters.limit("continuations")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        if sum(map(len, self._block)) > BLOCK_BYTES_MAX:
            self.core.counters.limit("head_bytes")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "header block too large")

    def _whole_block(self, stream_id: int, block: bytes, flags: int) -> None:
        if len(block) > BLOCK_BYTES_MAX:
            self.core.counters.limit("head_bytes")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "header block too large")
        self.on_headers(stream_id, block, flags & END_STREAM != 0)

    # --- receive windows ----------------------------------------------------------------------

    def receive(self, size: int) -> None:
        """Count `size` against the connection's receive window."""
        self.receive_left -= size
        if self.receive_left < 0:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "connection window exceeded")
        if self.credits_at_once:
            self.credit_connection(size)

    def credit_connection(self, size: int) -> None:
        """Let the peer send `size` more on this connection; told in large steps."""
        self.uncredited += size
        if self.uncredited * 2 >= self.core.limits.connection_window:
            self.receive_left += self.uncredited
            self.put(frames.window_update(0, self.uncredited))
            self.uncredited = 0

    def credit(self, stream: Stream, size: int) -> None:
        """Let the peer send `size` more on `stream`: that much has been passed on."""
        size = min(size, stream.held)  # what is sent a second time was credited the first
        stream.held -= size
        if not self.credits_at_once:
            self.credit_connection(size)
        if stream.ended_in:
            return
        stream.uncredited += size
        if stream.uncredited * 2 >= self.stream_window:
            stream.receive_left += stream.uncredited
            self.put(frames.window_update(stream.id, stream.uncredited))
            stream.uncredited = 0

    # --- writing ------------------------------------------------------------------------------

    def put(self, data: Chunk) -> None:
        """Write `data` at the end of this turn."""
        self._out.append(data)
        if not self._dirty:
            self._dirty = True
            self.core.flusher.add(self)

    def flush(self) -> None:
        self._dirty = False
        out, large = self._out, self._out_is_large
        self._out, self._out_is_large = [], False
        transport = self.transport
        if transport is None or not out or transport.is_closing():
            return
        if large:
            transport.writelines(out)
        else:
            transport.write(b"".join(out) if len(out) > 1 else out[0])
        if not self.writable and transport.get_write_buffer_size() > UNREAD_BYTES_MAX + (
            self.core.limits.stream_window
        ):
            self.core.counters.limit("unread_bytes")
            self.abort()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.blocked:
            self.pump()

    def send_headers(self, stream: Stream, block: bytes, ends: bool) -> None:
        """Send a header block; trailers wait behind the data that waits."""
        if stream.queue is not None:
            assert ends, "only trailers come behind data"
            stream.trailers = block
            return
        self.frames_sent += 1
        self.put(header_frames(stream.id, block, ends, self.peer_frame_bytes))
        if ends:
            stream.ended_out = True
            self.on_sent(stream)

    def send_data(self, stream: Stream, data: Chunk, ends: bool) -> bool:
        """Send `data`, or queue what windows and a slow reader do not allow; True when all is sent."""
        size = len(data)
        if (
            stream.queue is None
            and size <= stream.send_window
            and size <= self.send_window
            and size <= self.peer_frame_bytes
            and self.writable
        ):
            stream.send_window -= size
            self.send_window -= size
            self._put_data(stream, data, size, ends)
            return True
        if stream.queue is None:
            stream.queue = deque()
            self.blocked[stream] = None
        stream.queue.append(data)
        stream.ends_after_queue = ends
        self.core.buffered_bytes += size
        self.pump_stream(stream)
        return False

    def _put_data(self, stream: Stream, data: Chunk, size: int, ends: bool) -> None:
        self.frames_sent += 1
        head = pack_head(size << 8, END_STREAM if ends else 0, stream.id)
        if size <= COPY_BYTES_MAX:
            self.put(head + data)
        else:
            self._out_is_large = True
            self.put(head)
            self.put(data)
        if ends:
            stream.ended_out = True
            self.on_sent(stream)

    def pump(self) -> None:
        """Send what has become possible, stream by stream in turn."""
        for stream in list(self.blocked):
            self.pump_stream(stream)
            if stream in self.blocked:  # the next turn starts with another
                del self.blocked[stream]
                self.blocked[stream] = None
            if self.send_window <= 0 or not self.writable:
                return

    def pump_stream(self, stream: Stream) -> None:
        queue = stream.queue
        assert queue is not None
        while queue:
            data = queue[0]
            allowed = min(len(data), stream.send_window, self.send_window, self.peer_frame_bytes)
            if (allowed <= 0 and len(data)) or not self.writable:
                return
            if allowed < len(data):
                queue[0] = memoryview(data)[allowed:]
                data = memoryview(data)[:allowed]
            else:
                queue.popleft()
            stream.send_window -= allowed
            self.send_window -= allowed
            self.core.buffered_bytes -= allowed
            # The last piece may end the stream, and then forget the queue.
            ends = stream.ends_after_queue and not queue
            if not queue:
                stream.queue = None
                self.blocked.pop(stream, None)
            source = stream.peer
            self._put_data(stream, data, allowed, ends)
            if source is not None:
                source.connection.credit(source, allowed)
        if stream.trailers is not None:
            block, stream.trailers = stream.trailers, None
            self.send_headers(stream, block, ends=True)

    def drop_queue(self, stream: Stream) -> None:
        """Forget what `stream` still had to send, and what it holds of its own window."""
        if stream.queue is not None:
            self.core.buffered_bytes -= sum(map(len, stream.queue))
            stream.queue = None
            self.blocked.pop(stream, None)
        stream.trailers = None
        if stream.held and not self.credits_at_once:
            self.credit_connection(stream.held)
        stream.held = 0

    # --- ends ---------------------------------------------------------------------------------

    def spend(self, amount: float, what: str) -> None:
        """Take from the budget for frames that make work and carry no request."""
        if not self._budget.spend(self.core.loop.time(), amount):
            self.core.counters.limit("control_frames")
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, f"too many frames of the kind {what}")

    def fail(self, error: ProtocolError) -> None:
        """Tell the peer why, and close."""
        self.core.counters.limit("h2_protocol_error")
        self.close(error.code, error.reason)

    def close(self, code: int = frames.NO_ERROR, reason: str = "") -> None:
        """GOAWAY, then close once that is written."""
        if self.closed:
            return
        self.put(frames.goaway(self.last_stream_id(), code, reason))
        self.flush()
        self.closed = True
        if self.transport is not None:
            self.transport.close()

    def last_stream_id(self) -> int:
        """Return the highest stream id of the peer's that was acted on."""
        return 0

    def abort(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


def _check_dependency(stream_id: int, payload: bytes) -> None:
    """A stream cannot depend on itself; nothing else of the priority scheme is kept."""
    if int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MAX == stream_id:
        raise ProtocolError(frames.PROTOCOL_ERROR, "stream depends on itself")
