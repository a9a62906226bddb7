"""
Every bound of the data plane: defaults, and the ceilings an operator may not pass.

`Limits` and `Timeouts` are what the relays take; the configuration file fills them in. Where a
default comes from a peer's, the peer is named.
"""

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

REPLAY_ANY: Final = "any"
REPLAY_UNSENT: Final = "unsent"
REPLAY_CHOICES: Final = (REPLAY_ANY, REPLAY_UNSENT)
"""Which requests go to another slice when the first does not answer; see gateway.relay.replays."""

BODY_BYTES_CEILING: Final = 2**31 - 1
"""Triton reads Content-Length as an int32 and gRPC messages end there as well."""


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds on what one client, one request and all together may take.

    Attributes:
        connections: Client connections at once; the next one is closed at once.
        head_bytes: Request or answer head, HTTP/1.1; decoded header list, HTTP/2. 431.
        header_count: Header fields of one head or list. 431.
        request_line_bytes: HTTP/1.1 request line. 414.
        body_bytes: One request's body. 413; RESOURCE_EXHAUSTED.
        pipelined_bytes: Bytes read ahead of the request being answered; reading pauses there.
        replay_bytes: Of one request's body, kept until the answer begins so that another slice
            can be sent the same; a larger one is not replayed.
        replay_percent: Of the requests of the last 10 s, how many that a slice may have begun with
            may be sent to another, beyond `replay_floor` and what is in flight. 502; UNAVAILABLE.
        replay_floor: The same, whatever the traffic.
        quarantined: Requests that are watched or refused because slices broke off at them; the
            oldest is forgotten above it. 0 turns that off.
        buffered_bytes: Body bytes held in all, over every connection; 503 above it.
        connections_per_slice: HTTP/1.1 connections to one slice; the requests beyond it wait.
        waiting_per_slice: Requests waiting for such a connection; 503 above it.
        grpc_connections_per_slice: HTTP/2 connections to one slice, opened when streams run out.
        streams: Concurrent HTTP/2 streams of one client connection.
        stream_window: HTTP/2 flow-control window of each stream of a client, in bytes: what one
            call may send ahead of a slow slice.
        answer_window: The same towards a slice: what one answer may be ahead of a slow client.
        connection_window: HTTP/2 flow-control window of each connection, in bytes.
        frame_bytes: Largest HTTP/2 frame accepted (SETTINGS_MAX_FRAME_SIZE).
        continuations: CONTINUATION frames of one header block.
        control_burst, control_per_s: Budget for frames that make us work and carry no request:
            PING, SETTINGS, PRIORITY, empty DATA, unknown and surplus WINDOW_UPDATE frames.
        composed_calls: Calls under way that all slices answer together (loads, statistics);
            503; RESOURCE_EXHAUSTED.
        reset_burst, reset_per_s: Budget for streams reset early, by either side.
    """

    connections: int = 16384
    head_bytes: int = 64 * KIB
    header_count: int = 128
    request_line_bytes: int = 8 * KIB
    body_bytes: int = 256 * MIB
    pipelined_bytes: int = 64 * KIB
    replay_bytes: int = 1 * MIB
    replay_percent: int = 20  # Envoy's retry budget, and Finagle's
    replay_floor: int = 10
    quarantined: int = 256
    buffered_bytes: int = 1 * GIB
    connections_per_slice: int = 512
    waiting_per_slice: int = 1024
    grpc_connections_per_slice: int = 8
    streams: int = 256
    stream_window: int = 1 * MIB
    answer_window: int = 256 * KIB
    connection_window: int = 4 * MIB
    frame_bytes: int = 16 * KIB
    continuations: int = 8
    control_burst: int = 1000
    control_per_s: int = 50
    composed_calls: int = 64
    reset_burst: int = 200
    reset_per_s: int = 33


@dataclass(frozen=True, slots=True)
class Timeouts:
    """
    Times in seconds; 0 turns one off.

    Attributes:
        connect_s: TCP connection to a slice. The slices are near.
        handshake_s: For a client to agree on TLS, where it is spoken.
        head_s: From the first byte of a request head to its last. 408.
        idle_s: Between requests on a client's kept-alive connection.
        body_idle_s: Between two pieces of a request's body. 408.
        send_idle_s: A client that takes nothing of its answer for so long is cut off.
        response_s: From the request's last byte to the first of the answer. 504. A queue in
            front of a slow model is normal, so it is long.
        stream_idle_s: An HTTP/2 stream or an answer's body on which nothing moves.
        ping_s: A client with open streams that sends nothing for so long is sent a PING.
        ping_timeout_s: For the answer to it.
        grpc_idle_s: An HTTP/2 client connection without streams is told to go after this; gRPC
            clients reconnect with their next call.
        upstream_idle_s: An unused connection to a slice is closed after this.
        quarantine_s: A request that broke two slices is refused for so long.
        leave_s: After SIGTERM the gateway serves for so long as before, but says that it is not
            ready, so that balancers look elsewhere; and then for so long what clients still send
            on connections they have.
        drain_s: After that, for what is in flight.
    """

    connect_s: float = 1.0
    handshake_s: float = 5.0
    head_s: float = 10.0
    idle_s: float = 75.0
    body_idle_s: float = 30.0
    send_idle_s: float = 60.0
    response_s: float = 300.0
    stream_idle_s: float = 600.0
    ping_s: float = 60.0
    ping_timeout_s: float = 20.0
    grpc_idle_s: float = 900.0
    upstream_idle_s: float = 60.0
    quarantine_s: float = 60.0
    leave_s: float = 2.0
    drain_s: float = 30.0
