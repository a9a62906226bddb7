"""
What is asked, and so which pool answers: HTTP method and path, or gRPC path → Route.

A Route is a value; the relays remember it beside the head or header block it came from.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """Who answers."""

    BALANCED = "balanced"  # one slice of the pool `key`
    LIVE = "live"  # the gateway: it runs
    READY = "ready"  # the gateway: some slice can serve
    HEALTH_CHECK = "health_check"  # the gateway: grpc.health.v1
    BY_MESSAGE = "by_message"  # one slice; the first message names the model
    NOT_GRPC = "not_grpc"  # nobody: it came over HTTP/2 and is no gRPC call


BALANCED: Final = Kind.BALANCED
LIVE: Final = Kind.LIVE
READY: Final = Kind.READY
HEALTH_CHECK: Final = Kind.HEALTH_CHECK
BY_MESSAGE: Final = Kind.BY_MESSAGE
NOT_GRPC: Final = Kind.NOT_GRPC


@dataclass(frozen=True, slots=True)
class Route:
    """
    Where a request goes.

    Attributes:
        kind: Who answers.
        key: The pool's key (see gateway.fleet.registry.SliceRegistry), for BALANCED.
        composed: The call concerns all slices: gateway.triton answers it where there is one, and
            else, as in tests of a relay alone, a slice of the pool. What is composed, and why, is
            told by the table in gateway.triton.api; a test compares both.
        infers: One inference with one answer.
    """

    kind: Kind
    key: str = ""
    composed: bool = False
    infers: bool = False


ANY_CALL: Final = Route(BALANCED, "call")
COMPOSED_CALL: Final = Route(BALANCED, "call", composed=True)
_LIVE: Final = Route(LIVE)
_READY: Final = Route(READY)
_NO_CALL: Final = Route(NOT_GRPC)

_INFERENCE: Final = frozenset({"infer", "generate", "generate_stream"})
_MEMORIES: Final = frozenset({"systemsharedmemory", "cudasharedmemory"})
_SERVICE: Final = b"/inference.GRPCInferenceService/"
_COMPOSED_RPCS: Final = (
    b"ModelReady", b"ServerMetadata", b"ModelStatistics", b"RepositoryIndex",
    b"RepositoryModelLoad", b"RepositoryModelUnload", b"SystemSharedMemoryStatus",
    b"SystemSharedMemoryRegister", b"SystemSharedMemoryUnregister", b"CudaSharedMemoryStatus",
    b"CudaSharedMemoryRegister", b"CudaSharedMemoryUnregister", b"TraceSetting", b"LogSettings",
)  # fmt: skip
_GRPC: Final = {
    _SERVICE + b"ServerLive": _LIVE,
    _SERVICE + b"ServerReady": _READY,
    b"/grpc.health.v1.Health/Check": Route(HEALTH_CHECK),
    _SERVICE + b"ModelInfer": Route(BY_MESSAGE),
    _SERVICE + b"ModelStreamInfer": Route(BY_MESSAGE),
    **dict.fromkeys((_SERVICE + rpc for rpc in _COMPOSED_RPCS), COMPOSED_CALL),
}


_KEYS: Final[dict[bytes, str]] = {}
_KEYS_MAX: Final = 4096


def http_route(method: bytes, target: bytes) -> Route:
    """Return the route of an HTTP request; Triton's paths are matched whole and never decoded."""
    path = target.partition(b"?")[0].decode("latin-1")
    if method == b"GET" and path == "/v2/health/live":
        return _LIVE
    if method == b"GET" and path == "/v2/health/ready":
        return _READY
    parts = path.split("/")  # "", "v2", "models", M, ["versions", V,] verb
    if len(parts) < 4 or parts[1] != "v2" or parts[2] != "models":
        return COMPOSED_CALL if _is_composed(method, parts) else ANY_CALL
    model, rest = parts[3], parts[4:]
    version = ""
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if len(rest) == 1 and rest[0] in _INFERENCE:
        key = f"infer/{model}/{version}" if version else f"infer/{model}"
        return Route(BALANCED, key, infers=rest[0] == "infer" and method == b"POST")
    return Route(BALANCED, f"call/{model}", _is_composed(method, parts))


def _is_composed(method: bytes, parts: list[str]) -> bool:
    """Say whether the call concerns all slices; `parts` are a path's, after "" the first."""
    if parts[:2] != ["", "v2"] or method not in (b"GET", b"POST"):
        return False
    match parts[2:]:
        case []:
            return method == b"GET"
        case ["models", "stats"]:
            return method == b"GET"
        case ["models", model, "ready" | "stats"]:
            return method == b"GET" and model != ""
        case ["models", model, "versions", version, "ready" | "stats"]:
            return method == b"GET" and model != "" and version.isascii() and version.isdigit()
        case ["models", model, "trace", "setting"]:
            return method == b"POST" and model != ""
        case ["trace", "setting"] | ["logging"]:
            return method == b"POST"
        case ["repository", *rest]:
            return method == b"POST" and _is_repository_call(rest)
        case [memory, *rest] if memory in _MEMORIES:
            return _is_memory_call(method, rest)
        case _:
            return False


def _is_repository_call(rest: list[str]) -> bool:
    match rest:
        case ["index"]:
            return True
        case [repository, "index"]:
            return repository != ""
        case ["models", model, "load" | "unload"]:
            return model != ""
        case [repository, "models", model, "load" | "unload"]:
            return repository != "" and model != ""
        case _:
            return False


def _is_memory_call(method: bytes, rest: list[str]) -> bool:
    match rest:
        case ["status"]:
            return method == b"GET"
        case ["unregister"]:
            return method == b"POST"
        case ["region", region, "status"]:
            return method == b"GET" and region != ""
        case ["region", region, "register" | "unregister"]:
            return method == b"POST" and region != ""
        case _:
            return False


def grpc_route(path: bytes, is_grpc: bool = True) -> Route:
    """
    Return the route of an HTTP/2 request.

    A Triton's HTTP/2 port answers gRPC calls only, and resets what is not one without a word that a
    person understands. So what has neither gRPC's content type nor a path of Triton's service is
    not given to a slice.
    """
    route = _GRPC.get(path, ANY_CALL)
    if route is ANY_CALL and not is_grpc and not path.startswith(_SERVICE):
        return _NO_CALL
    return route


def pool_key_of_message(data: bytes | memoryview) -> str | None:
    """
    Return the pool key for the model that a ModelInferRequest names.

    Args:
        data: The start of a gRPC message: its 5-byte prefix (compressed flag, length) and the
            first bytes of the protobuf. All official clients write the fields in order, so the
            name (field 1) and version (field 2) come first.

    Returns:
        The key; "" when the message names no model this way (compressed, fields in another
        order), which any slice may answer; None when more bytes are needed to tell.

    Source: KServe open inference protocol, grpc_predict_v2.proto; protobuf encoding guide.
    """
    # The same few models are named again and again: their encoded names are looked up, not read.
    if len(data) > 8 and not data[0] and data[5] == 0x0A and data[6] < 0x80:
        end = 7 + data[6]
        if len(data) > end + 1:
            if data[end] == 0x12:
                if data[end + 1] >= 0x80:
                    return _read_pool_key(data)
                end += 2 + data[end + 1]
            prefix = bytes(data[5:end])
            known = _KEYS.get(prefix)
            if known is not None:
                return known
            key = _read_pool_key(data)
            if key and len(prefix) < 256:
                if len(_KEYS) >= _KEYS_MAX:
                    _KEYS.clear()
                _KEYS[prefix] = key
            return key
    return _read_pool_key(data)


def _read_pool_key(data: bytes | memoryview) -> str | None:
    if len(data) < 5:
        return None
    if data[0]:
        return ""
    message_end = 5 + int.from_bytes(data[1:5], "big")
    model, at = _text_field(data, 5, 0x0A, message_end)
    if not model:
        return None if at < 0 else ""
    version, at = _text_field(data, at, 0x12, message_end)
    if at < 0:
        return None
    return f"infer/{model}/{version}" if version else f"infer/{model}"


def _text_field(data: bytes | memoryview, at: int, tag: int, end: int) -> tuple[str, int]:
    """
    Read a text field with a one-byte tag and a length below 16 KiB at offset `at`.

    Returns:
        (text, offset behind it); ("", at) when another field is there; ("", -1) when bytes are
        missing.
    """
    if at >= end:
        return "", at
    if len(data) < at + 1:
        return "", -1
    if data[at] != tag:
        return "", at
    if len(data) < at + 3:
        return "", at if at + 3 > end else -1
    size, start = data[at + 1], at + 2
    if size & 0x80:
        size, start = (size & 0x7F) | (data[at + 2] << 7), at + 3
    if size >= 16384 or start + size > end:
        return "", at
    if len(data) < start + size:
        return "", -1
    return bytes(data[start : start + size]).decode("utf-8", "replace"), start + size
