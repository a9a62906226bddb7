"""An HTTP/2 client over a real socket that sends any bytes and waits for what comes back."""

import socket
import time
from typing import Final, Self

from hpack.hpack import Encoder

from gateway.relay.http2 import frames

LIMIT_S: Final = 10.0
"""For what is waited for; it comes within milliseconds."""

Frame = tuple[int, int, int, bytes]
"""(kind, flags, stream id, payload)."""


class H2Socket:
    """
    `with H2Socket(port) as client`: the preface and SETTINGS have been exchanged.

    Attributes:
        settings: What the gateway announced.
        seen: All frames that came since, in order.
        closed: The gateway has closed its half.
    """

    def __init__(self, port: int, *, greets: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        self._deadline_s = time.monotonic() + LIMIT_S
        self._in = b""
        self.encoder = Encoder()
        self.settings: dict[int, int] = {}
        self.seen: list[Frame] = []
        self.closed = False
        if greets:
            self.sends(frames.PREFACE + frames.settings({4: 65535}))
            first = self.waits_for(frames.SETTINGS)
            self.settings = dict(frames.parse_settings(first[3]))
            self.sends(frames.SETTINGS_ACK)
            assert self.waits_for(frames.SETTINGS)[1] == frames.ACK
            self.seen.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def sends(self, *pieces: bytes) -> None:
        """Send each piece by itself; a gateway that has hung up is noticed when reading."""
        for piece in pieces:
            try:
                self._socket.sendall(piece)
            except ConnectionError:
                return

    def waits(self) -> Frame | None:
        """Return the next frame; None once the gateway has closed."""
        while True:
            if len(self._in) >= frames.FRAME_HEAD_BYTES:
                length_kind, flags, stream_id = frames.unpack_head(self._in)
                end = frames.FRAME_HEAD_BYTES + (length_kind >> 8)
                if len(self._in) >= end:
                    frame = (length_kind & 0xFF, flags, stream_id, self._in[9:end])
                    self._in = self._in[end:]
                    self.seen.append(frame)
                    return frame
            if not self._reads():
                return None

    def waits_for(self, kind: int) -> Frame:
        """Return the next frame of this kind; others in between are passed over."""
        while frame := self.waits():
            if frame[0] == kind:
                return frame
        raise AssertionError(f"closed before a frame of kind {kind} came: {self.seen}")

    def waits_for_close(self) -> bytes:
        """Return what comes until the gateway closes, frames or not."""
        while self._reads():
            pass
        return self._in

    def _reads(self) -> bool:
        self._socket.settimeout(max(0.001, self._deadline_s - time.monotonic()))
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            raise AssertionError(f"nothing more came: {self.seen}") from None
        self._in += data
        self.closed = not data
        return bool(data)
