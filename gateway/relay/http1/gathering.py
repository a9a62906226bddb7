"""
Requests that wait, whole or in part, until it is known who answers.

Composed calls are collected whole. An inference of a model that batches sequences waits for its JSON,
which names its sequence; see relay/sequence_fields.py. All other requests never come here.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Final

from gateway.fleet.sequences import NO_SEQUENCE, SequenceFields
from gateway.limits import MIB
from gateway.relay.http1.body import ChunkedBody, taken_from
from gateway.relay.http1.grammar import CHUNKED
from gateway.relay.http1.head import HEAD_END, RequestHead
from gateway.relay.sequence_fields import JSON_BYTES_MAX, inflate, read_json

OPENED_BYTES_MAX: Final = 16 * MIB
"""Of a body that was compressed: inflating holds up everybody else."""

Header = tuple[bytes, bytes]
Piece = bytes | memoryview

_JSON_LENGTH: Final = re.compile(
    rb"\r\nInference-Header-Content-Length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE
)
_CODING: Final = re.compile(rb"\r\nContent-Encoding:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE)
_COMPRESSED: Final = frozenset({b"gzip", b"deflate"})


def body_of(head: RequestHead, kept: bytes | Sequence[Piece]) -> bytes:
    """Return what has come of a request's body; `kept` is its head and the body as it is sent on."""
    joined = kept if isinstance(kept, bytes) else b"".join(kept)
    body = joined[joined.find(HEAD_END) + len(HEAD_END) :]
    if head.length != CHUNKED:
        return body
    chunks, at, found = ChunkedBody(len(body)), 0, []
    while at < len(body):  # judged before: this only finds the data
        ranges: list[tuple[int, int]] = []
        at = chunks.feed(body, at, ranges)
        found.append(taken_from(body, ranges))
    return b"".join(found)


def coding_of(head: RequestHead) -> bytes:
    """Return `gzip`, `deflate`, or nothing for what is neither."""
    match = _CODING.search(head.upstream)
    coding = match[1].lower() if match else b""
    return coding if coding in _COMPRESSED else b""


def sequence_of(head: RequestHead, body: bytes, complete: bool) -> SequenceFields | None:
    """Return what a request says of its sequence; None while there is more of its JSON to come."""
    match = _JSON_LENGTH.search(head.upstream)
    length = int(match[1]) if match else -1
    if coding_of(head):
        try:
            text = inflate(body, length if 0 <= length <= JSON_BYTES_MAX else JSON_BYTES_MAX)
        except zlib.error:
            return NO_SEQUENCE
    else:
        text = body
    if 0 <= length <= len(text):
        return read_json(text[:length])
    if complete or len(body) > JSON_BYTES_MAX:
        return read_json(text)
    return None


def question_of(head: RequestHead, body: bytes) -> tuple[str, str, list[Header], bytes] | None:
    """
    Return (method, target, headers, body) for the composer, the body not compressed.

    None when the body is compressed to nonsense, or to more than OPENED_BYTES_MAX.
    """
    line, *lines = head.upstream[: -len(HEAD_END)].split(b"\r\n")
    method, target, _ = line.split(b" ")
    headers = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in lines)]
    if coding_of(head):
        try:
            body = inflate(body, OPENED_BYTES_MAX + 1)
        except zlib.error:
            return None
        if len(body) > OPENED_BYTES_MAX:
            return None
        headers = [header for header in headers if header[0].lower() != b"content-encoding"]
    return method.decode("latin-1"), target.decode("latin-1"), headers, body
