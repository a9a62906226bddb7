"""
Exchange: a client's request on its way through a slice.

Which slice, and what is kept to send it once more. What happens when a slice does not answer is told
by Replayer, which builds on this; the client's connection itself, its bytes and its timeouts, by
Downstream, which builds on that.

`target` not None means: this exchange has begun on that slice and owes it one `end()`.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from gateway.errors import ANSWER_BROKEN, NO_SLICE, OVERLOADED, SHUTTING_DOWN, Fault
from gateway.fleet.lanes import Lane
from gateway.fleet.outcomes import CONNECT_FAILED, OK, REJECTED
from gateway.fleet.places import Place
from gateway.fleet.readiness import is_ready
from gateway.fleet.sequences import LiveSequence, SequenceTable
from gateway.fleet.slices import Slice
from gateway.relay.forwarding import Origin
from gateway.relay.http1.answer_head import AnswerHead
from gateway.relay.http1.body import ChunkedBody
from gateway.relay.http1.grammar import CHUNKED
from gateway.relay.http1.head import SLICE, RequestHead
from gateway.relay.http1.own_answers import CONTINUE, fault_answer, health_answer
from gateway.relay.http1.shared import Shared
from gateway.relay.http1.stock import Stock
from gateway.relay.http1.upstream import Upstream
from gateway.relay.router import LIVE

PIECE_BYTES: Final = 64
"""What keeping a piece costs beside its bytes: a client may send a body byte by byte."""


class Exchange:
    """
    Attributes:
        plain: The request is as simple as its head (RequestHead.plain) and came whole: its answer
            may take the short path.
        body_left: Body bytes still to come from the client; CHUNKED until the last chunk came.
        sequence: That the request belongs to, in `table`: no other slice can answer it.
        whole_s: When the last of a body came that did not come whole, by time.monotonic().
        closing: The connection closes after this answer; finished: nothing more is read from it.
    """

    __slots__ = (
        "ahead",
        "answering",
        "began_s",
        "body_left",
        "chunks",
        "closing",
        "continued",
        "deadline_s",
        "eof",
        "finished",
        "kept",
        "kept_bytes",
        "lane",
        "lane_s",
        "origin",
        "parked",
        "place",
        "plain",
        "request",
        "sequence",
        "shared",
        "table",
        "target",
        "transport",
        "upstream",
        "waiting",
        "whole_s",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        # Global.
        self.shared = shared
        # Per connection.
        self.origin: Origin | None = None  # to be told to slices
        self.deadline_s = 0.0
        self.ahead = b""  # came before its turn: pipelined requests
        self.closing = False
        self.finished = False
        self.eof = False  # the client sends nothing more
        self.write_paused = False
        # Per request.
        self.request: RequestHead | None = None
        self.plain = False
        self.target: Slice | None = None
        self.lane: Lane | None = None  # of `target`, where it has one
        self.lane_s = 0.0  # coarse time of its beginning, where that matters
        self.parked: Lane | None = None  # the same, while the body is too slow to count there
        self.place: Place | None = None  # in its model's line
        self.upstream: Upstream | None = None
        self.waiting: Stock | None = None  # for one of its connections
        self.answering = False  # the answer has begun
        self.began_s = self.whole_s = 0.0
        self.body_left = 0
        self.chunks: ChunkedBody | None = None
        # What was or will be sent to the slice, so that another can be sent the same.
        self.kept: bytes | list[bytes | memoryview] | None = None
        self.kept_bytes = 0  # as accounted for in core.buffered_bytes
        self.continued = False  # 100 has been sent or is not needed
        self.sequence: LiveSequence | None = None
        self.table: SequenceTable | None = None

    # --- finding a slice ----------------------------------------------------------------------

    def bind(self) -> None:
        """Pick a slice for the request and send what there is of it."""
        assert self.request is not None, "bind() without a request"
        target = self.shared.core.registry.pool(self.request.route.key).pick()
        if target is None:
            self.fail(NO_SLICE)
        else:
            self.go_to(target)

    def on_upstream(self, upstream: Upstream) -> None:
        """Send what there is of the request on `upstream`, which is now its own."""
        assert self.request is not None, "a connection without a request"
        assert upstream.transport is not None, "a connection that is not open"
        self.waiting = None
        self.upstream = upstream
        upstream.client = self
        kept = self.kept
        assert kept is not None, "sent without anything to send"
        if isinstance(kept, bytes):
            upstream.transport.write(kept)
        else:
            upstream.transport.writelines(kept)
            if self.request.length > self.shared.core.limits.replay_bytes:
                self._drop_kept()
        if self.body_left:
            self.await_body()
            self.update_reading()
        else:
            response_s = self.shared.core.timeouts.response_s
            self.deadline_s = self.shared.deadlines.after(response_s)

    def go_to(self, target: Slice, lane: Lane | None = None) -> None:
        """Begin the request on `target`, in `lane` where that has one."""
        self.target = target
        target.begin()
        if lane is not None:
            self.lane = lane
            self.lane_s = self.shared.deadlines.now_s
            lane.begin()
        target.http_requests += 1
        if not self.continued:
            self.continued = True
            self.transport.write(CONTINUE)
        self._acquire(target, fresh=False)

    def _acquire(self, target: Slice, fresh: bool) -> None:
        stock = self.shared.stocks.stock(target)
        if stock.idle and not fresh:
            self.on_upstream(stock.idle.pop())
            return
        stock.make_room()
        self.waiting = stock
        if not stock.wait(self, first=fresh):
            self.waiting = None
            self.fail(OVERLOADED)

    def head_of(self, head: RequestHead) -> bytes:
        """Return the head to send to a slice."""
        if self.origin is None:
            return head.upstream
        added = [
            b"%s: %s\r\n" % field
            for field in self.origin.fields(head.came, b"1.0" if head.http10 else b"1.1")
        ]
        return b"".join((head.upstream[:-2], *added, b"\r\n"))

    # --- the request's body -------------------------------------------------------------------

    @property
    def body_pending(self) -> bool:
        return self.body_left != 0

    def forward(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send a part of the body on, and keep it as long as it may be needed once more."""
        kept = self.kept
        if kept is not None:
            assert type(kept) is list, "a request that came whole has more body"
            size = sum(map(len, pieces)) + PIECE_BYTES * len(pieces)
            if self.upstream is None or self._may_keep(size):
                kept += pieces
                self.kept_bytes += size
                if self.place is not None:
                    self.place.grow(size)
                self.shared.core.buffered_bytes += size
            else:
                self._drop_kept()
        if self.upstream is not None:
            assert self.upstream.transport is not None, "bound to a closed connection"
            if len(pieces) == 1:
                self.upstream.transport.write(pieces[0])
            else:
                self.upstream.transport.writelines(pieces)

    def _may_keep(self, size: int) -> bool:
        core = self.shared.core
        return (
            self.kept_bytes + size <= core.limits.replay_bytes
            and core.buffered_bytes + size <= core.limits.buffered_bytes
        )

    def _drop_kept(self) -> None:
        self.kept = None
        if self.kept_bytes:
            self.shared.core.buffered_bytes -= self.kept_bytes
            self.kept_bytes = 0

    # --- the answer ---------------------------------------------------------------------------

    def answered(self, outcome: int) -> None:
        """The whole answer has been written, in one piece."""
        target = self.target
        assert target is not None, "answered by nobody"
        if self.kept_bytes or self.ahead or self.eof or self.closing:
            self.answer_ended(outcome)
            return
        assert self.request is not None, "an answer to nothing"
        target.answered_http(
            monotonic() - self.began_s, self.request.route.key if outcome == OK else ""
        )
        self._end_attempt(outcome)
        self.request = self.upstream = self.kept = None
        self.deadline_s = self.shared.deadlines.now_s + self.shared.idle_s

    def interim(self, head: AnswerHead) -> None:
        """Pass a 1xx answer on: RFC 9110 section 15.2."""
        assert self.request is not None, "an answer to nothing"
        if not self.request.http10:
            self.transport.write(head.for_client)

    def answer_begins(self, head: AnswerHead) -> bytes:
        """Return the head for this client; the body follows through `relay`."""
        request = self.request
        assert request is not None, "an answer to nothing"
        self._drop_kept()
        self.answering = True
        if self.body_left or (request.http10 and head.length < 0):
            self.closing = True
        self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.stream_idle_s)
        raw = head.for_client
        if self.closing or request.http10:
            raw = head.form(request.http10, not self.closing)
        if request.asks_slice and self.target is not None:
            return b"%s%s: %s\r\n\r\n" % (raw[:-2], SLICE, self.target.name.encode())
        return raw

    def relay(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send a part of the answer to the client."""
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)
        if self.write_paused:
            self.deadline_s = self.send_deadline_s()
        else:
            self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.stream_idle_s)

    def send_deadline_s(self) -> float:
        """
        Return the deadline of a client that has been sent more than it takes.

        When all connections together hold more than they may, it is now: whoever does not read
        is cut off before those who do are refused.
        """
        core = self.shared.core
        if core.buffered_bytes > core.limits.buffered_bytes:
            return core.deadlines.now_s
        return core.deadlines.after(core.timeouts.send_idle_s)

    def answer_ended(self, outcome: int) -> None:
        """The answer has been written to its end."""
        target = self.target
        assert target is not None, "answered by nobody"
        assert self.request is not None, "an answer to nothing"
        alike = outcome == OK and self.sequence is None
        target.answered_http(monotonic() - self.began_s, self.request.route.key if alike else "")
        self.let_go(outcome)
        self.end_request()

    def answer_broken(self, outcome: int) -> None:
        """The slice broke off: the client must not take what it has for the whole answer."""
        self.shared.counters.fault(ANSWER_BROKEN.code)
        self.let_go(outcome)
        self.finished = self.closing = True
        self.transport.abort()

    def fail(self, fault: Fault, outcome: int = REJECTED) -> None:
        """Answer with `fault`. Nothing of an answer has been sent."""
        assert not self.answering, "two answers"
        request = self.request
        self.shared.counters.fault(fault.code)
        if request is None:
            self.body_left = CHUNKED  # nobody knows what the rest means
        if self.body_left:
            self.closing = True
        self.transport.write(
            fault_answer(
                fault,
                http10=request is not None and request.http10,
                keep_alive=not self.closing,
                is_head=request is not None and request.is_head,
            )
        )
        self.let_go(outcome)
        self.end_request()

    def answer_locally(self, head: RequestHead) -> None:
        """Answer what the gateway knows by itself: that it runs, or that a slice can serve."""
        core = self.shared.core
        if core.leaving and head.route.kind is not LIVE:
            self.fail(SHUTTING_DOWN)
            return
        good = head.route.kind is LIVE or is_ready(core.registry)
        if self.body_left:
            self.closing = True
        self.transport.write(health_answer(good, http10=head.http10, keep_alive=not self.closing))
        self.let_go()
        self.end_request()

    def let_go(self, outcome: int = REJECTED) -> None:
        """The exchange is over: give everything back, exactly once."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None and upstream.client is self:
            upstream.close()  # still at work on what nobody wants any more
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.give_up(self)
        if self.target is not None:
            self._end_attempt(outcome)
        sequence, self.sequence = self.sequence, None
        if sequence is not None and self.table is not None:
            self.table.finish(sequence, self.shared.deadlines.now_s)
        self._drop_kept()
        self.request = self.chunks = None
        self.plain = self.answering = False

    def _end_attempt(self, outcome: int) -> None:
        """Give the slice's count back, and say how it did; the only place that does."""
        target, self.target = self.target, None
        assert target is not None, "ended twice"
        lane = self.lane
        self.parked = None
        if lane is not None:
            self.lane = None
            lane.end()
        target.end()
        if outcome or target.tallies:
            assert self.request is not None, "an attempt at nothing"
            self.shared.core.attempt_ended(target, self.request.route.key, outcome)

    # --- what Queuer, Replayer and Downstream add ---------------------------------------------

    def await_body(self) -> None:
        """More of the body is to come, and not too late."""
        raise NotImplementedError

    def on_dial_failed(self, outcome: int = CONNECT_FAILED) -> None:
        """The slice takes no connection; `outcome` says what that says about it."""
        raise NotImplementedError

    def upstream_lost(self, fresh: bool) -> None:
        """
        The slice closed the connection before its answer.

        Args:
            fresh: It had answered nothing before. One that had may simply have been idle for too
                long, and crossed the request on its way: that says nothing about the slice.
        """
        raise NotImplementedError

    def slice_hangs(self, target: Slice) -> None:
        """`target` was given the request and will not answer: send it elsewhere if that can be."""
        raise NotImplementedError

    def hedge_if_late(self, now_s: float) -> None:
        """Send the request to a second slice as well, if it is late and that can be."""
        raise NotImplementedError

    def update_reading(self) -> None:
        """Read from the client or do not, as befits the present state."""
        raise NotImplementedError

    def end_request(self) -> None:
        """Go on to the next request, or close."""
        raise NotImplementedError
