"""
What is measured: one cell is a protocol, a request size and a concurrency.

The bodies are real Triton requests, so that a gateway which reads them (model name, binary header)
does the work that it would do in service:

* HTTP: KServe v2 JSON, and for the large one Triton's binary tensor extension.
* gRPC: a `ModelInferRequest` behind gRPC's five-byte prefix.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

MODEL: Final = "m"
HTTP_PATH: Final = f"/v2/models/{MODEL}/infer"
GRPC_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
GRPC_HEADERS: Final = (("content-type", "application/grpc"), ("te", "trailers"))
IMAGE_BYTES: Final = 3 * 224 * 224 * 4
"""One fp32 image as ResNet-50 takes it: 602,112 bytes."""
SMALL_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One row of the comparison.

    Attributes:
        name: As `--cells` takes it.
        title: As tables show it.
        protocol: Which port and which load generator.
        connections: Client connections under load.
        streams: Requests in flight per connection; always 1 over HTTP/1.1.
        headers: Request headers beyond what the load generator sends by itself.
        body: The whole request body, gRPC's prefix included.
    """

    name: str
    title: str
    protocol: Literal["http", "grpc"]
    connections: int
    streams: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        return HTTP_PATH if self.protocol == "http" else GRPC_PATH


def all_cells() -> tuple[Cell, ...]:
    """
    Return the four cells in the order in which tables show them.

    32 requests in flight keep a proxy busy on one core; 16 large ones do the same, and more
    would only measure how 20 MB of socket buffers fall out of the cache.
    """
    small_headers, small = http_json(SMALL_BYTES)
    large_headers, large = http_binary(IMAGE_BYTES)
    grpc_small, grpc_large = grpc_request(SMALL_BYTES), grpc_request_with(IMAGE_BYTES)
    return (
        Cell("http-512", "HTTP 512 B", "http", 32, 1, small_headers, small),
        Cell("http-602k", "HTTP 602 kB", "http", 16, 1, large_headers, large),
        Cell("grpc-512", "gRPC 512 B", "grpc", 8, 4, GRPC_HEADERS, grpc_small),
        Cell("grpc-602k", "gRPC 602 kB", "grpc", 8, 2, GRPC_HEADERS, grpc_large),
    )


def choose(names: Sequence[str]) -> tuple[Cell, ...]:
    """
    Return the cells of these names, all of them when `names` is empty.

    Raises:
        ValueError: A name is unknown; the message lists the known ones.
    """
    cells = all_cells()
    known = [cell.name for cell in cells]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no cell {name!r}; known cells: {', '.join(known)}")
    return tuple(cell for cell in cells if not names or cell.name in names)


def http_json(total_bytes: int) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Return the headers and a KServe v2 JSON request of exactly `total_bytes`."""
    tensor = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [0.5] * 8}
    body = json.dumps({"inputs": [tensor]}).encode()
    assert len(body) <= total_bytes, "the request is larger than its cell"
    return (("Content-Type", "application/json"),), body.ljust(total_bytes)


def http_binary(tensor_bytes: int) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Return the headers and a request with one fp32 tensor in Triton's binary extension."""
    tensor = {
        "name": "x",
        "shape": [1, tensor_bytes // 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": tensor_bytes},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    return headers, head + bytes(tensor_bytes)


def grpc_request(total_bytes: int) -> bytes:
    """Return one gRPC message with a `ModelInferRequest`, `total_bytes` with the prefix."""
    tensor_bytes = total_bytes - 64
    body = grpc_request_with(tensor_bytes)
    while len(body) != total_bytes:  # a length is one to five bytes long, so one step may not do
        tensor_bytes += total_bytes - len(body)
        body = grpc_request_with(tensor_bytes)
    return body


def grpc_request_with(tensor_bytes: int) -> bytes:
    """
    Return one gRPC message with a `ModelInferRequest` that carries a tensor of `tensor_bytes`.

    Source: KServe's `grpc_predict_v2.proto`; field numbers of ModelInferRequest and
    InferInputTensor. The model's name is the first field, as protobuf writers put it.
    """
    shape = _field(3, _varint(1) + _varint(tensor_bytes // 4))
    tensor = _field(1, b"x") + _field(2, b"FP32") + shape
    message = _field(1, MODEL.encode()) + _field(5, tensor) + _field(7, bytes(tensor_bytes))
    return grpc_message(message)


def grpc_response() -> bytes:
    """Return one gRPC message with a small `ModelInferResponse` for MODEL, version 1."""
    shape = _field(3, _varint(1) + _varint(4))
    tensor = _field(1, b"y") + _field(2, b"FP32") + shape
    message = _field(1, MODEL.encode()) + _field(2, b"1") + _field(5, tensor)
    return grpc_message(message + _field(6, struct.pack("<4f", 1, 2, 3, 4)))


def grpc_message(message: bytes) -> bytes:
    """Put gRPC's prefix (not compressed, length) before a serialized message."""
    return struct.pack(">BI", 0, len(message)) + message


def _field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
