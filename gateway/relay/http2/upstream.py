"""The slice's side of an HTTP/2 connection."""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from gateway import errors
from gateway.errors import Fault
from gateway.fleet.outcomes import CONNECT_FAILED, LOST, OK, REJECTED, TIMEOUT
from gateway.fleet.slices import Slice
from gateway.relay.core import RelayCore
from gateway.relay.http2 import frames
from gateway.relay.http2.call import STREAM_INFER, Call
from gateway.relay.http2.connection import Connection
from gateway.relay.http2.frames import ProtocolError
from gateway.relay.http2.half import Half
from gateway.relay.http2.headers import UNSAID, Answer, BlockReader, MalformedError
from gateway.relay.http2.hedging import end_in_vain, settle
from gateway.relay.http2.queueing import take_lane
from gateway.relay.http2.replaying import is_movable, lose
from gateway.relay.http2.runs import Run
from gateway.relay.http2.stream import Chunk, Stream
from gateway.relay.sequence_fields import PREFIX_BYTES
from gateway.relay.slabs import Slabs

if TYPE_CHECKING:
    from gateway.relay.http2.links import SliceLinks

MESSAGE_DUE: Final = -2
_ERROR_MESSAGE: Final = b"\x0a"
"""Field 1 of ModelStreamInferResponse; an answer has field 2."""
INTERIM_MAX: Final = 16
"""1xx answers before the real one."""
STREAMS_ASSUMED: Final = 128
"""Until the slice's SETTINGS say how many streams it takes."""
STREAMS_MAX: Final = 1024
"""Of one connection, also when the slice sets no bound; beyond it another is opened."""
_WITHOUT_BODY: Final = (204, 304)
"""Statuses of answers without a body, whatever their content-length. RFC 9110 section 6.4.1."""


class Upstream(Connection[Half]):
    """
    A connection to a slice; `streams` holds the slice's halves of calls.

    Attributes:
        waiting: Calls that start once the slice has sent its SETTINGS.
        retired: Takes no new call.
    """

    __slots__ = (
        "_bounded",
        "_links",
        "_next_id",
        "_reader",
        "_streams_max",
        "_unsent_ids",
        "connected",
        "member",
        "retired",
        "waiting",
    )

    credits_at_once = True  # one slow client must not close the window that all share

    def __init__(self, core: RelayCore, slabs: Slabs, member: Slice, links: "SliceLinks") -> None:
        super().__init__(core, slabs)
        self.stream_window = core.limits.answer_window
        self.receive_window = max(self.stream_window, frames.DEFAULT_WINDOW)
        self.member = member
        self.connected = False
        self.retired = False
        self.waiting: list[Call] = []
        self._links = links
        self._next_id = 1
        self._streams_max = STREAMS_ASSUMED
        self._bounded = False  # the slice has said so
        self._unsent_ids: set[int] = set()  # of streams that the slice has never seen
        self._reader: BlockReader[Answer] = BlockReader(Answer, core.limits.head_bytes)

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.closed:  # while it was being opened
            self.transport.abort()
            return
        core, limits = self.core, self.core.limits
        core.deadlines.add(self)
        self.deadline_s = core.deadlines.after(core.timeouts.connect_s)
        self.last_read_s = core.deadlines.now_s
        self.put(
            frames.PREFACE
            + frames.settings(
                {
                    frames.SETTING_ENABLE_PUSH: 0,
                    frames.SETTING_INITIAL_WINDOW_SIZE: limits.answer_window,
                    frames.SETTING_MAX_FRAME_SIZE: limits.frame_bytes,
                    frames.SETTING_MAX_HEADER_LIST_SIZE: limits.head_bytes,
                }
            )
        )
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self.put(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        core = self.core
        core.deadlines.discard(self)
        self.forget_unwritten()
        core.counters.header_hits += self._reader.hits
        core.counters.header_misses += self._reader.misses
        self._lose_calls(
            errors.SLICE_LOST.because(f"slice {self.member.name}"),
            LOST if self.connected else CONNECT_FAILED,
            broke=True,
        )

    def dial_failed(self, reason: str, refused: bool, outcome: int = CONNECT_FAILED) -> None:
        """No connection could be opened; called instead of connection_made()."""
        if refused:
            self.core.slice_refused(self.member, reason)
        else:
            self.core.slice_lost(self.member)
        self.closed = True
        self._lose_calls(errors.SLICE_REFUSED.because(reason), outcome)

    def on_setting(self, key: int, value: int) -> None:
        super().on_setting(key, value)
        if key == frames.SETTING_MAX_CONCURRENT_STREAMS:
            self._bounded = True
            self._streams_max = min(value, STREAMS_MAX)

    def on_first_settings(self) -> None:
        if not self._bounded:
            self._streams_max = STREAMS_MAX
        self.connected = True
        self._rest()
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            if not call.done:
                self._links.open(call)
        self._close_if_done()

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        """The slice is leaving: what it has not begun goes elsewhere."""
        self.retire()
        fault = errors.SLICE_LOST.because(f"slice {self.member.name} is leaving")
        for stream in [s for s in self.streams.values() if s.id > last_stream_id]:
            self._remove(stream)
            lose(stream.call, fault, unprocessed=True, outcome=REJECTED)
        self._close_if_done()

    def on_unsent(self, out: list[Chunk]) -> None:
        self._unsent_ids |= frames.streams_with_head(b"".join(out))

    def is_idle_stream(self, stream_id: int) -> bool:
        return stream_id >= self._next_id or not stream_id & 1

    # --- calls --------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return not self.retired and len(self.streams) + len(self.waiting) < self._streams_max

    def begin(self, call: Call) -> None:
        """Start `call` here, now or as soon as the slice has said what it takes."""
        if not self.connected:
            self.waiting.append(call)
            return
        stream = Half(self, self._next_id, call)
        self._next_id += 2
        self.streams[stream.id] = stream
        self.deadline_s = 0.0
        if self._next_id > frames.STREAM_ID_MAX:
            self.retire()
        call.start(stream)

    def on_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        stream = self.streams.get(stream_id)
        try:
            answer = self._reader.read(block)
        except MalformedError as error:
            if stream is not None:
                self._bad_answer(stream, str(error))
            return
        if stream is None:
            # A Triton repeats the end of a call whose grpc-timeout has passed; others may be late.
            if self.is_idle_stream(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, "HEADERS on an idle stream")
            return
        call = stream.call
        call.active_s = self.core.deadlines.now_s
        if call.begun:
            if answer.status or not ends:
                self._bad_answer(stream, "a second head")
                return
            if stream.body_left > 0:
                self._bad_answer(stream, "less data than content-length says")
                return
        elif self._begins(stream, call, answer, ends):
            call = stream.call  # another than before, where two slices were asked
        else:
            return
        if ends:
            self._finish(stream, call, answer.outcome)
        call.client.send_headers(call, answer.block, ends)

    def _begins(self, stream: Half, call: Call, answer: Answer, ends: bool) -> bool:
        """Take an answer's head, which may be all of it; return False if it is not passed on."""
        if answer.status < 200:
            stream.interim += 1
            if ends or not answer.status or answer.status == 101 or stream.interim > INTERIM_MAX:
                self._bad_answer(stream, "no head")
            return False  # 1xx tells a gRPC client nothing
        without_body = call.request.is_head or answer.status in _WITHOUT_BODY
        stream.body_left = 0 if without_body else answer.content_length
        if ends and stream.body_left > 0:
            self._bad_answer(stream, "less data than content-length says")
            return False
        if ends and answer.turned_away and self._turn_elsewhere(stream, call, answer):
            return False
        if call.rival is not None:
            if call.second and ends:  # an error, which says little of what the first will say
                end_in_vain(call, call.rival, sent=True)
                self._finish(stream, call, answer.outcome)
                return False
            call = settle(call, call.rival, stream)
        if stream.body_left == -1 and call.request.path == STREAM_INFER:
            stream.body_left = MESSAGE_DUE
        call.begin_answer(answer.status)
        return True

    def on_data(self, stream_id: int, data: Chunk, size: int, ends: bool) -> None:
        self.receive_left -= size
        if self.receive_left < 0:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "connection window exceeded")
        self.uncredited += size
        if self.uncredited >= self.window_step:
            self.credit_connection(0)
        stream = self.streams.get(stream_id)
        if stream is None:
            if not stream_id or self.is_idle_stream(stream_id):
                raise ProtocolError(frames.PROTOCOL_ERROR, "DATA on an idle stream")
            return
        stream.receive_left -= size
        if stream.receive_left < 0:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "stream window exceeded")
        call = stream.call
        if not call.begun:
            self._bad_answer(stream, "data before the head")
            return
        if stream.body_left != -1 and not self._as_announced(stream, data, ends):
            return
        call.active_s = call.lane_s = self.core.deadlines.now_s
        if call.parked is not None:
            take_lane(call)
        if ends:
            self._finish(stream, call, UNSAID)
        else:
            stream.held += size
        if call.client.send_data(call, data, ends):
            self.credit(stream, size)
            return
        if size > len(data):
            self.credit(stream, size - len(data))
        call.client.check_held(call)

    def _as_announced(self, stream: Half, data: Chunk, ends: bool) -> bool:
        """Look at data that was announced; return False when it is not as the head has said."""
        if stream.body_left == MESSAGE_DUE:
            stream.body_left = -1
            stream.erred = data[PREFIX_BYTES : PREFIX_BYTES + 1] == _ERROR_MESSAGE
            return True
        stream.body_left -= len(data)
        if stream.body_left < 0 or (ends and stream.body_left):
            self._bad_answer(stream, "not as much data as content-length says")
            return False
        return True

    def on_run(self, run: Run) -> bool:
        stream, payload = self.streams.get(run.stream_id), run.payload
        if stream is None or payload > stream.receive_left or payload > self.receive_left:
            return False
        call = stream.call
        left = stream.body_left
        if not call.begun or run.ends or 0 <= left < payload or left == MESSAGE_DUE:
            return False
        if not call.client.send_run(call, run):
            return False
        if left >= 0:
            stream.body_left = left - payload
        call.active_s = call.lane_s = self.core.deadlines.now_s
        if call.parked is not None:
            take_lane(call)
        self.receive_left -= payload
        self.credit_connection(payload)
        stream.receive_left -= payload
        stream.held += payload
        self.credit(stream, payload)
        return True

    def on_reset(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        call = stream.call
        self._remove(stream)
        if code == frames.REFUSED_STREAM and not call.begun:
            fault = errors.SLICE_LOST.because(f"slice {self.member.name} refused the stream")
            lose(call, fault, unprocessed=True, outcome=REJECTED)
        elif call.request.is_grpc and not call.begun:
            fault = errors.SLICE_LOST.because(f"slice {self.member.name} reset the call ({code})")
            lose(call, fault, unprocessed=False, outcome=LOST)
        else:
            call.peer = None
            call.cancel(LOST)
            call.client.reset(call, code or frames.INTERNAL_ERROR)
        self._close_if_done()

    def on_sent(self, stream: Stream) -> None:
        """The request is complete; the stream lives on until its answer is."""

    def on_window_overflow(self, stream: Half) -> None:
        self._bad_answer(stream, "window above 2^31-1")

    def give_up(self, stream: Stream, code: int) -> None:
        """The call is over before its answer is: tell the slice."""
        self._remove(stream)
        self.put(frames.rst_stream(stream.id, code))
        self._close_if_done()

    def on_deadline(self, now_s: float) -> None:
        if self.closed:
            self.abort()
        elif self.connected:
            self.retire()
        else:
            self.core.slice_lost(self.member)
            fault = errors.SLICE_REFUSED.because(f"slice {self.member.name} sent no SETTINGS")
            self._lose_calls(fault, CONNECT_FAILED)
            self.abort()

    def fail(self, error: ProtocolError) -> None:
        super().fail(error)
        fault = errors.BAD_ANSWER.because(f"slice {self.member.name}: {error.reason}")
        self._lose_calls(fault, LOST)

    def retire(self) -> None:
        """Take no new call; close when the last is done."""
        self.retired = True
        self._links.forget(self)
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            if not call.done:
                self._links.open(call)
        self._close_if_done()

    # --- inside -------------------------------------------------------------------------------

    def move_calls(self) -> None:
        """The slice hangs: what it has not begun to answer goes elsewhere, if it can."""
        fault = errors.SLICE_LOST.because(f"slice {self.member.name} has stopped answering")
        replays = self.core.replays
        for stream in list(self.streams.values()):
            call = stream.call
            if not replays.sent_too or not is_movable(call):
                continue
            if not replays.left:
                self.core.counters.limit("replay_percent")
                break  # they wait on, within their timeout
            self._remove(stream)
            self.put(frames.rst_stream(stream.id, frames.CANCEL))
            lose(call, fault, unprocessed=False, outcome=TIMEOUT)
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            if call.done:
                continue
            if is_movable(call):
                lose(call, fault, unprocessed=True, outcome=TIMEOUT)
            else:
                self.waiting.append(call)
        self._close_if_done()

    def _finish(self, stream: Half, call: Call, outcome: int) -> None:
        """The slice has ended the stream; what the client still sends has nowhere to go."""
        stream.ended_in = True
        if not stream.ended_out:
            self.put(frames.rst_stream(stream.id, frames.CANCEL))
        if outcome == OK and stream.erred:
            outcome = REJECTED  # it may be the client's mistake or the slice's: nobody says
        call.slice_done(call.outcome_of_head if outcome == UNSAID else outcome)
        self._remove(stream)
        if self.retired:
            self._close_if_done()

    def _turn_elsewhere(self, stream: Half, call: Call, answer: Answer) -> bool:
        """Send a call that the slice has turned away to another; False if there is none."""
        waits = call.rival is not None and not call.second  # for a second slice
        if not waits and (not is_movable(call) or call.pool is self.core.registry.everywhere):
            return False
        if not stream.ended_out:
            self.put(frames.rst_stream(stream.id, frames.CANCEL))
        self._remove(stream)
        self.core.slice_lost(self.member)
        fault = errors.SLICE_LOST.because(f"slice {self.member.name} is leaving")
        lose(call, fault, unprocessed=True, outcome=answer.outcome)
        self._close_if_done()
        return True

    def _bad_answer(self, stream: Half, why: str) -> None:
        call = stream.call
        self._remove(stream)
        self.put(frames.rst_stream(stream.id, frames.PROTOCOL_ERROR))
        fault = errors.BAD_ANSWER.because(why)
        if call.rival is not None:
            lose(call, fault, unprocessed=False, outcome=LOST)
            return
        call.peer = None
        call.fail(fault, LOST)

    def _remove(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if stream.queue is not None or stream.held:
            self.drop_queue(stream)
        if not self.streams and not self.closed:
            self._rest()

    def _rest(self) -> None:
        """Nothing is in flight: from now on the connection is idle."""
        self.deadline_s = self.core.deadlines.after(self.core.timeouts.upstream_idle_s)

    def _close_if_done(self) -> None:
        if self.retired and not self.streams:
            self.close()

    def _lose_calls(self, fault: Fault, outcome: int, broke: bool = False) -> None:
        """The connection is of no more use (`broke`: closed): every call goes elsewhere or fails."""
        self.retired = True
        self._links.forget(self)
        if self.streams:
            self.core.slice_lost(self.member)
        streams = list(self.streams.values())
        if streams:
            self.on_unsent(self._out)
        unsent_ids, self._unsent_ids = self._unsent_ids, set()
        for stream in streams:
            self._remove(stream)
        waiting, self.waiting = self.waiting, []
        for stream in streams:
            unsent = not self.connected or (
                stream.id in unsent_ids and stream.call.request_trailers is None
            )
            sent_s = stream.active_s if broke and stream.ended_out and not unsent else 0.0
            lose(stream.call, fault, unsent, outcome, sent_s=sent_s)
        for call in waiting:
            if not call.done:
                lose(call, fault, unprocessed=True, outcome=outcome)
                if not self.connected:
                    outcome = REJECTED  # one connection that could not be had is one failure
