"""
The frame around a gRPC message: a compressed flag, a length, the message. Pure.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import zlib
from collections.abc import Sequence
from typing import Final

from gateway.errors import BAD_REQUEST, BODY_TOO_LARGE, NOT_IMPLEMENTED, Fault
from gateway.limits import MIB
from gateway.relay.composed import Header
from gateway.relay.sequence_fields import PREFIX_BYTES

OPENED_BYTES_MAX: Final = 16 * MIB
"""Of a message that was compressed: inflating holds up everybody else."""
_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


class EnvelopeError(Exception):
    """
    What a client sent is not one message.

    Attributes:
        fault: What it is told.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def opened(frame: bytes, metadata: Sequence[Header], most: int = OPENED_BYTES_MAX) -> bytes:
    """
    Return the one message in `frame`, decompressed.

    Args:
        frame: All that the client sent on the stream.
        metadata: Of the call; `grpc-encoding` is read.
        most: Bytes that a message may have that was compressed.

    Raises:
        EnvelopeError: It is not exactly one message, too large, or compressed in an unknown way.
    """
    size = int.from_bytes(frame[1:PREFIX_BYTES], "big")
    if len(frame) < PREFIX_BYTES or size != len(frame) - PREFIX_BYTES or frame[0] > 1:
        raise EnvelopeError(BAD_REQUEST.because("a unary call has exactly one message"))
    if not frame[0]:
        return frame[PREFIX_BYTES:]
    encoding = next((value for name, value in metadata if name == b"grpc-encoding"), b"identity")
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        shown = encoding[:40].decode("latin-1")
        raise EnvelopeError(NOT_IMPLEMENTED.because(f"grpc-encoding {shown!r}"))
    inflater = zlib.decompressobj(bits)
    try:
        message = inflater.decompress(frame[PREFIX_BYTES:], most + 1)
    except zlib.error as error:
        fault = BAD_REQUEST.because(f"the message cannot be decompressed: {error}")
        raise EnvelopeError(fault) from None
    if len(message) > most:
        raise EnvelopeError(BODY_TOO_LARGE)
    if not inflater.eof:
        raise EnvelopeError(BAD_REQUEST.because("the compressed message is cut off"))
    return message
