"""
The HTTP/2 relay on a stage: the real code between strict `h2` peers, without sockets or waiting.

    stage = Stage("a", "b")                 two slices, both up, both with model m
    call = stage.client().calls(INFER, message("m"), ends=True)
    served = stage.slice("a").call()        what the slice has received
    served.answers(b"reply")
    assert call.body == b"reply"

Time stands still until `stage.advance()`; bytes move until nobody has any more, whenever a peer has
done something. A peer that stalls leaves what it is sent in the gateway's socket buffer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, cast

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.forwarding_rules import ForwardingRules
from gateway.hedging_rules import HedgingRules
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http2.downstream import Downstream
from gateway.relay.http2.links import Links

HIGH_WATER = 64 * 1024
"""Bytes in a transport's buffer at which asyncio says pause_writing()."""
MOVES_MAX = 100_000


class FakeLoop:
    """The part of an event loop that the relay uses, on a clock turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.mistakes: list[BaseException] = []
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self._soon.append(lambda: callback(*args))

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> "Timer":
        timer = Timer(self.now_s + delay_s, callback)
        self._timers.append(timer)
        return timer

    def create_task(self, coroutine: Coroutine[Any, Any, Any], name: str) -> "StageTask":
        return StageTask(self, coroutine)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.mistakes.append(context["exception"])

    def run_soon(self) -> bool:
        """Run one turn's callbacks; return whether there were any."""
        count = len(self._soon)
        for _ in range(count):
            self._soon.popleft()()
        return count > 0

    def run_timers(self) -> None:
        due = [timer for timer in self._timers if timer.when_s <= self.now_s]
        self._timers = [timer for timer in self._timers if timer not in due]
        for timer in due:
            timer.callback()


class Gate:
    """What a coroutine on the stage may await: opened by the test."""

    def __init__(self) -> None:
        self.opened = False
        self.waiting: StageTask | None = None

    def __await__(self) -> Iterator["Gate"]:
        if not self.opened:
            yield self

    def open(self) -> None:
        self.opened = True
        if self.waiting is not None:
            self.waiting.soon()


class StageTask:
    """The part of a task that the relay uses; its coroutine awaits gates only."""

    def __init__(self, loop: FakeLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._callbacks: list[Callable[[Any], object]] = []
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._cancelled = False
        self.soon()

    def soon(self) -> None:
        self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._outcome is not None:
            return
        try:
            if self._cancelled:
                self._coroutine.throw(asyncio.CancelledError())
            gate = self._coroutine.send(None)
            gate.waiting = self
            return
        except StopIteration as end:
            self._outcome = (end.value, None)
        except asyncio.CancelledError:
            self._outcome = (None, None)
        except Exception as error:
            self._outcome = (None, error)
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        self._cancelled = True
        self.soon()

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> BaseException | None:
        assert self._outcome is not None, "not done"
        return self._outcome[1]

    def result(self) -> Any:
        assert self._outcome is not None, "not done"
        return self._outcome[0]


class Timer:
    def __init__(self, when_s: float, callback: Callable[[], object]) -> None:
        self.when_s = when_s
        self.callback = callback

    def cancel(self) -> None:
        self.callback = lambda: None


class WirePeer(Protocol):
    """Whoever is at the other end of a Wire."""

    def receive(self, data: bytes) -> None: ...
    def to_send(self) -> bytes: ...
    def lost(self) -> None: ...


class Wire:
    """A transport, and the connection behind it."""

    def __init__(self, loop: FakeLoop, protocol: Any, peer: WirePeer) -> None:
        self.protocol = protocol
        self.peer = peer
        self.stalled = False  # the peer reads nothing
        self.closing = False
        self.ended = False  # the gateway sends no more
        self.lost = False
        self.peer_closed = False
        self.written = 0
        self.reading = True
        self._unread = bytearray()
        self._buffer = bytearray()
        self._paused = False
        self._loop = loop

    # --- for the gateway ----------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "write() after write_eof()"
        assert not self.closing, "write() after close()"
        self._buffer += data
        self.written += len(data)
        if len(self._buffer) > HIGH_WATER and self.stalled and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self._loop.call_soon(self._read_on)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 40000) if name == "peername" else default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self._buffer.clear()

    # --- for the stage ------------------------------------------------------------------------

    def move(self) -> bool:
        """Carry what there is, both ways; return whether anything was."""
        if self.lost:
            return False
        moved = False
        if self._buffer and not self.stalled:
            data = bytes(self._buffer)
            self._buffer.clear()
            self.peer.receive(data)
            moved = True
        if self._paused and not self._buffer:
            self._paused = False
            self.protocol.resume_writing()
            moved = True
        if not self._buffer and self.closing:
            self._lose()
            return True
        if self.ended and not self._buffer and not self.peer_closed:
            self.peer.lost()
            self.peer_closed = True
            moved = True
        out = self.peer.to_send()
        if out:
            self.feed(out)
            moved = True
        if self.peer_closed and self.reading and not self.closing:
            keeps_open = self.protocol.eof_received()
            assert not keeps_open, "a closed connection would stay"
            self.closing = True
            self._buffer.clear()
            moved = True
        return moved

    def feed(self, data: bytes) -> None:
        """Hand the gateway bytes as they come from the socket."""
        while data and not self.lost and not self.closing:
            if not self.reading:
                self._unread += data
                return
            if hasattr(self.protocol, "get_buffer"):
                room = self.protocol.get_buffer(-1)
                size = min(len(room), len(data))
                room[:size] = data[:size]
                del room
                self.protocol.buffer_updated(size)
                data = data[size:]
            else:
                self.protocol.data_received(data)
                return

    def _read_on(self) -> None:
        data = bytes(self._unread)
        self._unread.clear()
        self.feed(data)

    def cut(self) -> None:
        """The connection breaks."""
        self.closing = True
        self._buffer.clear()
        if not self.lost:
            self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._buffer.clear()
        self.protocol.connection_lost(None)
        self.peer.lost()


class StageDialer:
    """Connects to the stage's slices."""

    def __init__(self, stage: "Stage") -> None:
        self._stage = stage

    def dial(
        self,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        on_failure: Callable[[str, bool], None],
    ) -> None:
        peer = self._stage.slice_at(endpoint)
        peer.dialed.append((protocol, on_failure))
        if not peer.holding:
            self._stage.loop.call_soon(peer.answer_dials)


class Stage:
    """Clients, the relay and slices; see the module's docstring."""

    def __init__(
        self,
        *names: str,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        policy: str = "least_load",
        forwarding: ForwardingRules | None = None,
        hedging: HedgingRules | None = None,
    ) -> None:
        from tests.support.h2_peers import ScriptedSlice

        self.loop = FakeLoop()
        self.wires: list[Wire] = []
        self.registry = SliceRegistry(POLICIES[policy], Thresholds(), self.loop.time)
        self.counters = Counters()
        self.checked_soon: list[Slice] = []
        self.core = RelayCore(
            cast("asyncio.AbstractEventLoop", self.loop),
            self.registry,
            self.counters,
            limits or Limits(),
            timeouts or Timeouts(),
            self.checked_soon.append,
            forwarding,
        )
        self.core.hedges._clock = self.loop.time
        self.core.dialer = StageDialer(self)  # type: ignore[assignment]
        self.core.deadlines.start()
        self.links = Links(self.core)
        self.core.relays.append(self.links)
        if hedging is not None:
            self.core.hedges.configure(hedging)
        names = names or ("a",)
        self.specs = [
            SliceSpec(
                name, Endpoint("127.0.0.1", 8000 + 10 * i), Endpoint("127.0.0.1", 8001 + 10 * i)
            )
            for i, name in enumerate(names)
        ]
        self.registry.replace(self.specs)
        for member in self.registry.slices.values():
            self.registry.record(member, CheckResult(True, "up", models={"m": ("1", "2")}))
        self.slices = {
            spec.grpc: ScriptedSlice(self, self.registry.slices[spec.name]) for spec in self.specs
        }

    # --- who is on it -------------------------------------------------------------------------

    def slice(self, name: str = "a") -> Any:
        return next(peer for peer in self.slices.values() if peer.member.name == name)

    def slice_at(self, endpoint: Endpoint) -> Any:
        return self.slices[endpoint]

    def client(self, **settings: Any) -> Any:
        """Return a strict h2 client that is connected."""
        from tests.support.h2_peers import H2Client

        return self._connect(H2Client(self, **settings))

    def raw_client(self, *, greets: bool = True) -> Any:
        """Return a client that sends what it is told, right or wrong."""
        from tests.support.h2_peers import RawClient

        return self._connect(RawClient(self, greets=greets))

    def _connect(self, peer: Any) -> Any:
        downstream = Downstream(self.core, self.links)
        wire = Wire(self.loop, downstream, peer)
        self.wires.append(wire)
        peer.wire, peer.downstream = wire, downstream
        downstream.connection_made(cast("asyncio.Transport", wire))
        self.settle()
        return peer

    # --- what happens -------------------------------------------------------------------------

    def settle(self) -> None:
        """Let bytes move until nobody has any more."""
        for _ in range(MOVES_MAX):
            moved = self.loop.run_soon()
            for wire in list(self.wires):
                moved = wire.move() or moved
            if not moved:
                self.wires = [wire for wire in self.wires if not wire.lost]
                return
        raise AssertionError("the stage does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        end_s = self.loop.now_s + seconds + 0.001
        while self.loop.now_s < end_s:
            self.loop.now_s = min(self.loop.now_s + 0.1, end_s)
            self.loop.run_timers()
            self.settle()

    # --- what can be seen ---------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.registry.slices.values())

    def assert_at_rest(self) -> None:
        """Nothing is counted and nothing is held."""
        assert self.in_flight == 0, f"{self.in_flight} still in flight"
        assert self.core.buffered_bytes == 0, f"{self.core.buffered_bytes} bytes still held"
