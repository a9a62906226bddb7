"""A slice for floods over HTTP/2: answers each call with several times what it brought."""

import asyncio
import struct
from typing import Final

from gateway.limits import MIB
from gateway.relay.http2 import frames
from gateway.relay.http2.headers import encode
from tests.gateway.relay.attacks.plane import ZEROS

FRAME_BYTES: Final = 16384
GROWTH: Final = 4
"""So that an answer is more than the kernel holds for a client that does not read."""
_HEAD: Final = encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
_TRAILERS: Final = encode([(b"grpc-status", b"0")])
_GREETING: Final = frames.settings({4: 4 * MIB}) + frames.window_update(0, 2**31 - 1 - 65535)


class _Stream:
    """What came of a call, and what may and must go."""

    def __init__(self, window: int) -> None:
        self.received = 0
        self.left = -1  # of the answer; not begun below 0
        self.window = window


class _Answers:
    """The answers of one connection, within its windows."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._initial = 65535
        self._window = 65535
        self._streams: dict[int, _Stream] = {}
        self._received = 0

    def frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take one frame; DATA comes without its payload's bytes, which nobody needs."""
        if kind == frames.SETTINGS and not flags & frames.ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == frames.SETTING_INITIAL_WINDOW_SIZE:
                    for stream in self._streams.values():
                        stream.window += value - self._initial
                    self._initial = value
            self._writer.write(frames.SETTINGS_ACK)
        elif kind == frames.PING and not flags & frames.ACK:
            self._writer.write(frames.ping(payload, frames.ACK))
        elif kind == frames.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if not stream_id:
                self._window += increment
            elif stream_id in self._streams:
                self._streams[stream_id].window += increment
        elif kind == frames.RST_STREAM:
            self._streams.pop(stream_id, None)
        elif kind in (frames.HEADERS, frames.DATA):
            stream = self._streams.setdefault(stream_id, _Stream(self._initial))
            if flags & frames.END_STREAM:
                self._writer.write(frames.header_frames(stream_id, _HEAD, False, FRAME_BYTES))
                stream.left = GROWTH * stream.received

    def data(self, stream_id: int, size: int) -> None:
        """`size` bytes of DATA have come."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.received += size
        self._received += size
        if self._received > 256 * MIB:
            self._writer.write(frames.window_update(0, self._received))
            self._received = 0

    async def send(self) -> None:
        """Send what windows allow."""
        for stream_id, stream in list(self._streams.items()):
            while stream.left > 0 and min(stream.window, self._window) > 0:
                size = min(stream.left, stream.window, self._window, FRAME_BYTES)
                stream.left -= size
                stream.window -= size
                self._window -= size
                self._writer.write(frames.pack_head(size << 8, 0, stream_id))
                self._writer.write(memoryview(ZEROS)[:size])
                await self._writer.drain()
            if stream.left == 0:
                del self._streams[stream_id]
                self._writer.write(frames.header_frames(stream_id, _TRAILERS, True, FRAME_BYTES))


async def grpc_growing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until it ends."""
    answers = _Answers(writer)
    await reader.readexactly(len(frames.PREFACE))
    writer.write(_GREETING)
    while True:
        length_kind, flags, stream_id = frames.unpack_head(await reader.readexactly(9))
        length, kind = length_kind >> 8, length_kind & 0xFF
        if kind == frames.DATA:
            while length:
                piece = len(await reader.readexactly(min(length, FRAME_BYTES)))
                answers.data(stream_id, piece)
                length -= piece
            answers.frame(kind, flags, stream_id, b"")
        else:
            answers.frame(kind, flags, stream_id, await reader.readexactly(length))
        await answers.send()
