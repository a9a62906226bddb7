"""
Call: a client's stream, what it asks, and the slice that answers.

A call is bound to a slice when the model is known: at once for most calls, with the first message
for ModelInfer and ModelStreamInfer. What the client has sent is kept until the answer begins, so
that another slice can be sent the same. The slice's count is given back in one place, release().
"""

from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from gateway import errors
from gateway.errors import Fault
from gateway.fleet.lanes import Lane
from gateway.fleet.outcomes import LOST, OK, REJECTED, of_http_status
from gateway.fleet.places import Place
from gateway.fleet.pools import SlicePool
from gateway.fleet.sequences import NO_SEQUENCE, TableFullError
from gateway.fleet.slices import Slice
from gateway.relay.http2 import frames
from gateway.relay.http2.composing import collect
from gateway.relay.http2.headers import Request, with_timeout
from gateway.relay.http2.hedging import end_in_vain, part
from gateway.relay.http2.own_answers import GRPC_HEAD, GRPC_OK, http_head, status_block
from gateway.relay.http2.queueing import bind_in_line, gather, take_lane
from gateway.relay.http2.replaying import may_bind, pieces_of
from gateway.relay.http2.runs import Run
from gateway.relay.http2.sticky import Sticky
from gateway.relay.http2.stream import COPY_BYTES_MAX, Chunk, Stream
from gateway.relay.quarantine import Suspect
from gateway.relay.router import BY_MESSAGE, pool_key_of_message
from gateway.relay.sequence_fields import (
    PREFIX_BYTES,
    START_BYTES_MAX,
    StartOfMessage,
    open_start,
    start_of,
)

if TYPE_CHECKING:
    from gateway.relay.http2.downstream import Downstream
    from gateway.relay.http2.half import Half

STREAM_INFER: Final = b"/inference.GRPCInferenceService/ModelStreamInfer"
KEPT_OVERHEAD_BYTES: Final = 64
"""What keeping a piece costs beside its bytes: a client may send a million pieces of one byte."""


class Call(Stream):
    """
    One call, from its HEADERS to its last END_STREAM.

    Attributes:
        client: The connection it came on.
        request: What was asked.
        lane: Of the target, where it has one.
        gathers: It is to be whole before it waits in its model's line.
        parked: The same, while the slice has nothing to do for the call; see gateway.relay.http2.queueing.
        lane_s: Coarse time from which on it has something to do.
        place: In its model's line, while it waits for a slice to have room.
        target: The slice that was given the call; None before, and once it is done.
        key: Of the pool that the target was picked from.
        sticky: Of a call of a model that batches sequences.
        http_status: Of the answer, once it has begun.
        kept: What the client has sent, as pieces of data or runs of frames, until the answer begins; None when it is not kept.
        losses: Slices that may have begun with the call and did not answer.
        rival: The other of two attempts at the same, on another slice, while neither is answered.
        second: It is the later of the two, of which the client knows nothing; see hedging.py.
        suspect: What the call is watched for; None for almost all.
        begun: The answer's head has been passed on.
        discard_left: Bytes that the client may still send of a request that has been answered.
        done: The slice's part is over; what the client still sends is thrown away.
        whole_s: When the last of a request came that came bit by bit; else 0.
        opened_s: Coarse time of the call's beginning.
        deadline_s: `grpc-timeout`, or 0.
    """

    __slots__ = (
        "begun",
        "body_left",
        "client",
        "deadline_s",
        "discard_left",
        "done",
        "gathers",
        "http_status",
        "kept",
        "kept_bytes",
        "key",
        "lane",
        "lane_s",
        "losses",
        "opened_s",
        "parked",
        "place",
        "pool",
        "request",
        "request_trailers",
        "rival",
        "second",
        "started_s",
        "sticky",
        "suspect",
        "target",
        "tried",
        "whole_s",
    )

    def __init__(self, connection: "Downstream", stream_id: int, request: Request) -> None:
        super().__init__(connection, stream_id)
        self.client = connection
        self.request = request
        self.target: Slice | None = None
        self.lane: Lane | None = None
        self.parked: Lane | None = None
        self.lane_s = 0.0
        self.place: Place | None = None
        self.pool: SlicePool | None = None
        self.sticky: Sticky | None = None
        self.tried: tuple[Slice, ...] = ()
        self.losses = 0
        self.rival: Call | None = None
        self.second = False
        self.whole_s = 0.0
        self.suspect: Suspect | None = None
        self.kept: list[Chunk | Run] | None = []
        self.kept_bytes = 0
        self.body_left = request.content_length
        self.request_trailers: bytes | None = None
        self.discard_left = 0
        self.begun = self.done = self.gathers = False
        self.opened_s = self.active_s
        self.started_s = monotonic()
        self.deadline_s = 0.0
        if request.timeout_s > 0:  # by the exact clock: the coarse one may be a tick behind
            self.deadline_s = connection.core.loop.time() + request.timeout_s

    # --- the client's side --------------------------------------------------------------------

    def take(self, data: Chunk, size: int, ends: bool) -> None:
        """Pass a piece of the request on, or keep it until it can be."""
        self.ended_in = ends
        if ends and self.parked is not None:
            take_lane(self)
        peer = self.peer
        if self.kept is not None:
            self._keep(data, size)
        if peer is None:
            if self.sticky is not None:
                self._follow(data)
            if self.client.core.buffered_bytes > self.client.core.limits.buffered_bytes:
                self.fail_overloaded()
            elif self.gathers:
                gather(self)
            elif self.target is None and self.place is None:
                self._bind_by_message()
            return
        if ends:
            self.whole_s = monotonic()
        if self.sticky is not None:
            self._follow(data)
        if peer.connection.send_data(peer, data, ends):
            self.connection.credit(self, size)
        elif self.client.core.buffered_bytes > self.client.core.limits.buffered_bytes:
            self.fail_overloaded()

    def take_run(self, run: Run) -> bool:
        """Pass several DATA frames on at once; return False if they cannot go so."""
        peer = self.peer
        if peer is None or (self.sticky is not None and self.sticky.tap is not None):
            return False
        if not peer.connection.send_run(peer, run):
            return False
        if run.ends:
            self.ended_in = True
            self.whole_s = monotonic()
            if self.parked is not None:
                take_lane(self)
        if self.kept is not None:
            self._keep(run, run.payload)
        return True

    def bind(self, key: str) -> None:
        """Give the call to a slice of the pool `key`."""
        core = self.client.core
        self.key = key
        self.pool = pool = core.registry.pool(key)
        if core.suspects and not may_bind(self):
            return
        if pool.sequences is not None:
            self._bind_by_sequence(pool)
            return
        members = pool.members
        if pool.line is not None:
            bind_in_line(self, pool, pool.line)
        elif members and not pool.trials:  # as pick() would
            self.give_to(pool.policy.pick(members), errors.NO_SLICE)
        else:
            self.give_to(pool.pick(), errors.NO_SLICE)

    def on_turn(self, lane: Lane) -> None:
        """A gateway.fleet.places.Waiter: a slice has room for it."""
        self.place = None
        # A slice's latency is its own: what went before says nothing of it.
        self.started_s = monotonic()
        self.active_s = self.client.core.deadlines.now_s
        self.give_to(lane.member, errors.NO_SLICE, lane)

    def on_refused(self, fault: Fault) -> None:
        """A gateway.fleet.places.Waiter: it will not be served."""
        self.place = None
        self.fail(fault)

    def cancel(self, outcome: int = REJECTED) -> None:
        """Nobody wants the answer any more: the slice is told at once."""
        if self.rival is not None:
            part(self, self.rival).cancel()
        self.part_from_slice()
        self.release(outcome)
        self._forget_kept()
        self.done = True
        if self.composed:
            self.client.core.composed.cancel(self)

    @property
    def streams(self) -> bool:
        """It has as many messages as both sides like."""
        return self.request.path == STREAM_INFER

    @property
    def composed(self) -> bool:
        """The composer answers, not a slice."""
        request = self.request
        return request.route.composed and request.is_grpc and self.client.core.composer is not None

    # --- the slice's side ---------------------------------------------------------------------

    def start(self, peer: "Half") -> None:
        """Send the request on `peer`, a new stream of a connection to the slice."""
        connection = peer.connection
        self.peer = peer
        block = self.request.block
        if self.request.came is not None:
            block = self.client.block_of(self.request)
        core = self.client.core
        if self.deadline_s and core.deadlines.now_s > self.opened_s:  # it has waited, or moves
            block = with_timeout(block, self.deadline_s - core.loop.time())
        assert self.kept is not None, "a call whose request is gone cannot be started"
        # Runs of frames are kept only once a call has been started.
        kept = (
            [piece for item in self.kept for piece in pieces_of(item)]
            if self.tried
            else cast("list[Chunk]", self.kept)
        )
        if (
            self.ended_in
            and len(kept) == 1
            and self.request_trailers is None
            and connection.send_whole(peer, block, kept[0])
        ):
            self.connection.credit(self, len(kept[0]))
            return
        ends_with_head = self.ended_in and not kept and self.request_trailers is None
        connection.send_headers(peer, block, ends_with_head)
        ends_with_data = self.ended_in and self.request_trailers is None
        for index, data in enumerate(kept):
            last = index == len(kept) - 1
            if connection.send_data(peer, data, last and ends_with_data):
                self.connection.credit(self, len(data))
        if self.request_trailers is not None:
            connection.send_headers(peer, self.request_trailers, ends=True)
        if self.kept_bytes > self.client.core.limits.replay_bytes:
            self._forget_kept()

    def begin_answer(self, http_status: int) -> None:
        """The slice answers: from here on no other may."""
        self.begun = True
        self.http_status = http_status
        if self.suspect is not None:
            self.client.core.quarantine.answered(self.suspect)
        self._forget_kept()

    @property
    def outcome_of_head(self) -> int:
        """What an answer says of the slice that has ended without a `grpc-status`."""
        return LOST if self.request.is_grpc else of_http_status(self.http_status)

    def slice_done(self, outcome: int) -> None:
        """The slice has sent its last frame."""
        target = self.target
        if target is not None:
            alike = outcome == OK and self.sticky is None and self.request.path != STREAM_INFER
            target.answered_grpc(monotonic() - self.started_s, self.key if alike else "")
        self.peer = None
        self.done = True
        self.release(outcome)

    # --- ends ---------------------------------------------------------------------------------

    def fail(self, fault: Fault, outcome: int = REJECTED) -> None:
        """
        Answer with an error of our own, in the form the client understands.

        Args:
            fault: What the client is told.
            outcome: What it says of the slice that has the call.
        """
        client = self.client
        rival = self.rival
        if rival is not None and self.second:  # the client waits for the other attempt
            end_in_vain(self, rival, sent=False)
            self.cancel(outcome)
            return
        if rival is not None:
            part(self, rival).cancel()
        client.core.counters.fault(fault.code)
        self.part_from_slice()
        self.release(outcome)
        self._forget_kept()
        self.done = True
        if self.composed:
            client.core.composed.cancel(self)
        if self.begun and not self.request.is_grpc:
            client.reset(self, frames.INTERNAL_ERROR)
        elif self.request.is_grpc:
            self.answer_status(fault.grpc_status, fault.message, fault.retry_after_s)
        else:
            self._answer_http(fault.http_status, fault.http_body)

    def fail_overdue(self) -> None:
        self.fail(errors.ANSWER_TIMEOUT.because("the call's own deadline has passed"))

    def fail_overloaded(self) -> None:
        """All connections together hold more than they may."""
        self.client.core.counters.limit("buffered_bytes")
        self.fail(errors.OVERLOADED)

    def answer_status(self, code: int, details: str, retry_after_s: int = 0) -> None:
        """End a gRPC call with a status."""
        block = status_block(code, details, self.begun, retry_after_s)
        self.begun = self.done = True
        self._forget_kept()
        self.client.send_headers(self, block, ends=True)

    def answer_message(self, message: bytes) -> None:
        """Answer a gRPC call with one message of our own and status OK."""
        self.begun = self.done = True
        self._forget_kept()
        client = self.client
        client.send_headers(self, GRPC_HEAD, ends=False)
        client.send_data(self, b"\0" + len(message).to_bytes(4, "big") + message, ends=False)
        client.send_headers(self, GRPC_OK, ends=True)

    def release(self, outcome: int) -> None:
        """Give the slice's count back, exactly once, and say what came of the attempt."""
        target, self.target = self.target, None
        if self.place is not None:
            self.place.leave()
            self.place = None
        if target is not None:
            lane = self.lane
            self.parked = None
            if lane is not None:
                self.lane = None
                lane.end()
            target.end()
            if self.sticky is not None:
                self.sticky.finish()
            if outcome or target.tallies:
                self.client.core.attempt_ended(target, self.key, outcome)

    # --- inside -------------------------------------------------------------------------------

    def _bind_by_message(self) -> None:
        """Bind once the message has named its model, or can no longer do so."""
        kept = self.kept
        assert kept is not None
        if self.request.route.kind is not BY_MESSAGE:
            if self.composed:
                collect(self)
            else:
                self.bind("call")  # a request with trailers; anything else is bound on HEADERS
            return
        if len(kept) > 1:
            first = cast("Chunk", kept[0])
            if self.pool is not None and not self.ended_in and not self._much_came_after(first):
                return
            # Joined for good, so that a name that drips in is not joined ever again.
            kept[:] = [b"".join(cast("list[Chunk]", kept))]
        start = cast("Chunk", kept[0])
        key = pool_key_of_message(start)
        if not key and start and start[0]:
            key = pool_key_of_message(open_start(bytes(start[:START_BYTES_MAX])))
        limits = self.client.core.limits
        if len(start) >= 5 and int.from_bytes(start[1:5], "big") > limits.body_bytes:
            self.fail(errors.BODY_TOO_LARGE)
        elif key is not None or self.ended_in or len(start) > START_BYTES_MAX:
            self.bind(key or "")

    def _much_came_after(self, first: Chunk) -> bool:
        """Return whether reading a message's start once more is worth it: it may come by bytes."""
        came = self.kept_bytes - KEPT_OVERHEAD_BYTES * len(self.kept or ())
        size = PREFIX_BYTES + int.from_bytes(first[1:PREFIX_BYTES], "big")
        return came >= 2 * len(first) or came >= size or came > START_BYTES_MAX

    def _bind_by_sequence(self, pool: SlicePool) -> None:
        """Bind once the message has said to which sequence it belongs, or can no longer do so."""
        assert self.kept is not None, "bound after it was answered"
        assert pool.sequences is not None, "not a model of sequences"
        start = bytes(cast("Chunk", self.kept[0])) if self.kept else b""
        told = start_of(start)
        if told is None:
            if not self.ended_in and len(start) <= START_BYTES_MAX:
                return
            told = StartOfMessage("", NO_SEQUENCE)
        core = self.client.core
        self.sticky = sticky = Sticky(core, pool.sequences, self.request.path == STREAM_INFER)
        try:
            target = sticky.begin(told.fields, pool)
        except TableFullError:
            core.counters.limit("sequences")
            self.fail(errors.OVERLOADED.because("too many live sequences of one model"))
            return
        if target is not None and sticky.tap is not None:
            for data in self.kept:
                sticky.passes(cast("Chunk", data), target)
        self.give_to(target, errors.NO_SLICE)

    def _follow(self, data: Chunk) -> None:
        sticky, target = self.sticky, self.target
        if sticky is not None and sticky.tap is not None and target is not None:
            sticky.passes(data, target)

    def give_to(self, target: Slice | None, fault: Fault, lane: Lane | None = None) -> None:
        """Begin the call on `target`, in `lane` where that has one; fail with `fault` without."""
        client = self.client
        if target is None:
            self.fail(fault)
            return
        target.begin()
        target.grpc_requests += 1
        self.target = target
        if lane is not None:
            self.lane = lane
            self.lane_s = client.core.deadlines.now_s
            lane.begin()
        client.links.open(target, self)

    def part_from_slice(self) -> None:
        """The slice need not go on, if it has begun."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.connection.give_up(peer, frames.CANCEL)

    def _keep(self, data: Chunk | Run, size: int) -> None:
        assert self.kept is not None
        core = self.client.core
        if self.peer is not None and (
            self.kept_bytes + size > core.limits.replay_bytes
            or core.buffered_bytes > core.limits.buffered_bytes // 2  # rather than refuse others
        ):
            self._forget_kept()
            return
        if size <= COPY_BYTES_MAX and type(data) is memoryview:
            data = bytes(data)  # a few bytes must not hold a slab
        size += KEPT_OVERHEAD_BYTES
        self.kept.append(data)
        self.kept_bytes += size
        if self.place is not None:
            self.place.grow(size)
        core.buffered_bytes += size

    def _forget_kept(self) -> None:
        if self.kept is not None:
            self.client.core.buffered_bytes -= self.kept_bytes
            self.kept = None
            self.kept_bytes = 0

    def _answer_http(self, status: int, body: bytes) -> None:
        self.begun = True
        head = http_head(status, len(body))
        if self.request.is_head:
            self.client.send_headers(self, head, ends=True)
            return
        self.client.send_headers(self, head, ends=False)
        self.client.send_data(self, body, ends=True)
