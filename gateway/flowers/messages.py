"""
ModelInferRequest and ModelInferResponse of Triton's gRPC, as far as one picture needs them. Pure.

Source: `grpc_service.proto` of Triton, package `inference`; the wire format is protobuf's.
"""

from collections.abc import Iterator, Sequence
from typing import Final

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_VARINT: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}


class MessageError(ValueError):
    """Not such a message."""


def request(model: str, shape: Sequence[int], tensor: bytes, classes: int) -> bytes:
    """Return a ModelInferRequest for one FP32 tensor `input`, answered by `classes` classes."""
    parameter = _text(1, "classification") + _field(2, _tag(2, _VARINT) + _varint(classes))
    wanted = _text(1, "probabilities") + _field(2, parameter)
    return _given(model, [("input", "FP32", shape)]) + _field(6, wanted) + _field(7, tensor)


def plain_request(
    model: str, inputs: Sequence[tuple[str, str, Sequence[int]]], tensors: Sequence[bytes]
) -> bytes:
    """Return a ModelInferRequest for inputs (name, datatype, shape), answered by all outputs."""
    return _given(model, inputs) + b"".join(_field(7, tensor) for tensor in tensors)


def _given(model: str, inputs: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    parts = [_text(1, model)]
    for name, kind, shape in inputs:
        extents = b"".join(_varint(extent) for extent in shape)
        parts.append(_field(5, _text(1, name) + _text(2, kind) + _field(3, extents)))
    return b"".join(parts)


def strings(response: bytes) -> list[str]:
    """Return the strings of the first output's BYTES tensor. Raises MessageError."""
    for number, value in _fields(response):
        if number == 6:  # raw_output_contents
            return list(_lengths(value))
    raise MessageError("an answer without output")


def _lengths(raw: bytes) -> Iterator[str]:
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise MessageError("a string is longer than its tensor")
        yield raw[at + 4 : end].decode("utf-8", "replace")
        at = end


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of the fields that have a length; pass the others over."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _read_varint(data, at)
        elif kind == _BYTES:
            size, at = _read_varint(data, at)
            if at + size > len(data):
                raise MessageError("a field is longer than its message")
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise MessageError(f"wire type {kind}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MessageError("a number without an end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, value: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())
