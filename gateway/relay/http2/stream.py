"""
Stream: one stream of one connection. A call is two of them, each the other's `peer`.

The client's is a Call (see call.py), which also knows what was asked and of whom; the slice's is a
Half, which knows its call.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gateway.relay.http2.connection import Connection

Chunk = bytes | memoryview

COPY_BYTES_MAX: Final = 4096
"""Up to this a piece is copied and joined with its frame head; above, it goes by reference."""


class Stream:
    """
    Flow control and the ends of one stream.

    Attributes:
        active_s: Coarse time at which something last moved, either way.
        send_window: What the peer still allows us to send, in bytes; may be negative.
        receive_left: What we still allow the peer to send.
        uncredited: Received and passed on, but not yet given back by WINDOW_UPDATE.
        held: Received and not yet passed on; counts against the connection's window.
        queue: What waits for a window or for a slow reader; None when nothing does.
        trailers: Header block that ends the stream once `queue` is empty.
        ends_after_queue: END_STREAM goes with the last of `queue`.
        ended_in: The peer has sent END_STREAM.
        ended_out: We have sent END_STREAM.
    """

    __slots__ = (
        "active_s",
        "connection",
        "ended_in",
        "ended_out",
        "ends_after_queue",
        "held",
        "id",
        "peer",
        "queue",
        "receive_left",
        "send_window",
        "trailers",
        "uncredited",
    )

    def __init__(self, connection: "Connection[Any]", stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.active_s = connection.core.deadlines.now_s
        self.peer: Stream | None = None
        self.send_window = connection.peer_stream_window
        self.receive_left = connection.receive_window
        self.uncredited = 0
        self.held = 0
        self.queue: deque[Chunk] | None = None
        self.trailers: bytes | None = None
        self.ends_after_queue = False
        self.ended_in = False
        self.ended_out = False
