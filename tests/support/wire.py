"""
A loop and transports that exist only here: time is turned by hand, bytes move when a test says so.

The transport keeps uvloop's rules, as far as the relays rely on them: a write is tried at once and
what does not fit stays queued; `pause_writing` above the high mark, `resume_writing` at the low
one; no data is delivered while reading is paused; `connection_lost` comes once, later.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, cast


class FakeTimer:
    """A call that the loop makes later, unless it is cancelled."""

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """The part of an event loop that the relays use."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._soon: list[Callable[[], object]] = []
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = count()

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(
        self, delay_s: float, callback: Callable[..., object], *args: object
    ) -> FakeTimer:
        timer = FakeTimer(callback, args)
        heapq.heappush(self._timers, (self.now_s + delay_s, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Run what is due, until nothing is."""
        for _ in range(100_000):
            if not self._soon:
                return
            self._soon.pop(0)()
        raise AssertionError("the loop does not come to rest")

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, with every timer in them."""
        end_s = self.now_s + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end_s:
            self.now_s, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback(*timer.args)
            self.run()
        self.now_s = end_s


class FakeTransport(asyncio.Transport):
    """
    One end of a connection: the protocol under test is on this side, the test is the other.

    Attributes:
        sent: All that has left for the other side.
        eof_sent: The protocol has shut its side down.
        closed: The connection is gone; `aborted`: without what was still queued.
        room: Bytes the other side takes before it blocks; None for any number.

    Args:
        peer: The other side's IP address.
    """

    def __init__(
        self, loop: FakeLoop, protocol: asyncio.BaseProtocol, peer: str = "127.0.0.1"
    ) -> None:
        super().__init__({"peername": (peer, 40000)})
        self.loop = loop
        self.protocol: Any = protocol
        self.sent = bytearray()
        self.eof_sent = self.closed = self.aborted = self.closing = False
        self.reading = True
        self.room: int | None = None
        self._queued = bytearray()
        self._incoming: list[bytes | None] = []
        self._lost = False
        self._paused = False
        self._high, self._low = 65536, 16384

    # --- what the test does -------------------------------------------------------------------

    def sends(self, data: bytes) -> None:
        """The other side sends `data` in one piece."""
        if data:
            self._incoming.append(data)
            self._deliver()

    def sends_eof(self) -> None:
        """The other side shuts its side down."""
        self._incoming.append(None)
        self._deliver()

    def resets(self) -> None:
        """The other side resets the connection."""
        self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def takes(self, size: int | None) -> None:
        """The other side takes `size` more bytes; None for all there are and will be."""
        self.room = None if size is None else (self.room or 0) + size
        self._flush()

    # --- asyncio.Transport --------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof_sent, "write after write_eof"
        if self.closing or self._lost:
            return
        self._queued += data
        self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.eof_sent = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        if not self.closing:
            self.reading = False

    def resume_reading(self) -> None:
        if not self.closing and not self.reading:
            self.reading = True
            self.loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self.protocol)

    def get_write_buffer_size(self) -> int:
        return len(self._queued)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 65536, low or 16384

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.reading = False
            if not self._queued:
                self._lose(None)

    def abort(self) -> None:
        self.aborted = True
        self._lose(None)

    # --- inside -------------------------------------------------------------------------------

    def _flush(self) -> None:
        size = len(self._queued) if self.room is None else min(self.room, len(self._queued))
        self.sent += self._queued[:size]
        del self._queued[:size]
        if self.room is not None:
            self.room -= size
        if not self._paused and len(self._queued) > self._high:
            self._paused = True
            self.protocol.pause_writing()
        elif self._paused and len(self._queued) <= self._low:
            self._paused = False
            self.protocol.resume_writing()
        if self.closing and not self._queued:
            self._lose(None)

    def _deliver(self) -> None:
        while self._incoming and self.reading and not self.closing:
            data = self._incoming.pop(0)
            if data is None:
                keep_open = self.protocol.eof_received()
                self.reading = False
                if not keep_open:
                    self.close()
            elif hasattr(self.protocol, "get_buffer"):
                self._deliver_into_buffers(data)
            else:
                self.protocol.data_received(data)

    def _deliver_into_buffers(self, data: bytes) -> None:
        room = self.protocol.get_buffer(-1)
        size = min(len(room), len(data))
        room[:size] = data[:size]
        del room
        if size < len(data):
            self._incoming.insert(0, data[size:])
        self.protocol.buffer_updated(size)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self.closing = True
        self.reading = False
        self._queued.clear()
        self.loop.call_soon(self._report_loss, error)

    def _report_loss(self, error: Exception | None) -> None:
        self.closed = True
        self.protocol.connection_lost(error)
