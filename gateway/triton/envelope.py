"""
The frame around a gRPC message: a compressed flag, a length, the message. Pure.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import zlib
from collections.abc import Sequence
from typing import Final

from gateway.errors import GRPC_INTERNAL, GRPC_RESOURCE_EXHAUSTED, GRPC_UNIMPLEMENTED
from gateway.triton.calls import Header

MESSAGE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Decompressed; a load may carry whole model files."""
_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class EnvelopeError(Exception):
    """
    What a client sent is not one message.

    Attributes:
        status: The gRPC code to answer with.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def opened(frame: bytes, metadata: Sequence[Header], most: int = MESSAGE_BYTES_MAX) -> bytes:
    """
    Return the one message in `frame`, decompressed.

    Args:
        frame: All that the client sent on the stream.
        metadata: Of the call; `grpc-encoding` is read.
        most: Bytes that the message may have.

    Raises:
        EnvelopeError: It is not exactly one message, too large, or compressed in an unknown way.
    """
    if len(frame) < 5 or len(frame) != 5 + int.from_bytes(frame[1:5], "big") or frame[0] > 1:
        raise EnvelopeError(GRPC_INTERNAL, "one whole message is expected")
    if not frame[0]:
        return frame[5:]
    encoding = next((value for name, value in metadata if name == b"grpc-encoding"), b"identity")
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        shown = encoding[:40].decode("latin-1")
        raise EnvelopeError(GRPC_UNIMPLEMENTED, f"grpc-encoding {shown!r} is not supported")
    inflater = zlib.decompressobj(bits)
    try:
        message = inflater.decompress(frame[5:], most + 1)
    except zlib.error as error:
        raise EnvelopeError(GRPC_INTERNAL, f"the message cannot be decompressed: {error}") from None
    if len(message) > most:
        raise EnvelopeError(GRPC_RESOURCE_EXHAUSTED, f"the message is larger than {most} bytes")
    if not inflater.eof:
        raise EnvelopeError(GRPC_INTERNAL, "the compressed message is cut off")
    return message
