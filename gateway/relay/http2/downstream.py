"""The client's side of an HTTP/2 connection."""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway import errors
from gateway.fleet.outcomes import REJECTED, TIMEOUT
from gateway.relay.core import RelayCore
from gateway.relay.forwarding import Origin
from gateway.relay.http2 import frames
from gateway.relay.http2.budget import Budget
from gateway.relay.http2.call import Call
from gateway.relay.http2.closed_streams import ClosedStreams
from gateway.relay.http2.composing import collect
from gateway.relay.http2.connection import Connection
from gateway.relay.http2.frames import ProtocolError
from gateway.relay.http2.headers import BlockReader, MalformedError, Request, check_trailers, encode
from gateway.relay.http2.own_answers import answer_here
from gateway.relay.http2.queueing import hold_lane, take_lane
from gateway.relay.http2.runs import Run
from gateway.relay.http2.stream import Chunk, Stream
from gateway.relay.router import BALANCED, BY_MESSAGE
from gateway.relay.slabs import forget_reader

if TYPE_CHECKING:
    from gateway.relay.http2.links import Links

DISCARD_QUIET_S: Final = 2.0
"""A client that has its answer and still sends is let finish, until it is quiet for so long: curl 7.88
takes the RST_STREAM that RFC 9113 section 8.1 allows here for an error, and loses the answer."""
EARLY_RESET_S: Final = 1.0
"""A stream that is reset younger than this, unanswered, counts as an attack might."""
_DRAIN_PING: Final = b"drain\0\0\0"
_LIVE_PING: Final = b"alive?\0\0"


class Downstream(Connection[Call]):
    """A client's connection; `streams` holds its calls."""

    __slots__ = (
        "_closed_streams",
        "_drain_sent",
        "_last_id",
        "_pinged_at_s",
        "_preface_left",
        "_reader",
        "_refuse_above",
        "_resets",
        "_saw_settings",
        "_stuck",
        "_stuck_since_s",
        "links",
        "origin",
    )

    def __init__(self, core: RelayCore, links: "Links") -> None:
        super().__init__(core, links.slabs)
        self.links = links
        limits = core.limits
        self.origin: Origin | None = None  # to be told to slices
        forwarding = core.forwarding if core.forwarding.on else None
        priority_header = core.registry.queues.settings.priority_header.encode()
        self._reader: BlockReader[Request] = BlockReader(
            lambda headers: Request(headers, forwarding, priority_header),
            limits.head_bytes,
        )
        self._resets = Budget(limits.reset_burst, limits.reset_per_s, core.deadlines.now_s)
        self._preface_left = frames.PREFACE
        self._last_id = -1  # as if -1 had been used: clients begin with 1
        self._closed_streams = ClosedStreams()
        self._stuck: object = None  # what was waited for at the last sweep
        self._stuck_since_s = 0.0
        self._refuse_above = frames.STREAM_ID_MAX
        self._drain_sent = False
        self._saw_settings = False
        self._pinged_at_s = 0.0

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        core, limits = self.core, self.core.limits
        core.counters.accepted += 1
        core.clients.add(self)
        core.deadlines.add(self)
        if core.forwarding.on:
            self.origin = core.forwarding.origin(transport.get_extra_info("peername")[0])
        self.last_read_s = core.deadlines.now_s
        self.deadline_s = core.deadlines.now_s  # looked at every tick
        self.put(
            frames.settings(
                {
                    frames.SETTING_MAX_CONCURRENT_STREAMS: limits.streams,
                    frames.SETTING_INITIAL_WINDOW_SIZE: limits.stream_window,
                    frames.SETTING_MAX_FRAME_SIZE: limits.frame_bytes,
                    frames.SETTING_MAX_HEADER_LIST_SIZE: limits.head_bytes,
                }
            )
        )
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self.put(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))
        if core.draining:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        core = self.core
        core.counters.closed += 1
        core.counters.header_hits += self._reader.hits
        core.counters.header_misses += self._reader.misses
        core.clients.discard(self)
        core.deadlines.discard(self)
        self.forget_unwritten()
        if self.transport is not None:
            forget_reader(self.transport)
        self._cancel_calls()

    def close(self, code: int = frames.NO_ERROR, reason: str = "") -> None:
        super().close(code, reason)
        self._cancel_calls()

    def _cancel_calls(self) -> None:
        calls, self.streams = list(self.streams.values()), {}
        for call in calls:
            call.cancel()
            self.drop_queue(call)

    def data_received(self, data: Chunk) -> None:
        if self._preface_left:
            expected = self._preface_left
            n = min(len(expected), len(data))
            if bytes(data[:n]) != expected[:n]:
                self.fail(ProtocolError(frames.PROTOCOL_ERROR, "bad connection preface"))
                return
            self._preface_left = expected[n:]
            data = data[n:]
            if not data:
                return
        super().data_received(data)

    def on_first_settings(self) -> None:
        self._saw_settings = True

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        """The client opens no more streams, so there is nothing to wait for but what is open."""
        if self._refuse_above == frames.STREAM_ID_MAX:
            self._drain_sent = True
            self._refuse_above = max(0, self._last_id)
            self.put(frames.goaway(self._refuse_above, frames.NO_ERROR))
            self._close_if_done()

    def is_idle_stream(self, stream_id: int) -> bool:
        return stream_id > self._last_id or not stream_id & 1

    def last_stream_id(self) -> int:
        return max(0, min(self._last_id, self._refuse_above))  # a GOAWAY may not take back another

    # --- calls --------------------------------------------------------------------------------

    def on_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        if stream_id <= self._last_id or not stream_id & 1:
            self._late_headers(stream_id, block, ends)
            return
        if not self._saw_settings:
            raise ProtocolError(frames.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if stream_id != self._last_id + 2:
            self._closed_streams.skip(self._last_id, stream_id)
        self._last_id = stream_id
        core = self.core
        try:
            request = self._reader.read(block)
        except MalformedError:
            self._refuse(stream_id, frames.PROTOCOL_ERROR)
            return
        if stream_id > self._refuse_above:
            self._closed_streams.remember(
                stream_id
            )  # behind our GOAWAY: the client sends it elsewhere
            return
        if len(self.streams) >= core.limits.streams:
            core.counters.limit("streams")
            self._refuse(stream_id, frames.REFUSED_STREAM)
            return
        call = Call(self, stream_id, request)
        self.streams[stream_id] = call
        core.counters.grpc_calls += 1
        if ends:
            call.ended_in = True
            if request.content_length > 0:
                self._malformed(call)
                return
        self._begin(call, request, ends)

    def _begin(self, call: Call, request: Request, ends: bool) -> None:
        core, limits = self.core, self.core.limits
        kind = request.route.kind
        if request.size > limits.head_bytes or request.count > limits.header_count:
            core.counters.limit("head_bytes")
            call.fail(errors.HEAD_TOO_LARGE)
        elif request.timeout_s < 0 and request.is_grpc:
            call.fail(errors.BAD_REQUEST.because("grpc-timeout is not 1 to 8 digits and a unit"))
        elif self._too_much_held:
            call.fail_overloaded()
        elif kind is BY_MESSAGE:
            if ends:
                call.bind("")
        elif kind is BALANCED:
            if not request.route.composed or not call.composed:
                call.bind(request.route.key)
            elif ends:
                collect(call)
        else:
            answer_here(call, request.route)

    def on_data(self, stream_id: int, data: Chunk, size: int, ends: bool) -> None:
        self.receive_left -= size
        if self.receive_left < 0:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "connection window exceeded")
        call = self.streams.get(stream_id)
        if call is None or call.ended_in:
            self._late_data(stream_id, call, size, ends)
            return
        call.receive_left -= size
        if call.receive_left < 0:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "stream window exceeded")
        call.held += size
        call.active_s = self.core.deadlines.now_s
        if size > len(data):  # padding goes no further
            self.credit(call, size - len(data))
        if not data and not ends:
            return
        if call.body_left >= 0:
            call.body_left -= len(data)
            if call.body_left < 0 or (ends and call.body_left):
                self._malformed(call)
                return
        if call.done:
            call.ended_in = ends
            self.credit(call, len(data))
            if call.ended_out:
                self._discard(call, len(data))
        else:
            call.take(data, len(data), ends)

    def on_run(self, run: Run) -> bool:
        call, payload = self.streams.get(run.stream_id), run.payload
        if call is None or call.ended_in or call.done:
            return False
        left = call.body_left
        if left >= 0 and (payload > left or (run.ends and payload < left)):
            return False  # on_data() says what is wrong with it
        if payload > call.receive_left or payload > self.receive_left or not call.take_run(run):
            return False
        call.active_s = self.core.deadlines.now_s
        if left >= 0:
            call.body_left = left - payload
        self.receive_left -= payload
        call.receive_left -= payload
        call.held += payload
        self.credit(call, payload)
        return True

    def on_reset(self, stream_id: int, code: int) -> None:
        self._closed_streams.forget(stream_id)
        call = self.streams.pop(stream_id, None)
        if call is None:
            self.spend("RST_STREAM")
            return
        begun, ended_out = call.begun, call.ended_out
        call.cancel()
        self._forget(call)
        if not begun:
            self._count_early_reset(call)
        elif ended_out or call.pool is None:  # answered, or by us: little was done for nothing
            self.spend("RST_STREAM")

    def on_sent(self, stream: Stream) -> None:
        """The answer is complete; what the client still sends is thrown away."""
        call = cast("Call", stream)
        if call.ended_in:
            self._forget(call)
        elif call.request.is_grpc:  # as gRPC's own servers do: who streams would never finish
            self.reset(call, frames.NO_ERROR)
        else:
            call.discard_left = self.core.limits.body_bytes
            self.credit(call, call.held)

    @property
    def _too_much_held(self) -> bool:
        return self.core.buffered_bytes > self.core.limits.buffered_bytes

    def check_held(self, call: Call) -> None:
        """An answer has come that its client does not take: cut it off when all is too much."""
        if self._too_much_held:
            self.core.counters.limit("buffered_bytes")
            call.cancel()
            self.reset(call, frames.ENHANCE_YOUR_CALM)

    def on_window_overflow(self, stream: Call) -> None:
        self._end_malformed(stream, frames.FLOW_CONTROL_ERROR)

    def reset(self, call: Call, code: int) -> None:
        """End a stream without an answer."""
        if not call.ended_in:
            self._closed_streams.remember(call.id)
        self.put(frames.rst_stream(call.id, code))
        self._forget(call)

    def _discard(self, call: Call, size: int) -> None:
        """Throw away `size` bytes of a request that has been answered."""
        call.discard_left -= size
        if call.ended_in:
            self._forget(call)
        elif call.discard_left < 0:
            self.core.counters.limit("body_bytes")
            self.reset(call, frames.NO_ERROR)

    def block_of(self, request: Request) -> bytes:
        """Return the header block for a slice, with what it is told of the origin."""
        assert self.origin is not None, "nothing is to be told"
        assert request.came is not None, "nobody has looked what it says"
        return request.block + encode(self.origin.fields(request.came, b"2.0"))

    # --- draining and deadlines ---------------------------------------------------------------

    def retire(self) -> None:
        """
        Drain, once there was a call: HTTP/2 can tell its client that no more are wanted.

        A client that is about to make its first one may take a GOAWAY for a refusal (curl does).
        """
        if self._last_id > 0:
            self.drain()

    def drain(self) -> None:
        """
        Take no new calls, and close once the last is answered.

        Two GOAWAYs: the first, with the highest id there is, stops the client from opening
        streams; what it has opened meanwhile is still served. When the PING that follows comes
        back the second names the last stream, and what comes later is not ours. RFC 9113 6.8.
        """
        if self._drain_sent or self.closed:
            return
        self._drain_sent = True
        self.put(frames.goaway(frames.STREAM_ID_MAX, frames.NO_ERROR))
        self.put(frames.ping(_DRAIN_PING))

    def on_ping_ack(self, payload: bytes) -> None:
        self._pinged_at_s = 0.0
        if payload == _DRAIN_PING and self._drain_sent:
            self._refuse_above = max(0, self._last_id)
            self.put(frames.goaway(self._refuse_above, frames.NO_ERROR))
            self._close_if_done()

    def on_deadline(self, now_s: float) -> None:
        timeouts = self.core.timeouts
        quiet_s = now_s - self.last_read_s
        if self.closed:
            self.abort()
        elif not self.writable and self._too_much_held:
            self.core.counters.limit("buffered_bytes")
            self._cancel_calls()
            self.forget_unwritten()  # now, so that no more clients are cut off than need be
            self.abort()
        elif self._is_stuck(now_s):
            self.core.counters.limit("head_timeout")
            self.close(frames.SETTINGS_TIMEOUT, "SETTINGS or a header block did not come in time")
        elif self._pinged_at_s and now_s - self._pinged_at_s > timeouts.ping_timeout_s > 0:
            self.core.counters.limit("ping_timeout")
            self.abort()
        elif not self.streams:
            if timeouts.grpc_idle_s and quiet_s > timeouts.grpc_idle_s:
                self.core.counters.limit("grpc_idle")
                self.close(frames.NO_ERROR, "idle")
        else:
            if timeouts.ping_s and quiet_s > timeouts.ping_s and not self._pinged_at_s:
                self._pinged_at_s = now_s
                self.put(frames.ping(_LIVE_PING))
            for call in list(self.streams.values()):
                self._check_call(call, now_s)

    def _is_stuck(self, now_s: float) -> bool:
        """Return whether SETTINGS, a frame or a header block has been waited for too long."""
        waited_for: object = self._block or self._partial or None
        if not self._saw_settings:
            waited_for = self
        if waited_for is not self._stuck:
            self._stuck, self._stuck_since_s = waited_for, now_s
        head_s = self.core.timeouts.head_s
        return waited_for is not None and 0 < head_s < now_s - self._stuck_since_s

    def _check_call(self, call: Call, now_s: float) -> None:
        timeouts = self.core.timeouts
        quiet_s = now_s - call.active_s
        if not call.ended_in:
            hold_lane(call, now_s)
        if call.ended_out:
            if quiet_s > DISCARD_QUIET_S:
                self.reset(call, frames.NO_ERROR)
        elif call.deadline_s and now_s >= call.deadline_s and not call.done:
            call.fail_overdue()
        elif call.queue is not None:
            if timeouts.send_idle_s and quiet_s > timeouts.send_idle_s:
                self.core.counters.limit("send_idle")
                call.cancel()
                self.reset(call, frames.CANCEL)
        elif call.done or (call.ended_in and call.place is not None):
            return
        elif call.ended_in and not call.begun:
            if timeouts.response_s and quiet_s > timeouts.response_s:
                call.fail(errors.ANSWER_TIMEOUT, TIMEOUT)
        elif timeouts.stream_idle_s and quiet_s > timeouts.stream_idle_s:
            if call.ended_in:  # the slice does not go on
                call.fail(errors.ANSWER_TIMEOUT, TIMEOUT)
            else:
                call.fail(errors.REQUEST_TIMEOUT, REJECTED)

    def _forget(self, stream: Stream) -> None:
        """The stream is closed on both sides."""
        self.streams.pop(stream.id, None)
        if stream.queue is not None or stream.held:
            self.drop_queue(stream)
        if self._drain_sent:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.streams and self._refuse_above < frames.STREAM_ID_MAX:
            self.close()

    # --- what a client should not do ----------------------------------------------------------

    def _late_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        """HEADERS on a stream that is not new: trailers, a late frame, or a mistake."""
        if not stream_id & 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "clients open odd streams")
        headers = self._reader.decode(block)  # the dynamic table goes on, whatever it is for
        call = self.streams.get(stream_id)
        if call is None:
            if self._closed_streams.was_skipped(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, "stream ids must rise")
            if not ends or not self._closed_streams.may_send(stream_id, ends):  # trailers may come
                raise ProtocolError(frames.STREAM_CLOSED, "HEADERS on a closed stream")
            return
        if call.ended_in:
            raise ProtocolError(frames.STREAM_CLOSED, "HEADERS after END_STREAM")
        try:
            trailers = check_trailers(headers)
        except MalformedError:
            self._malformed(call)
            return
        if not ends or call.body_left > 0:
            self._malformed(call)
            return
        call.ended_in = True
        take_lane(call)
        call.request_trailers = trailers
        if call.ended_out:
            self._forget(call)
        elif call.peer is not None:
            call.peer.connection.send_headers(call.peer, trailers, ends=True)
        elif call.target is None and call.place is None and not call.done:
            if call.composed:
                collect(call)
            else:
                call.bind(call.key if call.gathers else "")

    def _late_data(self, stream_id: int, call: Call | None, size: int, ends: bool) -> None:
        if call is not None:
            raise ProtocolError(frames.STREAM_CLOSED, "DATA after END_STREAM")
        if not stream_id or self.is_idle_stream(stream_id):
            raise ProtocolError(frames.PROTOCOL_ERROR, "DATA on an idle stream")
        if not self._closed_streams.may_send(stream_id, ends):
            raise ProtocolError(frames.STREAM_CLOSED, "DATA on a closed stream")
        self.credit_connection(size)

    def _malformed(self, call: Call) -> None:
        self._end_malformed(call, frames.PROTOCOL_ERROR)

    def _end_malformed(self, call: Call, code: int) -> None:
        self.core.counters.limit("malformed_request")
        call.cancel()
        self.reset(call, code)
        self._count_early_reset(call)

    def _refuse(self, stream_id: int, code: int) -> None:
        self._closed_streams.remember(stream_id)
        self.put(frames.rst_stream(stream_id, code))
        self._spend_reset()

    def _count_early_reset(self, call: Call) -> None:
        if self.core.deadlines.now_s - call.opened_s < EARLY_RESET_S:
            self._spend_reset()

    def _spend_reset(self) -> None:
        """Whoever resets, the work was asked for: CVE-2023-44487 and CVE-2025-8671 alike."""
        if not self._resets.spend(self.core.loop.time()):
            reason = "too many streams reset early"
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, reason, "early_resets")
