"""Answer heads of slices: bytes → AnswerHead, judged as strictly as requests."""

import re
from typing import Final

from gateway.errors import BAD_ANSWER, Fault
from gateway.fleet.outcomes import of_http_status
from gateway.limits import Limits
from gateway.relay.http1.grammar import (
    MalformedError,
    body_length,
    connection_options,
    end_to_end,
    read_fields,
)

UNTIL_CLOSE: Final = -2
"""A body that ends with the connection."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
_NOTHING: Final[frozenset[bytes]] = frozenset()
_CONTENT_LENGTH: Final = frozenset({b"content-length"})
_CHUNKED_LINE: Final = b"Transfer-Encoding: chunked\r\n"


class AnswerHead:
    """
    An answer head that may be relayed.

    Attributes:
        status: 100 to 999.
        outcome: What it says of the slice, see gateway.fleet.outcomes.
        length: Body bytes to come, CHUNKED or UNTIL_CLOSE; 0 where the status allows no body. An
            answer to HEAD has none either, whatever is said here.
        keep_alive: The slice takes another request on this connection.
        plain: The head passes unchanged to an HTTP/1.1 client that keeps its connection, and the
            slice's connection can be used again.
        for_client: The head for such a client.
    """

    __slots__ = ("_lines", "for_client", "keep_alive", "length", "outcome", "plain", "status")

    def __init__(
        self, raw: bytes, lines: bytes, status: int, length: int, keep_alive: bool
    ) -> None:
        self._lines = lines
        self.status = status
        self.outcome = of_http_status(status)
        self.length = length
        self.keep_alive = keep_alive
        for_client = self.form(http10=False, keep_alive=True)
        unchanged = for_client == raw
        self.for_client = raw if unchanged else for_client
        self.plain = unchanged and keep_alive and length >= 0 and status >= 200

    def form(self, http10: bool, keep_alive: bool) -> bytes:
        """
        Return the head for a client.

        An HTTP/1.0 client knows no chunks: a body without a length ends with its connection, which
        the caller must then have declared closing.
        """
        parts = [self._lines]
        if self.length < 0 and not http10:
            parts.append(_CHUNKED_LINE)
        if not keep_alive:
            parts.append(b"Connection: close\r\n")
        elif http10:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def judge_answer(raw: bytes, limits: Limits) -> AnswerHead | Fault:
    """
    Judge one answer head.

    Args:
        raw: From the status line's first byte to the empty line's last.

    Returns:
        What to do with the answer, or the fault to answer with instead; the connection that it
        came on must then be closed.
    """
    try:
        return _judge(raw, limits)
    except MalformedError as error:
        return BAD_ANSWER.because(str(error))


def _judge(raw: bytes, limits: Limits) -> AnswerHead:
    if len(raw) > limits.head_bytes:
        raise MalformedError("its head is too large")
    line, *lines = raw[:-4].split(b"\r\n")
    if len(lines) > limits.header_count:
        raise MalformedError(f"more than {limits.header_count} header fields")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise MalformedError("the status line is not 'HTTP/1.1 STATUS reason'")
    http10, status = match[1] == b"0", int(match[2])
    fields = read_fields(lines)
    length = body_length(fields, http10)
    options = connection_options(fields)
    no_body = status < 200 or status in (204, 304)
    # RFC 9110 section 8.6: neither 1xx nor 204 may carry a Content-Length; 304 may.
    drop = _CONTENT_LENGTH if no_body and status != 304 else _NOTHING
    passed_on = [b"HTTP/1.1 %d %s" % (status, match[3]), *end_to_end(fields, options, drop), b""]
    if no_body:
        length = 0
    elif length is None:
        length = UNTIL_CLOSE
    keep_alive = b"close" not in options and (not http10 or b"keep-alive" in options)
    return AnswerHead(
        raw, b"\r\n".join(passed_on), status, length, keep_alive and length != UNTIL_CLOSE
    )
