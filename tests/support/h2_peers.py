"""Peers of the HTTP/2 relay: strict ones built on `h2`, and a raw one that says anything."""

from collections.abc import Callable, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import h2.stream
from h2.connection import ConnectionInputs, ConnectionState
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hpack.hpack import Decoder, Encoder

from gateway.fleet.slices import Slice
from gateway.relay.http2 import frames
from tests.support.h2_stage import Stage, Wire

Headers = Sequence[tuple[bytes, bytes]]
"""A header list, pseudo-header fields first."""

INFER = b"/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = b"/inference.GRPCInferenceService/ModelStreamInfer"
STATISTICS = b"/inference.GRPCInferenceService/ModelStatistics"
LIVE = b"/inference.GRPCInferenceService/ServerLive"
READY = b"/inference.GRPCInferenceService/ServerReady"
HEALTH = b"/grpc.health.v1.Health/Check"
GRPC = (b"content-type", b"application/grpc")
ANSWER_HEAD = [(b":status", b"200"), GRPC]
OK_TRAILERS = [(b"grpc-status", b"0")]


def message(model: str = "m", size: int = 0, version: str = "") -> bytes:
    """Return a gRPC message that begins as a ModelInferRequest for `model` does."""
    name, number = model.encode(), version.encode()
    body = b"\x0a" + bytes((len(name),)) + name
    if number:
        body += b"\x12" + bytes((len(number),)) + number
    body += b"\x1a\x00" if not size else b""
    body += b"x" * (size - len(body))
    return b"\0" + len(body).to_bytes(4, "big") + body


def head(path: bytes = INFER, *more: tuple[bytes, bytes], method: bytes = b"POST") -> Headers:
    """Return a gRPC request's header list."""
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"gateway:50050"),
        GRPC,
        (b"te", b"trailers"),
        *more,
    ]


class Exchange:
    """
    One stream, as one peer sees it.

    Attributes:
        head: Header list that began the other side's part.
        hints: 1xx heads before it.
        body: Data received.
        sizes: Of each DATA frame received.
        trailers: Header list that ended it, if any.
        ended: END_STREAM was received.
        reset_code: Of the RST_STREAM received, if any.
        unread: Received and not given back to the flow-control window.
    """

    def __init__(self, peer: "H2Peer", stream_id: int) -> None:
        self.peer = peer
        self.id = stream_id
        self.head: list[tuple[bytes, bytes]] = []
        self.hints: list[list[tuple[bytes, bytes]]] = []
        self.body = b""
        self.sizes: list[int] = []
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.ended = False
        self.reset_code: int | None = None
        self.unread = 0

    # --- doing --------------------------------------------------------------------------------

    def sends_head(self, headers: Headers, *, ends: bool = False) -> None:
        self.peer.conn.send_headers(self.id, headers, end_stream=ends)
        self.peer.stage.settle()

    def sends(
        self,
        data: bytes = b"",
        *,
        ends: bool = False,
        pad: int | None = None,
        frame_bytes: int = 1 << 24,
    ) -> None:
        """Send DATA at once, in as many frames as `frame_bytes` and the gateway's limit ask for."""
        conn = self.peer.conn
        step = min(frame_bytes, conn.max_outbound_frame_size - (0 if pad is None else pad + 1))
        for start in range(0, max(len(data), 1), step):
            piece = data[start : start + step]
            last = start + step >= len(data)
            conn.send_data(self.id, piece, end_stream=ends and last, pad_length=pad)
        self.peer.stage.settle()

    def sends_all(self, data: bytes, *, ends: bool = False) -> None:
        """Send DATA as fast as windows allow; the windows must open by themselves."""
        conn = self.peer.conn
        while data:
            room = min(conn.local_flow_control_window(self.id), conn.max_outbound_frame_size)
            assert room > 0, f"the window stays shut with {len(data)} bytes to go"
            conn.send_data(self.id, data[:room], end_stream=ends and room >= len(data))
            data = data[room:]
            self.peer.stage.settle()

    def answers(
        self, data: bytes = b"", head: Headers = ANSWER_HEAD, trailers: Headers = OK_TRAILERS
    ) -> None:
        """Answer at once: head, data, trailers."""
        self.peer.conn.send_headers(self.id, head)
        if data:
            self.peer.conn.send_data(self.id, data)
        self.peer.conn.send_headers(self.id, trailers, end_stream=True)
        self.peer.stage.settle()

    def resets(self, code: int = frames.CANCEL) -> None:
        self.peer.conn.reset_stream(self.id, code)
        self.peer.stage.settle()

    def reads(self) -> None:
        """Give back the window that was held."""
        self.peer.give_back(self)
        self.peer.stage.settle()

    # --- seeing -------------------------------------------------------------------------------

    @property
    def status(self) -> int:
        """HTTP status, 0 before there is one."""
        return int(dict(self.head).get(b":status", b"0"))

    @property
    def grpc_status(self) -> int | None:
        """gRPC status of the trailers, or of a trailers-only head."""
        value = dict(self.trailers or self.head).get(b"grpc-status")
        return None if value is None else int(value)

    @property
    def grpc_message(self) -> str:
        return dict(self.trailers or self.head).get(b"grpc-message", b"").decode()

    @property
    def window(self) -> int:
        """What the gateway lets this peer send on the stream now."""
        return self.peer.conn.local_flow_control_window(self.id)


class H2Peer:
    """
    A strict peer: what the gateway sends wrong, `h2` raises.

    Attributes:
        reads: Give windows back as data comes; else exchanges hold theirs until reads().
        goaways: (last stream id, code) of each received.
        pings: Payloads of PING answers received.
    """

    def __init__(self, stage: Stage, *, client: bool, settings: dict[int, int]) -> None:
        self.stage = stage
        self.wire: Wire
        self.reads = True
        self.exchanges: dict[int, Exchange] = {}
        self.goaways: list[tuple[int, int]] = []
        self.goaway_text = ""
        self.pings: list[bytes] = []
        self.closed = False
        self._raw = b""
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.conn = h2.connection.H2Connection(config)
        self.conn.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
                **{SettingCodes(key): value for key, value in settings.items()},
            },
        )
        # h2 takes every GOAWAY for the end; a graceful one lets open streams finish.
        goes_on = {
            (state, ConnectionInputs.RECV_GOAWAY): (None, state) for state in ConnectionState
        }
        machine = self.conn.state_machine
        machine._transitions = machine._transitions | goes_on
        self.conn.max_inbound_frame_size = self.conn.local_settings.max_frame_size
        self.conn.initiate_connection()

    # --- the wire -----------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        try:
            events = self.conn.receive_data(data)
        except H2Error as error:
            raise AssertionError(f"the gateway broke the protocol: {error!r}") from error
        for event in events:
            self._take(event)

    def to_send(self) -> bytes:
        raw, self._raw = self._raw, b""
        return (self.conn.data_to_send() or b"") + raw

    def lost(self) -> None:
        self.closed = True

    def raw(self, data: bytes) -> None:
        """Send bytes of our own behind what h2 has to send."""
        self._raw += data
        self.stage.settle()

    # --- doing --------------------------------------------------------------------------------

    def change(self, settings: dict[int, int]) -> None:
        """Send SETTINGS."""
        self.conn.update_settings({SettingCodes(key): value for key, value in settings.items()})
        self.stage.settle()

    def pings_with(self, payload: bytes) -> None:
        self.conn.ping(payload)
        self.stage.settle()

    def cuts(self) -> None:
        """Break the connection."""
        self.wire.cut()
        self.stage.settle()

    def stalls(self, stalled: bool = True) -> None:
        """Leave everything unread in the socket, or read again."""
        self.wire.stalled = stalled
        self.stage.settle()

    def give_back(self, exchange: Exchange) -> None:
        unread, exchange.unread = exchange.unread, 0
        if unread:
            self.conn.acknowledge_received_data(unread, exchange.id)

    # --- inside -------------------------------------------------------------------------------

    def _take(self, event: h2.events.Event) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _exchange(self, stream_id: int) -> Exchange:
        exchange = self.exchanges.get(stream_id)
        if exchange is None:
            exchange = self.exchanges[stream_id] = Exchange(self, stream_id)
        return exchange

    def _on_head(self, event: Any) -> None:
        self._exchange(event.stream_id).head = list(event.headers)

    def _on_hint(self, event: Any) -> None:
        self._exchange(event.stream_id).hints.append(list(event.headers))

    def _on_trailers(self, event: Any) -> None:
        self._exchange(event.stream_id).trailers = list(event.headers)

    def _on_data(self, event: Any) -> None:
        exchange = self._exchange(event.stream_id)
        exchange.body += event.data
        exchange.sizes.append(len(event.data))
        exchange.unread += event.flow_controlled_length
        if self.reads:
            self.give_back(exchange)

    def _on_end(self, event: Any) -> None:
        self._exchange(event.stream_id).ended = True

    def _on_reset(self, event: Any) -> None:
        self._exchange(event.stream_id).reset_code = int(event.error_code)

    def _on_goaway(self, event: Any) -> None:
        self.goaways.append((event.last_stream_id, int(event.error_code)))
        self.goaway_text = (event.additional_data or b"").decode()

    def _on_ping_ack(self, event: Any) -> None:
        self.pings.append(event.ping_data)


_HANDLERS: dict[type[h2.events.Event], Callable[[H2Peer, Any], None]] = {
    h2.events.RequestReceived: H2Peer._on_head,
    h2.events.ResponseReceived: H2Peer._on_head,
    h2.events.InformationalResponseReceived: H2Peer._on_hint,
    h2.events.TrailersReceived: H2Peer._on_trailers,
    h2.events.DataReceived: H2Peer._on_data,
    h2.events.StreamEnded: H2Peer._on_end,
    h2.events.StreamReset: H2Peer._on_reset,
    h2.events.ConnectionTerminated: H2Peer._on_goaway,
    h2.events.PingAckReceived: H2Peer._on_ping_ack,
}


class H2Client(H2Peer):
    """A client."""

    def __init__(self, stage: Stage, **settings: int) -> None:
        codes: dict[int, int] = {
            getattr(SettingCodes, key.upper()): value for key, value in settings.items()
        }
        super().__init__(stage, client=True, settings=codes)
        self.downstream: Any

    def calls(
        self,
        path: bytes = INFER,
        data: bytes | None = None,
        *,
        ends: bool = False,
        headers: Headers | None = None,
        more: Headers = (),
    ) -> Exchange:
        """Open a stream; `data` follows the head, and END_STREAM goes with the last of them."""
        exchange = self._exchange(self.conn.get_next_available_stream_id())
        listed = head(path, *more) if headers is None else headers
        self.conn.send_headers(exchange.id, listed, end_stream=ends and data is None)
        if data is not None:
            exchange.sends(data, ends=ends)
        self.stage.settle()
        return exchange

    def infers(self, model: str = "m", size: int = 0) -> Exchange:
        """Make one whole unary inference request."""
        return self.calls(INFER, message(model, size), ends=True)


class SliceConnection(H2Peer):
    """One connection to a scripted slice."""

    def __init__(self, stage: Stage, settings: dict[int, int]) -> None:
        super().__init__(stage, client=False, settings=settings)


class ScriptedSlice:
    """
    A slice that does what the test says.

    Attributes:
        refusing: Nobody listens.
        holding: Connections neither open nor fail until answer_dials().
        settings: Of the connections opened from now on.
    """

    def __init__(self, stage: Stage, member: Slice) -> None:
        self.stage = stage
        self.member = member
        self.refusing = False
        self.holding = False
        self.settings: dict[int, int] = {}
        self.dialed: list[tuple[Any, Callable[[str, bool], None]]] = []
        self.connections: list[SliceConnection] = []
        self.silent = False  # accepts connections and says nothing
        self._taken: set[tuple[int, int]] = set()

    def answer_dials(self) -> None:
        """Accept or refuse whoever has knocked."""
        dialed, self.dialed = self.dialed, []
        for protocol, on_failure in dialed:
            if self.refusing:
                on_failure(f"{self.member.spec.grpc}: Connection refused", True)
                continue
            peer = SliceConnection(self.stage, self.settings)
            if self.silent:
                peer.conn.data_to_send()
                peer.conn.clear_outbound_data_buffer()
                peer.to_send = lambda: b""  # type: ignore[method-assign]
            peer.wire = Wire(self.stage.loop, protocol, peer)
            self.connections.append(peer)
            self.stage.wires.append(peer.wire)
            protocol.connection_made(peer.wire)

    @property
    def connection(self) -> SliceConnection:
        """The one connection that is open."""
        [connection] = [peer for peer in self.connections if not peer.closed]
        return connection

    def waiting(self) -> list[Exchange]:
        """Return calls that have come and that no test has taken, oldest first."""
        return [
            exchange
            for index, peer in enumerate(self.connections)
            for exchange in peer.exchanges.values()
            if (index, exchange.id) not in self._taken
        ]

    def call(self) -> Exchange:
        """Take the oldest call that no test has taken."""
        waiting = self.waiting()
        assert waiting, f"no call has reached slice {self.member.name}"
        exchange = waiting[0]
        index = next(i for i, peer in enumerate(self.connections) if peer is exchange.peer)
        self._taken.add((index, exchange.id))
        return exchange


class RawClient:
    """
    A client that sends any bytes, and lists the frames that come back.

    Attributes:
        frames: (kind, flags, stream id, payload) of all that came.
    """

    def __init__(self, stage: Stage, *, greets: bool) -> None:
        self.stage = stage
        self.wire: Wire
        self.downstream: Any
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.closed = False
        self.encoder = Encoder()
        self.decoder = Decoder()
        self._out = frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK if greets else b""
        self._in = b""

    def receive(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= 9:
            length_kind, flags, stream_id = frames.unpack_head(self._in)
            end = 9 + (length_kind >> 8)
            if len(self._in) < end:
                return
            self.frames.append((length_kind & 0xFF, flags, stream_id, self._in[9:end]))
            self._in = self._in[end:]

    def to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def lost(self) -> None:
        self.closed = True

    def sends(self, *pieces: bytes) -> None:
        self._out += b"".join(pieces)
        self.stage.settle()

    def opens(self, stream_id: int, *, ends: bool = True, headers: Headers | None = None) -> None:
        self.sends(self.head(stream_id, ends=ends, headers=headers))

    def head(self, stream_id: int, *, ends: bool = True, headers: Headers | None = None) -> bytes:
        """Return a whole HEADERS frame."""
        flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
        block = self.encoder.encode(head(STATISTICS) if headers is None else headers)
        return frames.frame(frames.HEADERS, flags, stream_id, block)

    def got(self, kind: int, stream_id: int | None = None) -> list[tuple[int, int, int, bytes]]:
        """Return the frames of one kind that came, all or one stream's."""
        return [f for f in self.frames if f[0] == kind and stream_id in (None, f[2])]

    @property
    def goaway(self) -> tuple[int, str] | None:
        """Code and text of the last GOAWAY, None without one."""
        got = self.got(frames.GOAWAY)
        if not got:
            return None
        payload = got[-1][3]
        return int.from_bytes(payload[4:8], "big"), payload[8:].decode()

    def reset_code(self, stream_id: int) -> int | None:
        got = self.got(frames.RST_STREAM, stream_id)
        return int.from_bytes(got[-1][3], "big") if got else None
