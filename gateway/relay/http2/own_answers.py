"""What the gateway answers by itself over HTTP/2: blocks, and the calls that no slice is asked."""

from typing import TYPE_CHECKING, Final

from gateway import errors
from gateway.fleet.readiness import is_ready
from gateway.relay.http2.headers import encode
from gateway.relay.router import HEALTH_CHECK, LIVE, NOT_GRPC, Route

if TYPE_CHECKING:
    from gateway.relay.http2.call import Call

_GRPC_HEAD: Final = [(b":status", b"200"), (b"content-type", b"application/grpc")]
GRPC_HEAD: Final = encode(_GRPC_HEAD)
GRPC_OK: Final = encode([(b"grpc-status", b"0")])

_TRUE: Final = b"\x08\x01"  # field 1, varint 1: live, ready, and health.v1 SERVING
_NOT_SERVING: Final = b"\x08\x02"


def status_block(code: int, details: str, begun: bool, retry_after_s: int = 0) -> bytes:
    """
    Return the block that ends a gRPC call with a status: trailers, or all there is.

    Args:
        retry_after_s: What a client that repeats calls is to wait; 0 for not saying. gRPC's A6.
    """
    status = [(b"grpc-status", b"%d" % code), (b"grpc-message", _percent_encode(details))]
    if retry_after_s:
        status.append((b"grpc-retry-pushback-ms", b"%d" % (1000 * retry_after_s)))
    return encode(status if begun else [*_GRPC_HEAD, *status])


def http_head(status: int, body_bytes: int) -> bytes:
    """Return the head of an answer in Triton's form."""
    return encode(
        [
            (b":status", b"%d" % status),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % body_bytes),
        ]
    )


def answer_here(call: "Call", route: Route) -> None:
    """Answer a call that is about the gateway itself, or that is none."""
    core, kind = call.client.core, route.kind
    serving = is_ready(core.registry)
    if kind is NOT_GRPC:
        call.fail(errors.NOT_GRPC)
    elif core.leaving and kind is not LIVE:
        call.fail(errors.SHUTTING_DOWN)
    elif kind is LIVE:
        call.answer_message(_TRUE)
    elif kind is HEALTH_CHECK:
        call.answer_message(_TRUE if serving else _NOT_SERVING)
    else:
        call.answer_message(_TRUE if serving else b"")


def _percent_encode(message: str) -> bytes:
    """Encode grpc-message. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md"""
    return b"".join(
        b"%c" % octet if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet
        for octet in message.encode()
    )
