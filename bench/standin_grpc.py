"""
A stand-in for the gRPC side of Triton slices that costs little, so that a proxy in front of it is
the bottleneck: `python -m bench.standin_grpc PORT...`.

One process plays every slice. It is a correct HTTP/2 peer for what proxies send to it (SETTINGS,
PING, flow control, CONTINUATION, RST_STREAM), but reads neither header blocks nor bodies: each
stream gets the same `ModelInferResponse` once its request has ended. The answer's header blocks
use the dynamic table from a connection's second answer on, as gRPC's own servers do.

`--grpc-slices nghttpd` of the comparison puts nghttpd in its place, to check one with the other.
"""

import asyncio
import struct
import sys
from typing import Final, cast

import uvloop

from bench.cells import grpc_response

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA: Final = 0x0
HEADERS: Final = 0x1
SETTINGS: Final = 0x4
PING: Final = 0x6
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
HEADER_TABLE_SIZE: Final = 0x1
INITIAL_WINDOW: Final = 0x4

STREAM_WINDOW: Final = 1024 * 1024
"""Like CONNECTION_WINDOW near what gRPC's own servers grow to; a request must fit into it."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
_INITIAL_CONNECTION_WINDOW: Final = 65535
_HEAD_BYTES: Final = 9
_FRAME_BYTES_MAX: Final = 16384
_READ_WHOLE: Final = frozenset({SETTINGS, PING})
"""Frames whose payload is looked at; they are small. All others are counted and skipped."""

# Header blocks (RFC 7541): 0x88 is `:status: 200`, name 31 of the static table is content-type.
# The first answer puts two fields into the dynamic table, where they are then 63 and 62.
_CONTENT_TYPE: Final = b"\x10application/grpc"
_GRPC_STATUS: Final = b"\x0bgrpc-status\x010"
_FIRST: Final = (b"\x88\x5f" + _CONTENT_TYPE, b"\x40" + _GRPC_STATUS)
_LATER: Final = (b"\x88\xbf", b"\xbe")
_WITHOUT_TABLE: Final = (b"\x88\x0f\x10" + _CONTENT_TYPE, b"\x00" + _GRPC_STATUS)
# A smaller table than the initial one must be acknowledged in the next block (RFC 7541 section
# 4.2): 0x20 says that we use none.
_FIRST_WITHOUT_TABLE: Final = (b"\x20" + _WITHOUT_TABLE[0], _WITHOUT_TABLE[1])
_INITIAL_TABLE_BYTES: Final = 4096
_NEXT_BLOCKS: Final = {_FIRST: _LATER, _FIRST_WITHOUT_TABLE: _WITHOUT_TABLE}

_SCRATCH: Final = memoryview(bytearray(1024 * 1024))
"""Every connection receives into this: what is in it is used up before the next read."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame (RFC 9113 section 4.1)."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def infer_answer(stream: int, blocks: tuple[bytes, bytes], message: bytes) -> bytes:
    """Return the frames of a whole answer: headers, one gRPC message, trailers."""
    return (
        frame(HEADERS, END_HEADERS, stream, blocks[0])
        + frame(DATA, 0, stream, message)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, blocks[1])
    )


class StandIn(asyncio.BufferedProtocol):
    """One connection of a proxy to a slice."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.transport: asyncio.Transport
        self.blocks = _FIRST
        self.first = True
        self.seen_preface = False
        self.partial = b""  # what came of a frame head, or of a frame that is read whole
        self.skip = 0  # bytes of the present frame's payload still to come
        self.ending = 0  # the stream that ends with the present frame; 0: none
        self.ends_after_headers = False  # HEADERS said END_STREAM, CONTINUATION is to follow
        self.uncredited = 0  # bytes of DATA since the last WINDOW_UPDATE
        self.out: list[bytes] = []  # written at the end of a read, at once

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes: nothing to ask isinstance() about.
        self.transport = cast(asyncio.Transport, transport)
        window = struct.pack(">HI", INITIAL_WINDOW, STREAM_WINDOW)
        credit = struct.pack(">I", CONNECTION_WINDOW - _INITIAL_CONNECTION_WINDOW)
        self.transport.write(frame(SETTINGS, 0, 0, window) + frame(WINDOW_UPDATE, 0, 0, credit))

    def get_buffer(self, sizehint: int) -> memoryview:
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        at = min(self.skip, nbytes)
        self._skipped(at)
        if at < nbytes:
            data = (
                self.partial + bytes(_SCRATCH[at:nbytes]) if self.partial else _SCRATCH[at:nbytes]
            )
            self.partial = b""
            self._read_frames(memoryview(data))
        if self.uncredited > CONNECTION_WINDOW // 2:
            self.out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.uncredited)))
            self.uncredited = 0
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()

    def _read_frames(self, data: memoryview) -> None:
        """Take the frames in `data`, which starts with one; keep what is not whole."""
        at, end = 0, len(data)
        if not self.seen_preface:
            if end < len(PREFACE):
                self.partial = bytes(data)
                return
            assert bytes(data[: len(PREFACE)]) == PREFACE, "not HTTP/2 without TLS"
            self.seen_preface = True
            at = len(PREFACE)
        while end - at >= _HEAD_BYTES:
            length_and_kind, flags, stream = struct.unpack_from(">IBI", data, at)
            length, kind = length_and_kind >> 8, length_and_kind & 0xFF
            assert length <= _FRAME_BYTES_MAX, "a frame larger than we allow"
            if kind in _READ_WHOLE and end - at < _HEAD_BYTES + length:
                break
            at += _HEAD_BYTES
            if kind in _READ_WHOLE:
                self._control(kind, flags, bytes(data[at : at + length]))
                at += length
                continue
            self._begin(kind, flags, stream, length)
            taken = min(length, end - at)
            self.skip = length
            self._skipped(taken)
            at += taken
        if at < end:
            self.partial = bytes(data[at:])

    def _begin(self, kind: int, flags: int, stream: int, length: int) -> None:
        """Note what the frame that starts here does when it is over."""
        if kind == DATA:
            self.uncredited += length
            if flags & END_STREAM:
                self.ending = stream
        elif kind in {HEADERS, CONTINUATION}:
            if kind == HEADERS:
                self.ends_after_headers = bool(flags & END_STREAM)
            if flags & END_HEADERS and self.ends_after_headers:
                self.ending = stream
                self.ends_after_headers = False

    def _skipped(self, count: int) -> None:
        self.skip -= count
        if not self.skip and self.ending:
            self.out.append(infer_answer(self.ending, self.blocks, self.message))
            self.ending = 0
            if self.first:
                self.first = False
                self.blocks = _NEXT_BLOCKS[self.blocks]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if kind == PING:
            self.out.append(frame(PING, ACK, 0, payload))
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == HEADER_TABLE_SIZE and value < _INITIAL_TABLE_BYTES:
                assert self.first, "the header table was made smaller after the first answer"
                self.blocks = _FIRST_WITHOUT_TABLE
        self.out.append(frame(SETTINGS, ACK, 0, b""))


async def serve(ports: list[int]) -> None:
    """Listen on 127.0.0.1 at each of `ports` until the process is told to end."""
    loop = asyncio.get_running_loop()
    message = grpc_response()
    for port in ports:
        await loop.create_server(lambda: StandIn(message), "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))
