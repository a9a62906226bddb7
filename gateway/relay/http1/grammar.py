"""
Header fields of HTTP/1.1 messages: one strict reading, for both directions.

Grammar: RFC 9110 section 5, RFC 9112 sections 5 and 6. Where those let a recipient be lenient
(obs-fold, bare LF, white space before the colon) we refuse: two readers that are lenient in
different ways are how requests get smuggled.
"""

import re
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# One class after the colon, no optional white space before it: two classes that share the space
# would try every split of a run of spaces, which is quadratic.
_FIELD: Final = re.compile(rb"(" + TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")
_TOKEN_ONLY: Final = re.compile(TOKEN)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)(?!\Z)|\x00")

CHUNKED: Final = -1
"""A body length that only its end tells."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Never passed on. RFC 9110 section 7.6.1; Transfer-Encoding is made anew."""
_NOT_BY_NOMINATION: Final = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"inference-header-content-length",
    }
)
"""Passed on even when Connection names them: a client must not hide from the slice what we saw."""
NOT_IN_TRAILERS: Final = HOP_BY_HOP | _NOT_BY_NOMINATION | {b"expect", b"set-cookie", b"trailer"}
_LOOKALIKES: Final = frozenset({b"content_length", b"transfer_encoding"})
"""Some servers read `_` as `-`; then these would frame the message a second time."""


class MalformedError(Exception):
    """A head breaks the grammar; the argument says how. Never leaves the module that judges."""


Fields = list[tuple[bytes, bytes, bytes]]
"""(name in lower case, value without surrounding white space, the line as it came) in order."""


def bare_line_end(data: bytes | bytearray, start: int) -> bool:
    """
    Tell whether an unfinished head holds a bare LF, a bare CR or a NUL from offset `start` on.

    It can never become a head, so its sender need not wait for the timeout to hear that.
    """
    return _BARE_LINE_END.search(data, start) is not None


def read_fields(lines: list[bytes]) -> Fields:
    """
    Read header lines.

    Raises:
        MalformedError: A line is no header field.
    """
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedError(_what_is_wrong(line))
        name = match[1].lower()
        if name in _LOOKALIKES:
            raise MalformedError(f"header field {name.decode()!r} is not allowed")
        fields.append((name, match[2].strip(b" \t"), line))
    return fields


def values_of(fields: Fields, name: bytes) -> list[bytes]:
    """Return the values of every field called `name`, in order."""
    return [value for field, value, _ in fields if field == name]


def body_length(fields: Fields, http10: bool) -> int | None:
    """
    Return the length of the body in bytes, CHUNKED, or None when the fields do not say.

    Raises:
        MalformedError: The framing is ambiguous or unknown. RFC 9112 section 6.1 to 6.3.
    """
    encodings = values_of(fields, b"transfer-encoding")
    lengths = values_of(fields, b"content-length")
    if encodings:
        if lengths:
            raise MalformedError("both Content-Length and Transfer-Encoding")
        if http10:
            raise MalformedError("Transfer-Encoding in HTTP/1.0")
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise MalformedError("Transfer-Encoding is not exactly 'chunked'")
        return CHUNKED
    if not lengths:
        return None
    if len(lengths) > 1:
        raise MalformedError("more than one Content-Length")
    if not _LENGTH.fullmatch(lengths[0]):
        raise MalformedError("Content-Length is not a number")
    return int(lengths[0])


def connection_options(fields: Fields) -> set[bytes]:
    """
    Return the options of all Connection fields, in lower case.

    Raises:
        MalformedError: An option is no token.
    """
    options = set()
    for value in values_of(fields, b"connection"):
        for part in value.split(b","):
            option = part.strip(b" \t").lower()
            if not option:
                continue
            if not _TOKEN_ONLY.fullmatch(option):
                raise MalformedError("a Connection option is not a token")
            options.add(option)
    return options


def end_to_end(fields: Fields, options: set[bytes], drop: frozenset[bytes]) -> list[bytes]:
    """Return the lines to pass on, as they came: neither hop-by-hop, nor nominated, nor in `drop`."""
    dropped = HOP_BY_HOP | (options - _NOT_BY_NOMINATION) | drop
    return [line for name, _, line in fields if name not in dropped]


def _what_is_wrong(line: bytes) -> str:
    """Say why `line` is no header field."""
    if line[:1] in (b" ", b"\t"):
        return "a header line begins with white space"
    name, colon, value = line.partition(b":")
    if not colon:
        return "a header line without a colon"
    if not _TOKEN_ONLY.fullmatch(name):
        return "a header field's name is not a token"
    assert value, line
    return f"the value of header field {name.decode()!r} holds a control character"
