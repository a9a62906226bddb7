"""
How one attempt at one slice ended: small integers, so that telling it costs the relays nothing.

What is the client's doing (4xx, a cancelled call) and what is backpressure (503, RESOURCE_EXHAUSTED)
says nothing against a slice, and is REJECTED.
"""

from typing import Final

OK: Final = 0
"""The slice answered, and the answer was relayed to its end."""
CONNECT_FAILED: Final = 1
"""No connection to the slice could be had."""
LOST: Final = 2
"""The slice broke the connection or the stream before or within its answer, or spoke nonsense."""
SERVER_ERROR: Final = 3
"""The slice answered that it failed: HTTP 5xx but 501 and 503; see GRPC_SERVER_ERRORS."""
TIMEOUT: Final = 4
"""The slice did not answer within the gateway's own `timeouts.response` or `stream_idle`."""
REJECTED: Final = 5
"""Nothing was learned of the slice: 4xx, 501, 503, other gRPC statuses, clients that went away."""

GRPC_SERVER_ERRORS: Final = frozenset({b"2", b"13", b"14", b"15"})
"""UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS, as they stand in `grpc-status`."""


_UNAVAILABLE: Final = b"14"
_NOT_FOUND: Final = b"5"
_OVERLOADED: Final = (b"Exceeds maximum queue size", b"Request timeout expired")
"""Triton's queue policy has refused the request; over HTTP that is 503. Seen with 2.51."""
_STOPS: Final = (b"is stopping", b"shutting down", b"Server exiting")
_UNLOADED: Final = b"has no available versions"


def is_turned_away(status: bytes, message: bytes) -> bool:
    """
    Return whether a `grpc-status` with this `grpc-message` is how a Triton that stops, or has just
    unloaded the model, refuses what it has not begun; seen with 2.51 and 2.58.
    """
    if status == _UNAVAILABLE:
        return any(words in message for words in _STOPS)
    return status == _NOT_FOUND and _UNLOADED in message


def of_http_status(status: int) -> int:
    """Return the outcome of an answer that was relayed whole."""
    if status < 400:
        return OK
    return SERVER_ERROR if status >= 500 and status not in (501, 503) else REJECTED


def of_grpc_status(status: bytes, message: bytes = b"") -> int:
    """Return the outcome of a call by its status and `grpc-message`; an answer without one is LOST."""
    if status == b"0":
        return OK
    if status == _UNAVAILABLE and any(words in message for words in _OVERLOADED):
        return REJECTED
    if status in GRPC_SERVER_ERRORS:
        return SERVER_ERROR
    return REJECTED if status else LOST
