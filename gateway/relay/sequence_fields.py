"""
What a request says of its sequence: read from the first fields of a ModelInferRequest, from the JSON
header of an HTTP inference, or from the messages of a stream as they pass. Pure.

Tensors are not looked at: in protobuf the fields in question come before them, as every official
serializer writes them in order, and in HTTP they stand in the JSON before the binary data.

Source: `grpc_service.proto` of Triton (ModelInferRequest: model_name 1, parameters 4, inputs 5;
InferParameter: bool_param 1, int64_param 2, string_param 3); its sequence extension for HTTP.
"""

import json
import zlib
from typing import Final

from gateway.fleet.sequences import NO_SEQUENCE, SequenceFields, SequenceId

Data = bytes | memoryview

START_BYTES_MAX: Final = 64 * 1024
"""Of a message, within which its model and its parameters must stand."""
JSON_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of an HTTP request's JSON; it holds the tensors as well where they are not binary."""
PREFIX_BYTES: Final = 5
"""Before each gRPC message: compressed flag, length. gRPC over HTTP/2."""
ANY_LENGTH: Final = 2**31 - 1

_MODEL: Final = 1
_PARAMETERS: Final = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ANY_CODING: Final = 47
"""zlib: gzip or zlib by the first bytes, window of any size."""


class _MoreError(Exception):
    """Bytes are missing."""


class StartOfMessage:
    """What stands before the tensors of a ModelInferRequest."""

    __slots__ = ("fields", "model")

    def __init__(self, model: str, fields: SequenceFields) -> None:
        self.model = model
        self.fields = fields


def read_start(data: Data, size: int) -> StartOfMessage | None:
    """
    Read the start of a ModelInferRequest.

    Args:
        data: What has come of the protobuf.
        size: Its length in all.

    Returns:
        What it says; None while bytes are missing. What cannot be read is left to the slice.
    """
    at, end, model = 0, min(len(data), size), ""
    found: dict[str, bool | int | str] = {}
    try:
        while at < end:
            tag, at = _varint(data, at, end)
            if tag >> 3 > _PARAMETERS:
                break
            if tag & 7 != _BYTES:
                at = _skip(data, at, end, tag & 7)
                continue
            length, at = _varint(data, at, end)
            if at + length > size:
                break
            if at + length > end:
                raise _MoreError
            if tag >> 3 == _MODEL:
                model = bytes(data[at : at + length]).decode("utf-8", "replace")
            elif tag >> 3 == _PARAMETERS:
                _read_parameter(bytes(data[at : at + length]), found)
            at += length
        else:
            if end < size:
                raise _MoreError
    except _MoreError:
        if end < min(size, START_BYTES_MAX):
            return None
    except ValueError:
        pass
    return StartOfMessage(model, _fields(found))


def _read_parameter(entry: bytes, found: dict[str, bool | int | str]) -> None:
    """Read one entry of the map: its key (1) and, within its value (2), what is set."""
    key, value, at, end = "", b"", 0, len(entry)
    try:
        while at < end:
            tag, at = _varint(entry, at, end)
            if tag & 7 != _BYTES:
                at = _skip(entry, at, end, tag & 7)
                continue
            length, at = _varint(entry, at, end)
            piece = entry[at : at + length]
            at += length
            if tag >> 3 == 1:
                key = piece.decode("utf-8", "replace")
            elif tag >> 3 == 2:
                value = piece
        if key.startswith("sequence_"):
            set_to = _parameter_value(value)
            if set_to is not None:
                found[key] = set_to
    except _MoreError:
        return  # it ends in the middle: the slice says so


def _parameter_value(value: bytes) -> bool | int | str | None:
    at, end = 0, len(value)
    set_to: bool | int | str | None = None
    while at < end:
        tag, at = _varint(value, at, end)
        if tag & 7 == _VARINT:
            number, at = _varint(value, at, end)
            if tag >> 3 == 1:
                set_to = bool(number)
            elif tag >> 3 == 2:
                set_to = number
        elif tag & 7 == _BYTES:
            length, at = _varint(value, at, end)
            if tag >> 3 == 3:
                set_to = value[at : at + length].decode("utf-8", "replace")
            at += length
        else:
            at = _skip(value, at, end, tag & 7)
    return set_to


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """Return (number, offset behind it). Raises _MoreError, or ValueError for one too long."""
    number, shift = 0, 0
    while True:
        if at >= end:
            raise _MoreError
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _skip(data: Data, at: int, end: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, at, end)[1]
    if kind not in (_FIXED64, _FIXED32):
        raise ValueError("a group, or no wire type at all")
    at += 8 if kind == _FIXED64 else 4
    if at > end:
        raise _MoreError
    return at


def read_json(text: Data, coding: bytes = b"") -> SequenceFields:
    """
    Read the JSON header of an HTTP inference.

    Args:
        text: All of it; what cannot be read is left to the slice.
        coding: `Content-Encoding`.
    """
    try:
        if coding:
            text = inflate(text, JSON_BYTES_MAX)
        document = json.loads(bytes(text)) if len(text) <= JSON_BYTES_MAX else None
        parameters = document["parameters"] if isinstance(document, dict) else {}
        return _fields(parameters) if isinstance(parameters, dict) else NO_SEQUENCE
    except (KeyError, ValueError, RecursionError, zlib.error):
        return NO_SEQUENCE


def inflate(data: Data, size_max: int) -> bytes:
    """
    Return the first `size_max` bytes of what gzip or deflate has made smaller.

    Raises:
        zlib.error: It is neither.
    """
    return zlib.decompressobj(_ANY_CODING).decompress(data, size_max)


def open_start(data: bytes) -> bytes:
    """
    Return the start of a compressed gRPC message as if it had not been compressed.

    Args:
        data: Its prefix, and what has come of it.

    Returns:
        A prefix and up to START_BYTES_MAX bytes; only the prefix's own flag when it is neither gzip
        nor deflate. The length in the prefix is right only when the message was opened to its end.
    """
    whole = len(data) - PREFIX_BYTES >= int.from_bytes(data[1:PREFIX_BYTES], "big")
    opened = zlib.decompressobj(_ANY_CODING)
    try:
        start = opened.decompress(data[PREFIX_BYTES:], START_BYTES_MAX)
    except zlib.error:
        return data[:PREFIX_BYTES]
    ended = opened.eof or (whole and not opened.unconsumed_tail)
    return b"\0" + (len(start) if ended else ANY_LENGTH).to_bytes(4, "big") + start


def start_of(message: bytes) -> StartOfMessage | None:
    """Read the start of a gRPC message with its prefix; None while bytes are missing."""
    if len(message) < PREFIX_BYTES:
        return None
    size = int.from_bytes(message[1:PREFIX_BYTES], "big")
    if not message[0]:
        return read_start(message[PREFIX_BYTES:], size)
    opened = open_start(message[:START_BYTES_MAX])
    if opened[0]:
        return StartOfMessage("", NO_SEQUENCE)
    return read_start(opened[PREFIX_BYTES:], int.from_bytes(opened[1:PREFIX_BYTES], "big"))


def _fields(found: dict[str, bool | int | str]) -> SequenceFields:
    sequence_id: SequenceId = 0
    given = found.get("sequence_id")
    if type(given) is str or (type(given) is int and given >= 0):
        sequence_id = given
    if not sequence_id:
        return NO_SEQUENCE
    return SequenceFields(
        sequence_id,
        found.get("sequence_start") is True,
        found.get("sequence_end") is True,
    )


class MessageTap:
    """Follows the messages of a gRPC stream as they pass, and reads the start of each."""

    __slots__ = ("_left", "_look_at", "_start")

    def __init__(self) -> None:
        self._start = bytearray()  # of a message whose fields are not known yet
        self._look_at = 0  # bytes it must have before it is read again: it may come byte by byte
        self._left = 0  # bytes of a message whose fields are

    def feed(self, data: Data) -> list[StartOfMessage]:
        """Take a piece of the stream; return what the messages say that are now known."""
        found: list[StartOfMessage] = []
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            # As much as one message's start may need; the rest of it is not copied.
            step = min(size - at, PREFIX_BYTES + START_BYTES_MAX - len(self._start))
            before = len(self._start)
            self._start += data[at : at + step]
            if len(self._start) < PREFIX_BYTES:
                return found
            length = int.from_bytes(self._start[1:PREFIX_BYTES], "big")
            have = len(self._start)
            known = None
            if have >= self._look_at or have >= min(length, START_BYTES_MAX) + PREFIX_BYTES:
                known = self._read(length)
            if known is None:
                at += step
                self._look_at = max(self._look_at, 2 * have if have >= self._look_at else 0)
                continue
            self._look_at = 0
            found.append(known)
            used = min(len(self._start), PREFIX_BYTES + length)
            self._left = PREFIX_BYTES + length - used
            at += used - before
            self._start.clear()
        return found

    def _read(self, length: int) -> StartOfMessage | None:
        if not self._start[0]:
            return read_start(bytes(self._start[PREFIX_BYTES:]), length)
        if len(self._start) - PREFIX_BYTES < min(length, START_BYTES_MAX):
            return None
        opened = open_start(bytes(self._start[: PREFIX_BYTES + length]))
        return read_start(opened[PREFIX_BYTES:], len(opened) - PREFIX_BYTES)
