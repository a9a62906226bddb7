"""Frames of HTTP/2 as bytes, in and out. RFC 9113 sections 4 and 6."""

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEAD: Final = Struct(">IBI")
"""Length and type share the first four bytes: `length << 8 | type`, then flags, then stream id."""
FRAME_HEAD_BYTES: Final = 9
pack_head: Final = FRAME_HEAD.pack
unpack_head: Final = FRAME_HEAD.unpack_from

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

SETTING_HEADER_TABLE_SIZE: Final = 0x1
SETTING_ENABLE_PUSH: Final = 0x2
SETTING_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTING_INITIAL_WINDOW_SIZE: Final = 0x4
SETTING_MAX_FRAME_SIZE: Final = 0x5
SETTING_MAX_HEADER_LIST_SIZE: Final = 0x6

WINDOW_MAX: Final = 2**31 - 1
STREAM_ID_MAX: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535
DEFAULT_FRAME_BYTES: Final = 16384
FRAME_BYTES_MAX: Final = 2**24 - 1
SETTINGS_ENTRIES_MAX: Final = 32

SETTINGS_ACK: Final = pack_head(SETTINGS, ACK, 0)

_SETTING: Final = Struct(">HI")
_U32: Final = Struct(">I")


class ProtocolError(Exception):
    """
    The peer broke the protocol in a way that ends the connection.

    Attributes:
        code: Error code for GOAWAY.
        reason: Its debug text.
        limit: What it is counted as, see gateway.metrics.Counters.
    """

    def __init__(self, code: int, reason: str, limit: str = "h2_protocol_error") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.limit = limit


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return one whole frame."""
    return pack_head(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    return pack_head(4 << 8 | WINDOW_UPDATE, 0, stream_id) + _U32.pack(increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    return pack_head(4 << 8 | RST_STREAM, 0, stream_id) + _U32.pack(code)


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    payload = _U32.pack(last_stream_id) + _U32.pack(code) + reason.encode("ascii", "replace")
    return frame(GOAWAY, 0, 0, payload)


def ping(payload: bytes, flags: int = 0) -> bytes:
    return frame(PING, flags, 0, payload)


def header_frames(stream_id: int, block: bytes, end_stream: bool, frame_bytes_max: int) -> bytes:
    """Return a header block as HEADERS and as many CONTINUATIONs as the peer's limit asks for."""
    flags = END_STREAM if end_stream else 0
    size = len(block)
    if size <= frame_bytes_max:
        return pack_head(size << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [frame(HEADERS, flags, stream_id, block[:frame_bytes_max])]
    for start in range(frame_bytes_max, size, frame_bytes_max):
        piece = block[start : start + frame_bytes_max]
        last = END_HEADERS if start + frame_bytes_max >= size else 0
        parts.append(frame(CONTINUATION, last, stream_id, piece))
    return b"".join(parts)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """
    Read a SETTINGS payload.

    Raises:
        ProtocolError: Wrong size, too many entries, or a value outside RFC 9113 section 6.5.2.
    """
    if len(payload) % 6:
        raise ProtocolError(FRAME_SIZE_ERROR, "SETTINGS length is no multiple of 6")
    if len(payload) > 6 * SETTINGS_ENTRIES_MAX:
        raise ProtocolError(ENHANCE_YOUR_CALM, "too many SETTINGS in one frame")
    entries = list(_SETTING.iter_unpack(payload))
    for key, value in entries:
        if key == SETTING_ENABLE_PUSH and value > 1:
            raise ProtocolError(PROTOCOL_ERROR, "ENABLE_PUSH must be 0 or 1")
        if key == SETTING_INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ProtocolError(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
        if key == SETTING_MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= FRAME_BYTES_MAX:
            raise ProtocolError(PROTOCOL_ERROR, "MAX_FRAME_SIZE is outside 2^14 to 2^24-1")
    return entries


def parse_u32(payload: bytes) -> int:
    """Read the four bytes of a WINDOW_UPDATE or RST_STREAM; the frame's length is its law."""
    if len(payload) != 4:
        raise ProtocolError(FRAME_SIZE_ERROR, "frame must have 4 bytes")
    return int(_U32.unpack(payload)[0])


def parse_goaway(payload: bytes) -> tuple[int, int]:
    """Return (last stream id, error code) of a GOAWAY."""
    if len(payload) < 8:
        raise ProtocolError(FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
    last, code = int.from_bytes(payload[:4], "big") & STREAM_ID_MAX, payload[4:8]
    return last, int.from_bytes(code, "big")


def unpad(flags: int, payload: bytes) -> bytes:
    """Strip padding from a HEADERS payload that has the PADDED flag."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ProtocolError(FRAME_SIZE_ERROR, "padded frame is empty")
    padding = payload[0]
    if padding >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[1 : len(payload) - padding]


def streams_with_head(data: bytes) -> set[int]:
    """Return the ids of the streams whose HEADERS are among whole frames."""
    found, at = set(), 0
    while at + FRAME_HEAD_BYTES <= len(data):
        size_and_kind, _, stream_id = unpack_head(data[at : at + FRAME_HEAD_BYTES])
        if size_and_kind & 0xFF == HEADERS:
            found.add(stream_id)
        at += FRAME_HEAD_BYTES + (size_and_kind >> 8)
    return found
