"""Answers that the gateway gives itself."""

from http import HTTPStatus
from typing import Final

from gateway.errors import Fault
from gateway.relay.composed import HttpAnswer

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def own_answer(
    status: int,
    body: bytes = b"",
    *,
    http10: bool = False,
    keep_alive: bool = True,
    is_head: bool = False,
    kind: bytes = b"application/json",
    retry_after_s: int = 0,
) -> bytes:
    """Return a whole answer; `kind` is what `body` is."""
    parts = [b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())]
    parts.append(b"Content-Type: %s\r\nContent-Length: %d\r\n" % (kind, len(body)))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:  # RFC 9110 section 15.5.6
        parts.append(b"Allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        parts.append(b"Retry-After: %d\r\n" % max(1, retry_after_s))
    if not keep_alive:
        parts.append(b"Connection: close\r\n")
    elif http10:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    if not is_head:
        parts.append(body)
    return b"".join(parts)


def health_answer(good: bool, *, http10: bool, keep_alive: bool) -> bytes:
    """Return the answer that says whether the server is live, or ready, in Triton's form."""
    return own_answer(
        200 if good else 400, http10=http10, keep_alive=keep_alive, kind=b"text/plain"
    )


def composed_answer(answer: HttpAnswer, *, http10: bool, keep_alive: bool, is_head: bool) -> bytes:
    """Return a composed answer as it goes to the client."""
    known = {each.value: each.phrase for each in HTTPStatus}
    phrase = known.get(answer.status, "").encode()
    parts = [b"HTTP/1.1 %d %s\r\n" % (answer.status, phrase)]
    for name, value in answer.headers:
        # A slice's own words may stand here: a line's end in them would begin another field.
        parts.append(b"%s: %s\r\n" % (name, value.replace(b"\r", b" ").replace(b"\n", b" ")))
    parts.append(b"Content-Length: %d\r\n" % len(answer.body))
    if not keep_alive:
        parts.append(b"Connection: close\r\n")
    elif http10:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    if not is_head:
        parts.append(answer.body)
    return b"".join(parts)


def fault_answer(fault: Fault, *, http10: bool, keep_alive: bool, is_head: bool) -> bytes:
    """Return the answer that tells of `fault`, in Triton's form."""
    return own_answer(
        fault.http_status, fault.http_body, http10=http10, keep_alive=keep_alive, is_head=is_head,
        retry_after_s=fault.retry_after_s,
    )  # fmt: skip
