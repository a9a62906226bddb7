"""
What both sides of the HTTP/2 relay do: settings, windows, writing once a turn, and ends.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from gateway.relay.core import RelayCore
from gateway.relay.http2 import frames
from gateway.relay.http2.budget import Budget
from gateway.relay.http2.frames import (
    ACK,
    DEFAULT_FRAME_BYTES,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    ProtocolError,
    header_frames,
    pack_head,
)
from gateway.relay.http2.reading import SocketReader
from gateway.relay.http2.runs import Run
from gateway.relay.http2.stream import COPY_BYTES_MAX, Chunk, Stream
from gateway.relay.slabs import Slabs

UNREAD_BYTES_MAX: Final = 1024 * 1024
"""Answers to control frames, and header blocks, that a peer may leave unread."""
WRITE_AT_ONCE_BYTES: Final = 1024 * 1024
"""More than this is not collected for the turn's end: whether the peer takes it decides what may
follow, and many clients' bodies may be on their way to one slice."""
WINDOW_UPDATES_A_FRAME: Final = 4
"""A peer sends one or two for each frame it gets; more for long is a flood."""
PINGS_A_FRAME: Final = 1
"""The same: gRPC for Go and Java measures the way with a PING for the data of each round trip."""
LINGER_S: Final = 1.0
"""For a peer to read our GOAWAY and hang up. Closing a socket with unread bytes destroys what is on
its way to the peer, so after the GOAWAY we read on, and throw away."""
DEFAULT_TABLE_BYTES: Final = 4096
_FORGET_TABLE: Final = b"\x20"
"""HPACK: the dynamic table is of size 0 from now on. RFC 7541 section 6.3."""

S = TypeVar("S", bound=Stream)


class Connection(SocketReader, Generic[S]):
    """
    One HTTP/2 connection; Downstream and Upstream say what its frames mean.

    An asyncio protocol by its methods, not by inheritance: it has nothing to inherit from there.
    """

    __slots__ = (
        "_block_prefix",
        "_budget",
        "_dirty",
        "_out",
        "_out_large",
        "_pings",
        "_settled",
        "_unread",
        "_unwritten",
        "_window_updates",
        "blocked",
        "deadline_s",
        "frames_sent",
        "peer_frame_bytes",
        "peer_stream_window",
        "receive_left",
        "receive_window",
        "send_window",
        "stream_window",
        "streams",
        "uncredited",
        "window_step",
        "writable",
    )

    credits_at_once = False
    """Give the connection's window back on receipt, not when the data has been passed on."""

    def __init__(self, core: RelayCore, slabs: Slabs) -> None:
        limits = core.limits
        super().__init__(core, slabs)
        # Global state
        self.stream_window = limits.stream_window
        # Until the peer has read our SETTINGS it may use the protocol's default.
        self.receive_window = max(limits.stream_window, frames.DEFAULT_WINDOW)
        self.window_step = limits.connection_window // 2
        # Per-connection state
        self.deadline_s = 0.0
        self.streams: dict[int, S] = {}
        self.blocked: dict[Stream, None] = {}  # ordered: streams with something queued
        self.writable = True
        self.send_window = frames.DEFAULT_WINDOW
        self.peer_stream_window = frames.DEFAULT_WINDOW
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.receive_left = max(limits.connection_window, frames.DEFAULT_WINDOW)
        self.uncredited = 0
        self.frames_sent = 0
        self._settled = False  # the peer's first SETTINGS has come
        self._block_prefix = b""  # of the next header block
        self._window_updates = 0
        self._pings = 0
        self._budget = Budget(limits.control_burst, limits.control_per_s, core.deadlines.now_s)
        self._out: list[Chunk] = []
        self._out_large = 0  # bytes of data in it that go by reference
        self._unread = 0  # written since the peer stopped reading
        self._unwritten = 0  # data that the transport held when it stopped
        self._dirty = False

    # --- what the two sides say ---------------------------------------------------------------

    def on_first_settings(self) -> None:
        """The peer has said what it allows."""

    def on_sent(self, stream: Stream) -> None:
        """END_STREAM has just been written for `stream`."""
        raise NotImplementedError

    def on_window_overflow(self, stream: S) -> None:
        """RFC 9113 section 6.9.1 asks for a stream error here, nothing less."""
        raise NotImplementedError

    def give_up(self, stream: Stream, code: int) -> None:
        """The other half of the call is over; end this one with RST_STREAM."""
        raise NotImplementedError

    def last_stream_id(self) -> int:
        """Return the highest stream id of the peer's that was acted on."""
        return 0

    # --- reading ------------------------------------------------------------------------------

    def eof_received(self) -> bool:
        """A client that sends no more can be told no more either: RST and PING need both ways."""
        return False

    def on_ping(self, payload: bytes) -> None:
        self._pings += 1
        if self._pings > PINGS_A_FRAME * self.frames_sent:
            self.spend("PING")
        self.put(frames.ping(payload, ACK))

    def on_settings(self, entries: list[tuple[int, int]]) -> None:
        for key, value in entries:
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
        elif key == frames.SETTING_HEADER_TABLE_SIZE and value < DEFAULT_TABLE_BYTES:
            # We use no dynamic table, but a peer that shrinks its own must be told so.
            self._block_prefix = _FORGET_TABLE

    def on_window_update(self, stream_id: int, increment: int) -> None:
        self._window_updates += 1
        if self._window_updates > WINDOW_UPDATES_A_FRAME * self.frames_sent:
            self.spend("WINDOW_UPDATE")
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

    def on_unsent(self, out: list[Chunk]) -> None:
        """These whole frames have never left, and never will."""

    # --- receive windows ----------------------------------------------------------------------

    def credit_connection(self, size: int) -> None:
        """Let the peer send `size` more on this connection; told in large steps."""
        self.uncredited += size
        if self.uncredited >= self.window_step:
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
        out, large = self._out, self._out_large
        self._out, self._out_large = [], 0
        transport = self.transport
        if transport is None or not out or self.closed or transport.is_closing():
            self.on_unsent(out)
            return
        if not self.writable:  # so it is no data
            self._unread += sum(map(len, out))
            if self._unread > UNREAD_BYTES_MAX:
                self.core.counters.limit("unread_bytes")
                self.abort()
                return
        if large:
            transport.writelines(out)
        else:
            transport.write(b"".join(out) if len(out) > 1 else out[0])

    def put_large(self, data: Iterable[Chunk], size: int) -> None:
        """Write data by reference: at the end of this turn, or at once when much has gathered."""
        self._out.extend(data)
        if not self._dirty:
            self._dirty = True
            self.core.flusher.add(self)
        self._out_large += size
        if self._out_large > WRITE_AT_ONCE_BYTES:
            self.flush()

    def pause_writing(self) -> None:
        """What has been written so far lies in our memory until the peer reads."""
        self.writable = False
        if self.transport is not None:
            self._unwritten = self.transport.get_write_buffer_size()
            self.core.buffered_bytes += self._unwritten

    def resume_writing(self) -> None:
        self.writable = True
        self._unread = 0
        self.forget_unwritten()
        if self.blocked:
            self.pump()

    def forget_unwritten(self) -> None:
        """It has been read, or never will be."""
        self.core.buffered_bytes -= self._unwritten
        self._unwritten = 0

    def send_headers(self, stream: Stream, block: bytes, ends: bool) -> None:
        """Send a header block; trailers wait behind the data that waits."""
        if stream.queue is not None:
            assert ends, "only trailers come behind data"
            stream.trailers = block
            return
        if self._block_prefix:
            block, self._block_prefix = self._block_prefix + block, b""
        self.frames_sent += 1
        size = len(block)
        if size <= DEFAULT_FRAME_BYTES:
            flags = END_HEADERS | END_STREAM if ends else END_HEADERS
            self.put(pack_head(size << 8 | HEADERS, flags, stream.id) + block)
        else:
            self.put(header_frames(stream.id, block, ends, self.peer_frame_bytes))
        if ends:
            stream.ended_out = True
            self.on_sent(stream)

    def send_whole(self, stream: Stream, block: bytes, data: Chunk) -> bool:
        """Send a short request as one piece; False when it is not as simple as most are."""
        size, block_size = len(data), len(block)
        if (
            size > COPY_BYTES_MAX
            or size > stream.send_window
            or size > self.send_window
            or block_size > DEFAULT_FRAME_BYTES
            or self._block_prefix
            or not self.writable
        ):
            return False
        stream.send_window -= size
        self.send_window -= size
        self.frames_sent += 2
        stream.ended_out = True
        head = pack_head(block_size << 8 | HEADERS, END_HEADERS, stream.id)
        self.put(b"".join((head, block, pack_head(size << 8, END_STREAM, stream.id), data)))
        return True

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
            if size > COPY_BYTES_MAX or ends:
                self._put_data(stream, data, size, ends)
            else:
                self.frames_sent += 1
                self.put(pack_head(size << 8, 0, stream.id) + data)
            return True
        if stream.queue is None:
            stream.queue = deque()
            self.blocked[stream] = None
        queue, core = stream.queue, self.core
        if queue and size + len(queue[-1]) <= COPY_BYTES_MAX:
            queue[-1] = b"".join((queue[-1], data))  # many small pieces would cost more than count
        elif size <= COPY_BYTES_MAX or core.buffered_bytes > core.limits.buffered_bytes >> 3:
            queue.append(bytes(data))  # what waits must not hold all that was read with it
        else:
            queue.append(data)
        stream.ends_after_queue = ends
        core.buffered_bytes += size
        self.pump_stream(stream)
        return False

    def run_target(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        peer = None if stream is None else stream.peer
        return 0 if peer is None or peer.queue is not None else peer.id

    def send_run(self, stream: Stream, run: Run) -> bool:
        """Send DATA frames as they lie in memory, if all of them may go now."""
        payload = run.payload
        if (
            stream.queue is not None
            or run.target_id != stream.id
            or payload > stream.send_window
            or payload > self.send_window
            or run.largest > self.peer_frame_bytes
            or not self.writable
        ):
            return False
        stream.send_window -= payload
        self.send_window -= payload
        self.frames_sent += 1
        self.put_large(run.views, payload)
        if run.ends:
            stream.ended_out = True
            self.on_sent(stream)
        return True

    def _put_data(self, stream: Stream, data: Chunk, size: int, ends: bool) -> None:
        self.frames_sent += 1
        head = pack_head(size << 8, END_STREAM if ends else 0, stream.id)
        if size <= COPY_BYTES_MAX:
            self.put(head + data)
        else:
            self.put_large((head, data), size)
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
            size = len(data)
            allowed = min(size, stream.send_window, self.send_window, self.peer_frame_bytes)
            # An empty end may pass a window that is shut, not one that is below zero: some peers
            # (h2 4.4) take that for a breach.
            if allowed < 0 or (size and not allowed) or not self.writable:
                return
            stream.active_s = self.core.deadlines.now_s
            if allowed < size:
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

    def spend(self, what: str) -> None:
        if not self._budget.spend(self.core.loop.time()):
            reason = f"too many frames of the kind {what}"
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, reason, "control_frames")

    def fail(self, error: ProtocolError) -> None:
        """Tell the peer why, and close."""
        self.core.counters.limit(error.limit)
        self.close(error.code, error.reason)

    def close(self, code: int = frames.NO_ERROR, reason: str = "") -> None:
        """GOAWAY, and close once the peer has hung up or LINGER_S have passed."""
        if self.closed:
            return
        self.put(frames.goaway(self.last_stream_id(), code, reason))
        self.flush()
        self.closed = True
        self.deadline_s = self.core.deadlines.after(LINGER_S)
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()  # over TLS, which cannot close half, the GOAWAY must do

    def abort(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
