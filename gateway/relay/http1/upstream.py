"""The slice's side of a connection: one answer at a time."""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway.errors import BAD_ANSWER, Fault
from gateway.fleet.lanes import Lane
from gateway.fleet.outcomes import LOST, REJECTED, TIMEOUT
from gateway.fleet.slices import Slice
from gateway.limits import GIB, KIB
from gateway.relay.http1.answer_head import UNTIL_CLOSE, AnswerHead, judge_answer
from gateway.relay.http1.body import LAST_CHUNK, ChunkedBody, framed, taken_from
from gateway.relay.http1.grammar import CHUNKED, bare_line_end
from gateway.relay.http1.shared import (
    ANSWER_READ_BYTES,
    WRITE_HIGH_BYTES,
    WRITE_LOW_BYTES,
    Shared,
)
from gateway.relay.slabs import LARGE_BODY_BYTES, SlabReader

if TYPE_CHECKING:
    from gateway.relay.http1.exchange import Exchange
    from gateway.relay.http1.stock import Stock

_ANSWER_START: Final = b"HTTP/1."
INTERIM_MAX: Final = 16
"""1xx answers before the real one."""
DRAINED_BYTES_MAX: Final = 256 * KIB
"""Of an answer that nobody wants: more costs more to read than another connection to open."""
ANSWER_BYTES_MAX: Final = 1024 * GIB
"""Of a chunked answer: streams may be long, their sizes must still be numbers."""
SMALL_STREAK: Final = 16
"""Answers without a large body after which a connection goes back to plain reads."""


class Upstream:
    """
    One connection to a slice, an asyncio protocol by its methods: idle in its stock, bound to a client, or finishing an answer that
    its client no longer waits for.

    Attributes:
        client: Whose request is being answered.
        used: A request has been answered on it before: if it breaks before the next answer, the
            slice may simply have closed it as idle.
        write_paused: The slice takes less than it is sent.
    """

    __slots__ = (
        "_abandoned",
        "_abandoned_key",
        "_abandoned_lane",
        "_bodiless",
        "_chunks",
        "_framing",
        "_head",
        "_interim",
        "_left",
        "_lost",
        "_partial",
        "_reader",
        "_reusable",
        "_shared",
        "_slow",
        "_small_streak",
        "client",
        "deadline_s",
        "stock",
        "transport",
        "used",
        "write_paused",
    )

    def __init__(self, shared: Shared, stock: "Stock") -> None:
        # Global.
        self._shared = shared
        self.stock = stock
        # Per connection.
        self.transport: asyncio.Transport | None = None
        self.deadline_s = 0.0
        self.used = False
        self.write_paused = False
        self._lost = False
        self._reader: SlabReader | None = None  # reads go through it while not None
        self._small_streak = 0
        self._slow = False  # an answer is in progress that the short path does not know
        # Per answer.
        self.client: Exchange | None = None
        self._abandoned: Slice | None = None  # the client has gone; the slice is still counted
        self._abandoned_key = ""  # of the pool it was picked from
        self._abandoned_lane: Lane | None = None
        self._bodiless = False  # the answer to HEAD
        self._head: AnswerHead | None = None
        self._left = 0  # body bytes to come, CHUNKED or UNTIL_CLOSE
        self._chunks: ChunkedBody | None = None
        self._framing = False  # the body goes to the client in chunks of our own
        self._partial = b""  # of a head
        self._interim = 0
        self._reusable = False

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._shared.deadlines.add(self)
        self.stock.connected(self)

    def data_received(self, data: bytes | memoryview) -> None:
        client = self.client
        if client is not None and client.plain and not self._slow and type(data) is bytes:
            # The short path: a whole answer in one read, with a head seen before that needs no
            # change, for a request that was as simple: the bytes pass on as they came.
            end = data.find(b"\r\n\r\n") + 4
            head = self._shared.answers.hot.get(data[:end])
            if head is not None and head.plain and len(data) - end == head.length:
                client.transport.write(data)
                if client.write_paused:
                    self._transport.resume_reading()  # the answer is whole: nothing is held back
                self.client = None
                self.used = True
                deadlines = self._shared.deadlines
                self.deadline_s = deadlines.now_s + self._shared.upstream_idle_s
                stock = self.stock
                if stock.queued:
                    stock.checkin(self)
                else:
                    stock.idle.append(self)
                client.answered(head.outcome)
                return
        self._received(data)

    def eof_received(self) -> bool:
        # Whatever was still to be sent has no reader; connection_lost() decides what it means.
        self.stock.forget(self)  # nothing more may be sent on it meanwhile
        self._transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._reader = None
        self._shared.deadlines.discard(self)
        self.stock.lost(self)
        client, self.client = self.client, None
        if client is None:
            self._end_abandoned(LOST)
        elif self._head is None:
            fresh = not self.used or self._slow
            client.upstream_lost(fresh)
        elif self._left == UNTIL_CLOSE and exc is None:
            if self._framing:
                client.transport.write(LAST_CHUNK)
            client.answer_ended(self._head.outcome)
        else:
            self._shared.core.slice_lost(self.stock.member)
            client.answer_broken(LOST)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.client is not None:
            self.client.update_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.client is not None:
            self.client.update_reading()

    # --- for the client's side and the stock --------------------------------------------------

    def pause_reading(self) -> None:
        """The client does not keep up with its answer."""
        self._transport.pause_reading()
        if self._reader is not None:
            self._reader.copies = True

    def rest(self) -> None:
        """The connection has nothing to do; too much of that and it is closed."""
        self.deadline_s = self._shared.deadlines.after(self._shared.core.timeouts.upstream_idle_s)

    def close(self) -> None:
        """Close now; nobody is told."""
        self.client = None
        self.stock.forget(self)
        self._transport.abort()

    def abandon(self, key: str, bodiless: bool, lane: Lane | None) -> None:
        """
        The client has gone after it had sent its whole request: wait for the answer without it.

        Triton does not notice that a client leaves while it infers, so its slot stays taken, and
        counts that dropped would draw more work to the busiest slice. A stream that has begun is
        another matter: Triton cancels it when its connection closes. And a large answer that has begun
        is not worth reading to its end: the slice is done with it.
        """
        member = self.stock.member
        self.client = None
        if self._head is not None and not 0 <= self._left <= DRAINED_BYTES_MAX:
            self.close()
            member.end()
            if lane is not None:
                lane.end()
            self._shared.core.attempt_ended(member, key, REJECTED)
            return
        self._abandoned = member
        self._abandoned_key = key
        self._abandoned_lane = lane
        self._bodiless = bodiless
        self._slow = True
        member.abandoned += 1
        self.deadline_s = self._shared.deadlines.after(self._shared.core.timeouts.response_s)
        self._transport.resume_reading()

    def on_deadline(self, now_s: float) -> None:
        if self.client is not None:  # whose deadlines decide while it is there
            self.rest()
            return
        self.deadline_s = 0.0
        self._end_abandoned(TIMEOUT)
        self.close()

    # --- the general path ---------------------------------------------------------------------

    @property
    def _transport(self) -> asyncio.Transport:
        assert self.transport is not None, "not connected"
        return self.transport

    def _received(self, data: bytes | memoryview) -> None:
        if self.client is None and self._abandoned is None:
            self.close()  # nobody asked: whatever this is, it must not answer the next request
            return
        pieces: list[bytes | memoryview] = []
        fresh = self._head is None
        if fresh:
            rest = self._read_head(data, pieces)
            if rest is None:
                return
            data = rest
        ended = self._read_body(data, pieces)
        if ended is None:
            if fresh and self.client is not None:  # which has seen nothing of it
                self._head = None
                self.client.answering = False
            self._fail(BAD_ANSWER.because("a chunk is malformed"))
            return
        client = self.client
        if client is not None and pieces:
            client.relay(pieces)
        if ended:
            self._end()

    def _read_head(
        self, data: bytes | memoryview, pieces: list[bytes | memoryview]
    ) -> bytes | memoryview | None:
        """Return what follows the head, which goes to `pieces`; None when there is more to come."""
        self._slow = True
        if self._partial:
            data = self._partial + data
            self._partial = b""
        while True:
            # Of a large read only as much is copied as a head usually takes.
            start = data if isinstance(data, bytes) else bytes(data[:4096])
            end = start.find(b"\r\n\r\n") + 4
            if end == 3 and len(start) < len(data):
                start = bytes(data)
                end = start.find(b"\r\n\r\n") + 4
            if end == 3:
                if len(start) > self._shared.core.limits.head_bytes:
                    self._fail(BAD_ANSWER.because("its head is too large"))
                elif start[:7] != _ANSWER_START[: len(start)] or bare_line_end(start, 0):
                    self._fail(BAD_ANSWER.because("it is no HTTP/1"))
                else:
                    self._partial = start
                return None
            head = self._judged(start[:end])
            if isinstance(head, Fault):
                self._fail(head)
                return None
            if head.status >= 200:
                return self._begin(head, data, end, pieces)
            self._interim += 1
            if head.status == 101 or self._interim > INTERIM_MAX:
                self._fail(BAD_ANSWER.because(f"status {head.status} was not asked for"))
                return None
            if self.client is not None and head.status != 100:  # which is our own to send
                self.client.interim(head)
            data = data[end:]
            if not data:
                return None

    def _judged(self, raw: bytes) -> AnswerHead | Fault:
        memo = self._shared.answers
        head: AnswerHead | Fault | None = memo.recall(raw)
        if head is None:
            head = judge_answer(raw, self._shared.core.limits)
            if isinstance(head, AnswerHead):
                memo.remember(raw, head)
        return head

    def _begin(
        self,
        head: AnswerHead,
        data: bytes | memoryview,
        end: int,
        pieces: list[bytes | memoryview],
    ) -> bytes | memoryview:
        """The answer begins: say so to the client, and prepare for the body."""
        self._head = head
        self._reusable = head.keep_alive
        client = self.client
        bodiless = self._bodiless
        if client is not None:
            assert client.request is not None, "bound without a request"
            bodiless = client.request.is_head
            self._framing = head.length < 0 and not client.request.http10
            pieces.append(client.answer_begins(head))
            if client.body_pending:
                self._reusable = False
        self._left = left = 0 if bodiless else head.length
        if left == CHUNKED:
            self._chunks = ChunkedBody(ANSWER_BYTES_MAX)
        if left - (len(data) - end) > LARGE_BODY_BYTES:
            self._small_streak = 0
            if self._reader is None:
                self._reader = SlabReader(self, self._shared.answer_slabs, ANSWER_READ_BYTES)
                self._transport.set_protocol(self._reader)  # type: ignore[arg-type]
        return data[end:]

    def _read_body(self, data: bytes | memoryview, pieces: list[bytes | memoryview]) -> bool | None:
        """
        Read on in the answer's body; what goes to the client is appended to `pieces`.

        Returns:
            Whether the answer has ended; None when it is malformed.
        """
        size = len(data)
        if self._left >= 0:
            self._left -= size
            if self._left < 0:  # more than was announced: the client gets what was
                data = data[: self._left]
                self._left = 0
                self._reusable = False
            if data:
                pieces.append(data)
            return not self._left
        if self._left == UNTIL_CLOSE:
            if size and self._framing:
                pieces += (b"%x\r\n" % size, data, b"\r\n")
            elif size:
                pieces.append(data)
            return False
        chunks = self._chunks
        assert chunks is not None, "chunked without a reader"
        data = bytes(data)
        at = 0
        while at < size and not chunks.done:
            ranges: list[tuple[int, int]] = []
            at = chunks.feed(data, at, ranges)
            if at < 0:
                return None
            if self._framing:
                pieces += framed(data, ranges, chunks)
            elif ranges:
                pieces.append(taken_from(data, ranges))
        if at < size:
            self._reusable = False
        return chunks.done

    def _end(self) -> None:
        """The answer has come to its end."""
        client, self.client = self.client, None
        reusable = self._reusable
        assert self._head is not None, "the end of nothing"
        outcome = self._head.outcome
        self._head = self._chunks = None
        self._slow = False
        self._interim = 0
        self.used = True
        if self._reader is not None:
            self._reader.copies = False
            self._small_streak += 1
            if self._small_streak > SMALL_STREAK:
                self._reader = None
                self._transport.set_protocol(cast("asyncio.BaseProtocol", self))
        self._end_abandoned(outcome)
        if reusable:
            # The client may have paused us with the last piece; the next one must not inherit that.
            self._transport.resume_reading()
            self.rest()
            self.stock.checkin(self)
        else:
            self.close()
        if client is not None:
            client.answer_ended(outcome)

    def _fail(self, fault: Fault) -> None:
        """The slice's answer cannot be relayed."""
        client = self.client
        begun = self._head is not None
        self.close()
        if client is None:
            self._end_abandoned(LOST)
        elif begun:
            client.answer_broken(LOST)
        else:
            client.fail(fault, LOST)

    def _end_abandoned(self, outcome: int) -> None:
        abandoned, self._abandoned = self._abandoned, None
        if abandoned is not None:
            abandoned.abandoned -= 1
            abandoned.end()
            lane, self._abandoned_lane = self._abandoned_lane, None
            if lane is not None:
                lane.end()
            self._shared.core.attempt_ended(abandoned, self._abandoned_key, outcome)
