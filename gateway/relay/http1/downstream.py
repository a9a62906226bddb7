"""
The client's side of a connection: one request after the other, answered in order.

A request takes one of two ways. The short one, inline in `data_received`, is for what clients
send all day: a small request that arrived whole, under a head that was seen before. Everything
else goes through `_take` and Exchange, which are made of the same steps with nothing left out.
"""

import asyncio
from time import monotonic
from typing import Final, cast

from gateway.errors import (
    ANSWER_TIMEOUT,
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    OVERLOADED,
    REQUEST_TIMEOUT,
    URI_TOO_LONG,
    Fault,
)
from gateway.fleet.outcomes import REJECTED, TIMEOUT
from gateway.limits import KIB
from gateway.relay.http1.body import ChunkedBody, framed
from gateway.relay.http1.grammar import CHUNKED, bare_line_end
from gateway.relay.http1.head import PLAIN_BYTES_MAX, RequestHead, judge_request
from gateway.relay.http1.sender import Sender
from gateway.relay.http1.shared import (
    CLIENT_WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Shared,
)
from gateway.relay.router import BALANCED
from gateway.relay.slabs import LARGE_BODY_BYTES, READ_BYTES_MAX, SlabReader, forget_reader

EMPTY_LINES_MAX: Final = 4
"""Before a request line; some old clients send one after a body."""
LINGER_S: Final = 2.0
"""After an answer that the client may read before it has sent its whole request."""
READ_AHEAD_BYTES: Final = 16 * KIB
"""Read at once beyond the body that is awaited. With nothing, a read that brings all of it would be
followed by one that brings nothing: a full read looks as if there were more."""
AT_ONCE_MAX: Final = 32
"""Pipelined requests that are answered before everybody else has a turn: libuv reads up to 32 times
before it looks at another socket, which is 200,000 requests."""
SMALL_STREAK: Final = 16
"""Requests without a large body after which a connection goes back to plain reads."""


class Downstream(Sender):
    """
    One client's connection.

    An asyncio protocol by its methods, not by inheritance: what is compiled cannot inherit from it.
    """

    __slots__ = (
        "_lingering",
        "_next_read_bytes",
        "_partial",
        "_reader",
        "_small_streak",
        "_taking",
        "_yielding",
    )

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        # Per connection.
        self._partial = b""  # of a request: its head, or its head and a small body
        self._reader: SlabReader | None = None  # reads go through it while not None
        self._next_read_bytes = 0  # the most to read when the next request comes
        self._small_streak = 0
        self._lingering = False
        self._taking = False
        self._yielding = False  # the others have a turn; what has come waits in `ahead`

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self.transport = transport
        transport.set_write_buffer_limits(CLIENT_WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        core = self.shared.core
        core.clients.add(self)
        core.deadlines.add(self)
        core.counters.accepted += 1
        self.closing = core.draining
        self.deadline_s = core.deadlines.after(core.timeouts.idle_s)
        if self.shared.forwarding is not None:
            host = transport.get_extra_info("peername")[0]
            self.origin = self.shared.forwarding.origin(host)

    def data_received(self, data: bytes | memoryview) -> None:
        if self.request is None and type(data) is bytes:
            came = data
            if self._partial:
                data = self._partial + data
            end = data.find(b"\r\n\r\n") + 4
            shared = self.shared
            head = shared.requests.hot.get(data[:end])
            if head is not None and head.plain and not self.closing:
                missing = head.length - len(data) + end
                if missing > 0:
                    self._wait_for_body(data)
                    return
                core = shared.core
                pool = core.registry.pool(head.route.key)
                lane = None
                if missing or pool.sequences is not None or shared.suspects:
                    target = None
                elif pool.line is None:
                    target = pool.pick()
                else:
                    lane = pool.line.admit(pool)
                    target = None if lane is None else lane.member
                if target is not None:
                    counters = shared.counters
                    counters.http_requests += 1
                    counters.head_hits += 1
                    self._partial = b""
                    self.request = head
                    self.target = target
                    self.plain = self.continued = True
                    self.began_s = monotonic()
                    self.kept = data if head.unchanged else self.head_of(head) + data[end:]
                    target.begin()
                    target.http_requests += 1
                    if lane is not None:
                        self.lane = lane
                        lane.begin()
                    stock = shared.stocks.by_slice.get(target)
                    if stock is not None and stock.idle:
                        self.upstream = upstream = stock.idle.pop()
                        upstream.client = self
                        self.deadline_s = shared.deadlines.now_s + shared.response_s
                        upstream.transport.write(self.kept)  # type: ignore[union-attr]
                    else:
                        self._acquire(target, fresh=False)
                    return
            data = came
        self._received(data)

    def eof_received(self) -> bool:
        self.eof = True
        if self.request is None or self._lingering:
            self.finished = self.closing = True
            return False
        if self.body_left:  # it will never be complete
            self.let_go()
            self.finished = self.closing = True
            return False
        # An answer is owed, and a client may shut down its side before that, but not over TLS.
        return self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        core = self.shared.core
        core.clients.discard(self)
        core.deadlines.discard(self)
        core.counters.closed += 1
        self.forget_unsent()
        self.finished = self.closing = True
        self._reader = None
        forget_reader(self.transport)
        self.ahead = b""
        upstream, request = self.upstream, self.request
        if upstream is not None and request is not None and not self.body_left:
            lane, self.lane = self.lane, None
            self.upstream = self.target = None  # the upstream ends it
            upstream.abandon(request.route.key, request.is_head, lane)
        self.let_go()

    # --- for the application ------------------------------------------------------------------

    def retire(self) -> None:
        if not self.answering:  # else its head has promised the client that it may go on
            self.closing = True
            self.plain = False

    def drain(self) -> None:
        """Take no new request; close once what is in flight has been answered."""
        self.closing = True
        self.plain = False
        if not (self.request or self._partial or self._yielding or self.finished):
            self._finish()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()

    def on_deadline(self, now_s: float) -> None:
        self.deadline_s = 0.0
        if self.finished:
            self.transport.abort()
        elif self.write_paused:
            self.on_send_idle()
        elif self.request is None:
            if self._partial:
                self.fail(REQUEST_TIMEOUT)
            else:
                self._finish()
        elif self.answering:
            self.answer_broken(TIMEOUT)
        elif self.body_left and self.transport.is_reading():
            self.body_late()
        elif self.place is None:
            self.fail(ANSWER_TIMEOUT, TIMEOUT if self.upstream is not None else REJECTED)

    # --- heads --------------------------------------------------------------------------------

    def _received(self, data: bytes | memoryview) -> None:
        """Take whatever came, in any state."""
        if self.finished:
            return  # lingering, or on its way out
        if self._yielding:  # over TLS more may come of what was read already
            self.ahead += data
        elif self.request is None:
            self.advance(data)
        elif self.body_left:
            self._body(data)
        else:
            self.ahead += data
            self.update_reading()

    def advance(self, data: bytes | memoryview = b"") -> None:
        """Take `data`, and then what came ahead of its turn, for as long as it is answered at once."""
        if self._taking or self._yielding:
            return
        self._taking = True
        if data:
            self._take(data)
        left = AT_ONCE_MAX
        while self.ahead and self.request is None and not self.finished and not self.write_paused:
            if not left:
                self._yield_turn()
                break
            left -= 1
            data, self.ahead = self.ahead, b""
            self._take(data)
        self._taking = False
        if self.eof and self.request is None and not self.ahead and not self.finished:
            self._finish()
        self.update_reading()

    def _yield_turn(self) -> None:
        """Go on with what lies in `ahead` when the others had their turn."""
        self._yielding = True
        self.transport.pause_reading()
        self.shared.core.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._yielding = False
        if self.body_left and not self.finished:
            data, self.ahead = self.ahead, b""
            self._body(data)
        else:
            self.advance()

    def _take(self, data: bytes | memoryview) -> None:
        """Take the head of a request, or a part of one; what lies behind its body goes to `ahead`."""
        seen = len(self._partial)
        if seen:
            data = self._partial + bytes(data)
            self._partial = b""
        # Of a large read only as much is copied as a head usually takes.
        start = data if isinstance(data, bytes) else bytes(data[:4096])
        for _ in range(EMPTY_LINES_MAX):
            if not start.startswith(b"\r\n"):
                break
            # RFC 9112 section 2.2: an empty line before the request is to be ignored.
            data = start = bytes(data[2:])
            seen = 0
        end = start.find(b"\r\n\r\n") + 4
        if end == 3 and len(start) < len(data):
            data = start = bytes(data)
            end = start.find(b"\r\n\r\n") + 4
        if end == 3:
            if start:
                self._wait_for_head(start, max(0, seen - 1))
            return
        head = self._judged(start[:end])
        if isinstance(head, Fault):
            self.fail(head)
        elif len(data) - end < head.length <= PLAIN_BYTES_MAX and not head.expect_continue:
            self._wait_for_body(bytes(data))
        else:
            self._begin(head, data, end)

    def _wait_for_head(self, partial: bytes, seen: int) -> None:
        """`partial` is the start of a head, looked at before up to offset `seen`."""
        self._partial = partial
        limits = self.shared.core.limits
        if bare_line_end(partial, seen):
            self.fail(BAD_REQUEST.because("a line does not end with CRLF"))
        elif len(partial) > limits.request_line_bytes and b"\r\n" not in partial:
            self.fail(URI_TOO_LONG)
        elif len(partial) > limits.head_bytes:
            self.fail(HEAD_TOO_LARGE)
        elif not seen:
            self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.head_s)

    def _wait_for_body(self, partial: bytes) -> None:
        """
        A small body is waited for before a slice is picked: one write instead of two, a later and
        so better choice, and no slot held for a client that sends byte by byte.
        """
        self._partial = partial
        self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.body_idle_s)

    def _judged(self, raw: bytes) -> RequestHead | Fault:
        shared = self.shared
        head: RequestHead | Fault | None = shared.requests.recall(raw)
        if head is not None:
            shared.counters.head_hits += 1
            return head
        shared.counters.head_misses += 1
        head = judge_request(raw, shared.core.limits, shared.forwarding, shared.priority_header)
        if isinstance(head, RequestHead):
            shared.requests.remember(raw, head)
        return head

    # --- requests -----------------------------------------------------------------------------

    def _begin(self, head: RequestHead, data: bytes | memoryview, end: int) -> None:
        """A request begins: `data` holds its head up to `end`, then what there is of its body."""
        shared = self.shared
        shared.counters.http_requests += 1
        self.request = head
        self.began_s = monotonic()
        self.continued = not head.expect_continue or len(data) > end
        if not head.keep_alive:
            self.closing = True
        size = len(data) - end
        if head.length >= size:
            self.body_left = head.length - size
        elif head.length >= 0:
            self.ahead = bytes(data[end + head.length :])
            data = data[: end + head.length]
        if head.length == CHUNKED:
            self.body_left = CHUNKED
            self.chunks = ChunkedBody(shared.core.limits.body_bytes)
            self.kept = [self.head_of(head)]
            if size and not self._chunked(bytes(data[end:])):
                return
        elif head.unchanged:
            self.kept = [data]
        else:
            self.kept = [self.head_of(head)]
            if len(data) > end:
                self.kept.append(data[end:])
        if head.length != CHUNKED:
            self.kept_bytes = len(data)
            shared.core.buffered_bytes += len(data)
        if head.route.kind is not BALANCED:
            self.answer_locally(head)
        elif self._overloaded():
            self.fail(OVERLOADED)
        else:
            self.plain = head.simple and not (self.body_left or self.closing)
            self._receive_large()
            self.bind()

    def _overloaded(self) -> bool:
        core = self.shared.core
        return bool(self.body_left) and core.buffered_bytes > core.limits.buffered_bytes

    def _receive_large(self) -> None:
        """Receive into slabs while large bodies come."""
        if self.body_left > LARGE_BODY_BYTES:
            self._small_streak = 0
            if self._reader is None:
                self._reader = SlabReader(self, self.shared.slabs)
                self.transport.set_protocol(self._reader)  # type: ignore[arg-type]
            self._reader.limit = min(READ_BYTES_MAX, self.body_left + READ_AHEAD_BYTES)
            assert self.request is not None, "a body without a request"
            # The next is probably as large, and read at once it costs least: 602 kB in one read
            # 151 us, in two 180. What a client pipelines behind a smaller one must be held.
            self._next_read_bytes = min(READ_BYTES_MAX, self.request.length + READ_AHEAD_BYTES)

    def _body(self, data: bytes | memoryview) -> None:
        """Take a part of the body."""
        assert self.request is not None, "a body without a request"
        self.await_body()
        if self.body_left == CHUNKED:
            if not self._chunked(bytes(data)):
                return
        else:
            left = self.body_left
            if len(data) > left:
                self.ahead = bytes(data[left:])
                data = data[:left]
            self.body_left = left = left - len(data)
            if self._reader is not None:
                self._reader.limit = min(READ_BYTES_MAX, left + READ_AHEAD_BYTES)
            self.forward((data,))
        if not self.body_left:
            self.whole_s = monotonic()
        if self.gathering:
            self.gather()
        self.body_came()
        if self.upstream is not None and not self.body_left and not self.answering:
            self.deadline_s = self.shared.deadlines.now_s + self.shared.response_s
            marked = self.marked or self.sequence is not None or self.closing
            self.plain = self.request.simple and not marked
        self.update_reading()

    def _chunked(self, data: bytes) -> bool:
        """Take a part of a chunked body; False when it was malformed and that has been answered."""
        chunks = self.chunks
        assert chunks is not None, "chunked without a reader"
        ranges: list[tuple[int, int]] = []
        end = chunks.feed(data, 0, ranges)
        if end < 0:
            assert chunks.fault is not None, "malformed without a reason"
            if self.answering:
                self.answer_broken(REJECTED)
            else:
                self.fail(chunks.fault)
            return False
        if end < len(data):
            self.ahead = data[end:]
            if not chunks.done:
                self._yield_turn()
        pieces = framed(data, ranges, chunks)
        if chunks.done:
            self.body_left = 0
        if pieces:
            self.forward(pieces)
        return True

    # --- the end of a request, and of the connection ------------------------------------------

    def end_request(self) -> None:
        if self._reader is not None and not self.body_left:
            self._reader.limit = self._next_read_bytes
            self._small_streak += 1
            if self._small_streak > SMALL_STREAK:
                self._reader = None
                self.transport.set_protocol(cast("asyncio.BaseProtocol", self))
        if self.closing:
            self._finish()
            return
        self.body_left = 0
        self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.idle_s)
        if self.ahead or self.eof or not self.transport.is_reading():
            self.advance()

    def _finish(self) -> None:
        """
        Close, so that the client can read its answer.

        A socket closed with unread bytes in it is reset, and a reset makes the other side drop
        what it has not read. So while the client may still be sending, only our half is closed,
        and what comes is read and dropped for a while. RFC 9112 section 9.6.
        """
        self.finished = self.closing = True
        if self.transport.is_closing():
            return
        sending = bool(self.body_left or self.ahead or self._partial) and not self.eof
        self.body_left = 0
        self.ahead = b""
        self._partial = b""
        if sending:
            self._lingering = True
            self.deadline_s = self.shared.deadlines.after(LINGER_S)
            if self.transport.can_write_eof():  # TLS closes both ways or none
                self.transport.write_eof()
            self.transport.resume_reading()
        else:
            self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.send_idle_s)
            self.transport.close()

    def update_reading(self) -> None:
        if self.finished or self._yielding:
            return
        if self.body_left:
            upstream = self.upstream
            if self.place is None:
                read = self.gathering or (upstream is not None and not upstream.write_paused)
            else:
                read = self._may_keep(1)
            if not read and self.transport.is_reading() and not self.answering:
                # The slice takes its time, which is not the client's fault.
                response_s = self.shared.core.timeouts.response_s if self.place is None else 0.0
                self.deadline_s = self.shared.deadlines.after(response_s)
        else:
            read = not self.write_paused and (
                self.request is None or len(self.ahead) <= self.shared.core.limits.pipelined_bytes
            )
        if read:
            self.transport.resume_reading()
            return
        if (
            len(self.ahead) > self.shared.core.limits.pipelined_bytes
            and self.transport.is_reading()
        ):
            self.shared.counters.limit("pipelined_bytes")
        self.transport.pause_reading()
