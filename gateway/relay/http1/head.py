"""
Request heads: bytes → RequestHead or Fault. Judged once, then remembered (see memo).

What goes to the slice is written from what was understood, never copied unread; it may equal
what came, and mostly does.
"""

import re
from typing import Final

from gateway.errors import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    EXPECTATION_FAILED,
    HEAD_TOO_LARGE,
    METHOD_NOT_ALLOWED,
    NOT_IMPLEMENTED,
    URI_TOO_LONG,
    Fault,
)
from gateway.fleet.places import URGENCY_DEFAULT
from gateway.limits import Limits
from gateway.relay.forwarding import NOTHING_CAME, Came, Forwarding
from gateway.relay.http1.grammar import (
    CHUNKED,
    TOKEN,
    Fields,
    MalformedError,
    body_length,
    connection_options,
    end_to_end,
    read_fields,
    values_of,
)
from gateway.relay.priority import urgency_of
from gateway.relay.router import BALANCED, Route, http_route

HEAD_END: Final = b"\r\n\r\n"
PLAIN_BYTES_MAX: Final = 16 * 1024
"""Bodies up to here take the short path: kept in the bytes they came in, and not accounted for."""

_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/1\.([01])")
_AUTHORITY: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]{0,5})?"
)
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?#]*)(.*)")
_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT"})
_REFUSED_METHODS: Final = frozenset({b"CONNECT", b"TRACE"})
_EXPECT: Final = frozenset({b"expect"})
SLICE: Final = b"mig-gateway-slice"
"""A client that sends this field gets it back with the name of the slice that has answered."""
_CHUNKED_LINE: Final = b"Transfer-Encoding: chunked"


class RequestHead:
    """
    A request head that may be relayed, and everything that is to be known of it.

    Attributes:
        upstream: The head to send to a slice, with its empty line; what `core.forwarding` adds
            for this client is still missing.
        unchanged: What goes to the slice equals the bytes that came.
        length: Body bytes to come, or CHUNKED.
        keep_alive: The client wants to send another request.
        http10: The client speaks HTTP/1.0.
        is_head: The answer has no body.
        expect_continue: The client waits for 100 before it sends the body.
        route: Who answers.
        came: What it says of its origin.
        asks_slice: The client wants to be told which slice has answered.
        urgency: From 0, the most urgent, to 7.
        simple: Its answer may pass unchanged: HTTP/1.1, kept alive, not HEAD, no field to add.
        plain: Nothing in it needs more than the short path: it is simple, for a slice, without an
            expectation, and its body has at most PLAIN_BYTES_MAX.
    """

    __slots__ = (
        "asks_slice",
        "came",
        "expect_continue",
        "http10",
        "is_head",
        "keep_alive",
        "length",
        "plain",
        "route",
        "simple",
        "unchanged",
        "upstream",
        "urgency",
    )

    def __init__(
        self,
        raw: bytes,
        upstream: bytes,
        length: int,
        keep_alive: bool,
        http10: bool,
        is_head: bool,
        expect_continue: bool,
        route: Route,
        came: Came | None = None,
        asks_slice: bool = False,
        urgency: int = URGENCY_DEFAULT,
    ) -> None:
        same = upstream == raw
        self.unchanged = same and came is None
        self.upstream = raw if same else upstream
        self.came = came or NOTHING_CAME
        self.asks_slice = asks_slice
        self.length = length
        self.keep_alive = keep_alive
        self.http10 = http10
        self.is_head = is_head
        self.expect_continue = expect_continue
        self.route = route
        self.urgency = urgency
        self.simple = keep_alive and not (http10 or is_head or asks_slice)
        self.plain = (
            self.simple
            and 0 <= length <= PLAIN_BYTES_MAX
            and not expect_continue
            and route.kind is BALANCED
            and not route.composed
        )


class _RefusedError(Exception):
    """The head is refused with `fault`; does not leave this module."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def judge_request(
    raw: bytes,
    limits: Limits,
    forwarding: Forwarding | None = None,
    priority_header: bytes = b"",
) -> RequestHead | Fault:
    """
    Judge one request head.

    Args:
        raw: From the request line's first byte to the empty line's last; nothing before or after.
        forwarding: None when it is not on: then nothing is added to a head.
        priority_header: Tells how urgent a request is; in lower case, empty for none.

    Returns:
        What to do with the request; or the fault to answer with, after which the connection must
        be closed, because nobody can say where the next request begins.
    """
    try:
        return _judge(raw, limits, forwarding, priority_header)
    except MalformedError as error:
        return BAD_REQUEST.because(str(error))
    except _RefusedError as refused:
        return refused.fault


def _judge(
    raw: bytes, limits: Limits, forwarding: Forwarding | None, priority_header: bytes
) -> RequestHead:
    if len(raw) > limits.head_bytes:
        raise _RefusedError(HEAD_TOO_LARGE)
    line, *lines = raw[:-4].split(b"\r\n")
    if len(line) > limits.request_line_bytes:
        raise _RefusedError(URI_TOO_LONG)
    if len(lines) > limits.header_count:
        raise _RefusedError(HEAD_TOO_LARGE.because(f"more than {limits.header_count} fields"))
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise MalformedError("the request line is not 'METHOD target HTTP/1.1'")
    method, target, http10 = match[1], match[2], match[3] == b"0"
    fields = read_fields(lines)
    length = body_length(fields, http10)
    target, host = _target_and_host(method, target, values_of(fields, b"host"), http10)
    options = connection_options(fields)
    if method not in _METHODS:
        raise _RefusedError(METHOD_NOT_ALLOWED if method in _REFUSED_METHODS else NOT_IMPLEMENTED)
    if length is not None and length > limits.body_bytes:
        raise _RefusedError(BODY_TOO_LARGE)
    expect_continue = _expects_continue(fields, http10)

    passed_on = [b"%s %s HTTP/1.1" % (method, target)]
    if host is not None:
        passed_on.append(b"Host: " + host)
    drop, came = _EXPECT, None
    if forwarding is not None:
        drop |= forwarding.replaced
        came = forwarding.read((name, value) for name, value, _ in fields if name not in options)
    asks_slice = bool(values_of(fields, SLICE))
    if asks_slice:
        drop |= {SLICE}
    passed_on += end_to_end(fields, options, drop)
    if length == CHUNKED:
        passed_on.append(_CHUNKED_LINE)
    return RequestHead(
        raw,
        b"\r\n".join(passed_on) + HEAD_END,
        length or 0,
        _keeps_alive(options, http10),
        http10,
        method == b"HEAD",
        expect_continue and bool(length),
        http_route(method, target),
        came,
        asks_slice,
        _urgency(fields, priority_header),
    )


def _urgency(fields: Fields, header: bytes) -> int:
    values = values_of(fields, header) if header else None
    return urgency_of(b",".join(values)) if values else URGENCY_DEFAULT


def _target_and_host(
    method: bytes, target: bytes, hosts: list[bytes], http10: bool
) -> tuple[bytes, bytes | None]:
    """
    Return the target in origin form, and the Host to add when the request has none.

    RFC 9112 section 3.2: exactly one Host in HTTP/1.1; an absolute-form target is allowed, and
    here it must say the same as Host, so that nobody can be told two different things.
    """
    if len(hosts) > 1 or (not hosts and not http10):
        raise MalformedError("HTTP/1.1 needs exactly one Host")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise MalformedError("Host is not a host name or address")
    missing = None if hosts else b"localhost"
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, missing
    if method == b"CONNECT":
        raise _RefusedError(METHOD_NOT_ALLOWED)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _AUTHORITY.fullmatch(absolute[1]):
        raise MalformedError("the target is neither a path nor an http URL")
    if hosts and hosts[0].lower() != absolute[1].lower():
        raise MalformedError("the target names another host than Host")
    path = absolute[2]
    if not path.startswith(b"/"):
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return path, None if hosts else absolute[1]


def _expects_continue(fields: Fields, http10: bool) -> bool:
    expectations = values_of(fields, b"expect")
    if not expectations or http10:  # RFC 9110 section 10.1.1: ignored in HTTP/1.0
        return False
    if len(expectations) > 1 or expectations[0].lower() != b"100-continue":
        raise _RefusedError(EXPECTATION_FAILED)
    return True


def _keeps_alive(options: set[bytes], http10: bool) -> bool:
    return b"close" not in options and (not http10 or b"keep-alive" in options)
