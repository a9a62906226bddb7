"""Sender: the client's socket as something that is written to, by a client that may not read."""

from typing import TYPE_CHECKING

from gateway.relay.http1.gatherer import Gatherer

if TYPE_CHECKING:
    from gateway.relay.http1.shared import Shared


class Sender(Gatherer):
    """What a client does not take is accounted for, and its slice is not read from meanwhile."""

    __slots__ = ("_unsent",)

    def __init__(self, shared: "Shared") -> None:
        super().__init__(shared)
        self._unsent = 0  # bytes, as accounted for in core.buffered_bytes

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self.transport.get_write_buffer_size()
        self.shared.core.buffered_bytes += self._unsent
        self.deadline_s = self.send_deadline_s()
        if self.upstream is not None:
            self.upstream.pause_reading()
        self.update_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.shared.core.buffered_bytes -= self._unsent
        self._unsent = 0
        if self.upstream is not None and self.upstream.transport is not None:
            self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.stream_idle_s)
            self.upstream.transport.resume_reading()
        elif self.request is None and not self.finished:
            self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.idle_s)
        self.advance()

    def on_send_idle(self) -> None:
        """The client has taken little for a while: cut it off if it has taken nothing."""
        unsent = self.transport.get_write_buffer_size()
        core = self.shared.core
        if core.buffered_bytes > core.limits.buffered_bytes:
            core.counters.limit("buffered_bytes")
            self.transport.abort()
            return
        if unsent >= self._unsent:
            core.counters.limit("send_idle")
            self.transport.abort()
            return
        core.buffered_bytes += unsent - self._unsent
        self._unsent = unsent
        self.deadline_s = self.send_deadline_s()

    def forget_unsent(self) -> None:
        """The connection is no more, and what was not taken with it."""
        self.shared.core.buffered_bytes -= self._unsent
        self._unsent = 0

    # --- what Downstream adds -----------------------------------------------------------------

    def advance(self, data: bytes | memoryview = b"") -> None:
        """Go on with what has come."""
        raise NotImplementedError
