"""
Fault: a way a request fails in the relay, as a value; both protocols' forms of it.

The relays never raise for what the world does: they answer with a fault. Codes are stable, they
label `/metrics`; docs/operating.md explains each.
"""

import json
from dataclasses import dataclass, replace
from typing import Final

# gRPC status codes, https://grpc.github.io/grpc/core/md_doc_statuscodes.html
GRPC_CANCELLED: Final = 1
GRPC_INVALID_ARGUMENT: Final = 3
GRPC_DEADLINE_EXCEEDED: Final = 4
GRPC_RESOURCE_EXHAUSTED: Final = 8
GRPC_UNIMPLEMENTED: Final = 12
GRPC_INTERNAL: Final = 13
GRPC_UNAVAILABLE: Final = 14


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Why a request was not relayed to its end.

    Attributes:
        code: Stable name, a metric label.
        http_status: Status of our own HTTP answer.
        grpc_status: Status of our own gRPC answer.
        message: For the person who reads the client's log.
        retry_after_s: When the client may try again; 0 where nothing is known of that.
    """

    code: str
    http_status: int
    grpc_status: int
    message: str
    retry_after_s: int = 0

    def because(self, detail: str) -> "Fault":
        """Return the same fault with its cause named."""
        return replace(self, message=f"{self.message}: {detail}")

    def after(self, seconds: int) -> "Fault":
        """Return the same fault for a client that is to try again after so long."""
        return replace(self, retry_after_s=seconds)

    @property
    def http_body(self) -> bytes:
        """The answer's body in Triton's form."""
        return json.dumps({"error": self.message}).encode()


BAD_REQUEST: Final = Fault("bad_request", 400, GRPC_INTERNAL, "malformed request")
METHOD_NOT_ALLOWED: Final = Fault(
    "method_not_allowed", 405, GRPC_UNIMPLEMENTED, "method not allowed"
)
REQUEST_TIMEOUT: Final = Fault(
    "request_timeout", 408, GRPC_DEADLINE_EXCEEDED, "the request did not arrive in time"
)
BODY_TOO_LARGE: Final = Fault(
    "body_too_large", 413, GRPC_RESOURCE_EXHAUSTED, "the request body is larger than allowed"
)
URI_TOO_LONG: Final = Fault("uri_too_long", 414, GRPC_INTERNAL, "the request line is too long")
NOT_GRPC: Final = Fault(
    "not_grpc",
    415,
    GRPC_UNIMPLEMENTED,
    "over HTTP/2 this port answers gRPC calls (content-type application/grpc); Triton's other API is "
    "here over HTTP/1.1",
)
EXPECTATION_FAILED: Final = Fault(
    "expectation_failed", 417, GRPC_INTERNAL, "only 'Expect: 100-continue' is known"
)
HEAD_TOO_LARGE: Final = Fault(
    "head_too_large", 431, GRPC_RESOURCE_EXHAUSTED, "the request's headers are larger than allowed"
)
NOT_IMPLEMENTED: Final = Fault("not_implemented", 501, GRPC_UNIMPLEMENTED, "not implemented")
BAD_ANSWER: Final = Fault(
    "bad_answer", 502, GRPC_UNAVAILABLE, "the slice's answer could not be understood"
)
SLICE_LOST: Final = Fault(
    "slice_lost", 502, GRPC_UNAVAILABLE, "the slice closed the connection before it answered"
)
REPLAY_BUDGET: Final = Fault(
    "replay_budget",
    502,
    GRPC_UNAVAILABLE,
    "the slice closed the connection before it answered, and too many requests are being sent to a "
    "second slice already",
)
ANSWER_BROKEN: Final = Fault(
    "answer_broken", 502, GRPC_UNAVAILABLE, "the slice broke off within its answer"
)
SLICE_REFUSED: Final = Fault(
    "slice_refused", 502, GRPC_UNAVAILABLE, "no slice accepted the connection"
)
NO_SLICE: Final = Fault("no_slice", 503, GRPC_UNAVAILABLE, "no slice is ready to take this request")
OVERLOADED: Final = Fault(
    "overloaded", 503, GRPC_RESOURCE_EXHAUSTED, "the gateway holds all it may; try again later"
)
QUEUE_FULL: Final = Fault(
    "queue_full",
    503,
    GRPC_RESOURCE_EXHAUSTED,
    "too many requests wait for this model; try again later",
)
QUEUE_TIMEOUT: Final = Fault(
    "queue_timeout", 503, GRPC_UNAVAILABLE, "no slice had room for the request in time"
)
SHUTTING_DOWN: Final = Fault("shutting_down", 503, GRPC_UNAVAILABLE, "Server exiting")
QUARANTINED: Final = Fault(
    "quarantined",
    500,
    GRPC_INTERNAL,
    "slices broke off at the same request, one after the other, so it is refused for a while; "
    "do not send it again as it is",
)
COMPOSER_FAILED: Final = Fault(
    "composer_failed", 500, GRPC_INTERNAL, "the gateway made a mistake; its log says which"
)
ANSWER_TIMEOUT: Final = Fault(
    "answer_timeout", 504, GRPC_DEADLINE_EXCEEDED, "the slice did not answer in time"
)
