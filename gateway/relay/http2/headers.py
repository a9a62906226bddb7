"""
Header blocks: decoded and judged once, then remembered by their bytes.

A client's second call and every one after it sends the same few bytes, all of them references into
the HPACK dynamic table. Such a block means the same until the next insertion into that table, so the
outcome of judging it is kept until then. Going out we use no dynamic table, so a block that was
encoded once stays true for every connection. RFC 7541; RFC 9113 section 8.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, cast

from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.hpack import Decoder
from hpack.table import HeaderTable

from gateway.fleet.outcomes import is_turned_away, of_grpc_status
from gateway.fleet.places import URGENCY_DEFAULT
from gateway.relay.forwarding import Came, Forwarding
from gateway.relay.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ProtocolError
from gateway.relay.http2.framing import BLOCK_BYTES_MAX
from gateway.relay.priority import urgency_of
from gateway.relay.router import Route, grpc_route

Header = Any
"""
(name, value), both bytes, as hpack made it. Not written as a tuple: compiled code would keep the two
values and lose the mark of a field that is never indexed.
"""
T = TypeVar("T")

BLOCKS_MAX: Final = 128
"""Remembered blocks of one connection; a gRPC client uses about three."""
KNOWN_BLOCK_BYTES_MAX: Final = 1024
"""A longer block is not remembered."""
RESIZES_MAX: Final = 2
KNOWN_BYTES_MAX: Final = 32 * 1024
"""Decoded header lists that one connection's remembered blocks stand for. A few bytes may stand for
64 KiB, sixteen references to one large field, so the blocks' own size bounds nothing."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE: Final = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
).fullmatch
_TARGET: Final = re.compile(rb"/[\x21-\x7e]*|\*").fullmatch
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*").fullmatch
# A host and perhaps a port, without the user's name that RFC 9113 section 8.3.1 forbids. gRPC's
# clients percent-encode what else they are asked to put there (a path of a Unix socket, say).
_AUTHORITY: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]+").fullmatch
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
BAD_TIMEOUT_S: Final = -1.0
"""Of a `grpc-timeout` that is none: HTTP/2 has nothing against it, so its call is answered."""
_TIMEOUT_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_STATIC: Final = HeaderTable.STATIC_TABLE_MAPPING


UNSAID: Final = -1
"""Of an answer: there was no `grpc-status` in this block."""


class MalformedError(Exception):
    """The header list breaks RFC 9113 section 8; the stream ends with PROTOCOL_ERROR."""


class Request:
    """
    A judged request.

    Attributes:
        block: What is sent to the slice.
        came: What it says of its origin; None when a slice is told nothing of that.
        route: Who answers.
        path: As it came.
        metadata: The other fields, of composed calls only.
        is_grpc: Our own errors are gRPC statuses, not HTTP ones.
        is_head: The answer has no body.
        content_length: Declared, or -1.
        timeout_s: `grpc-timeout`, 0, or BAD_TIMEOUT_S.
        size: Of the decoded list, as RFC 9113 counts it.
        urgency: From 0, the most urgent, to 7.
    """

    __slots__ = (
        "block",
        "came",
        "content_length",
        "count",
        "is_grpc",
        "is_head",
        "metadata",
        "method",
        "path",
        "route",
        "size",
        "timeout_s",
        "urgency",
    )

    def __init__(
        self,
        headers: Sequence[Header],
        forwarding: Forwarding | None = None,
        priority_header: bytes = b"",
    ) -> None:
        """
        Judge a request's header list. Raises MalformedError.

        Args:
            priority_header: Tells how urgent a request is; in lower case, empty for none.
        """
        pseudo, fields = _split(headers, (b":method", b":scheme", b":path", b":authority"))
        try:
            self.method, self.path = pseudo[b":method"], pseudo[b":path"]
            scheme = pseudo[b":scheme"]
        except KeyError as missing:
            raise MalformedError(f"no {missing}") from None
        if not _SCHEME(scheme):
            raise MalformedError("bad :scheme")
        if not _TARGET(self.path):
            raise MalformedError("bad :path")
        if self.method == b"CONNECT" or not _TOKEN(self.method.lower()):
            raise MalformedError("bad :method")
        authority = pseudo.get(b":authority")
        authority = _authority(authority, {value for name, value in fields if name == b"host"})
        kept: list[Header] = [header for header in fields if header[0] != b"host"]
        self.content_length, self.timeout_s, self.is_grpc = -1, 0.0, False
        for name, value in kept:
            if name == b"te" and value != b"trailers":
                raise MalformedError("te may only be trailers")
            if name == b"content-length":
                self.content_length = _length(value, self.content_length)
            elif name == b"grpc-timeout":
                self.timeout_s = _timeout_s(value)
            elif name == b"content-type":
                self.is_grpc = value.startswith(b"application/grpc")
        told = [value for name, value in kept if name == priority_header]
        self.urgency = urgency_of(b",".join(told)) if told else URGENCY_DEFAULT
        self.is_head = self.method == b"HEAD"
        self.route: Route = grpc_route(self.path, self.is_grpc)
        self.metadata: list[Header] = kept if self.route.composed else []
        self.size = list_bytes(headers)
        self.count = len(headers)
        head = [
            (b":method", self.method),
            (b":scheme", b"http"),
            (b":path", self.path),
            (b":authority", authority),
        ]
        self.came: Came | None = None
        if forwarding is not None:
            self.came = forwarding.read(kept)
            kept = [header for header in kept if header[0] not in forwarding.replaced]
        self.block = encode([*head, *kept])


class Answer:
    """
    A judged header block of a slice: an answer's head, or its trailers.

    Attributes:
        block: What is sent to the client.
        status: HTTP status, or 0 for trailers.
        grpc_status: Its digits where present, else None.
        outcome: What the status says of the slice, see gateway.fleet.outcomes; UNSAID without.
        turned_away: The slice stops, or has unloaded the model, and has not begun the call.
    """

    __slots__ = ("block", "content_length", "grpc_status", "outcome", "status", "turned_away")

    def __init__(self, headers: Sequence[Header]) -> None:
        """Judge an answer's header list. Raises MalformedError."""
        pseudo, fields = _split(headers, (b":status",))
        status = pseudo.get(b":status", b"0")
        if not (status.isdigit() and (len(status) == 3 or status == b"0")):
            raise MalformedError("bad :status")
        self.status = int(status)
        self.grpc_status: bytes | None = None
        self.content_length = -1
        message = b""
        for name, value in fields:
            if name == b"grpc-status":
                self.grpc_status = value
            elif name == b"grpc-message":
                message = value
            elif name == b"content-length":
                self.content_length = _length(value, self.content_length)
        self.turned_away = False
        if self.grpc_status is not None:
            self.outcome = of_grpc_status(self.grpc_status, message)
            self.turned_away = is_turned_away(self.grpc_status, message)
        else:
            self.outcome = UNSAID
        self.block = encode([*([(b":status", status)] if self.status else []), *fields])


def with_timeout(block: bytes, timeout_s: float) -> bytes:
    """Return a request's block, as `encode` made it, with another `grpc-timeout`."""
    headers = cast("list[Header]", Decoder(max_header_list_size=2**31).decode(block, raw=True))
    value = _timeout(timeout_s)
    return encode([(h[0], value) if h[0] == b"grpc-timeout" else h for h in headers])


def check_trailers(headers: Sequence[Header]) -> bytes:
    """Judge a request's trailers and return their block. Raises MalformedError."""
    _, fields = _split(headers, ())
    return encode(fields)


class BlockReader(Generic[T]):
    """Decodes one connection's header blocks, and remembers what they meant."""

    __slots__ = ("_decoder", "_judge", "_known", "_known_bytes", "_table", "hits", "misses")

    def __init__(self, judge: Callable[[Sequence[Header]], T], list_bytes_max: int) -> None:
        self._judge = judge
        # Twice the limit is still decoded, so that a list that is only too long gets an answer
        # on its stream; what lies beyond would cost too much and ends the connection.
        self._decoder = Decoder(max_header_list_size=2 * list_bytes_max)
        self._decoder.header_table = self._table = _WatchedTable()
        self._known: dict[bytes, T] = {}
        self._known_bytes = 0
        self.hits = 0
        self.misses = 0

    def read(self, block: bytes) -> T:
        """
        Return what `block` means.

        Raises:
            MalformedError: A list that may not be; the connection goes on.
            ProtocolError: A block that cannot be decoded; the connection cannot go on.
        """
        known = self._known.get(block)
        if known is not None:
            self.hits += 1
            return known
        return self._judge_new(block)

    def decode(self, block: bytes) -> list[Header]:
        """Decode `block` without judging or remembering it. Raises ProtocolError."""
        self.misses += 1
        if len(block) > BLOCK_BYTES_MAX:
            raise ProtocolError(ENHANCE_YOUR_CALM, "header block too large", "head_bytes")
        changes = self._table.changes
        if block and block[0] & 0xE0 == 0x20:  # a table size update, perhaps to nothing
            self._table.changes += 1
            if _resizes_often(block):
                raise ProtocolError(COMPRESSION_ERROR, "too many changes of the table's size")
        try:
            headers = cast("list[Header]", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            reason = "header list far too large"
            raise ProtocolError(ENHANCE_YOUR_CALM, reason, "head_bytes") from None
        except (HPACKError, IndexError, ValueError) as error:
            raise ProtocolError(COMPRESSION_ERROR, f"bad header block: {error}") from None
        if self._table.changes != changes:
            self._forget()
        return headers

    def _judge_new(self, block: bytes) -> T:
        changes = self._table.changes
        headers = self.decode(block)
        outcome = self._judge(headers)
        if self._table.changes == changes and len(block) <= KNOWN_BLOCK_BYTES_MAX:
            size = list_bytes(headers)
            if len(self._known) >= BLOCKS_MAX or self._known_bytes + size > KNOWN_BYTES_MAX:
                self._forget()
            if size <= KNOWN_BYTES_MAX:
                self._known[block] = outcome
                self._known_bytes += size
        return outcome

    def _forget(self) -> None:
        self._known.clear()
        self._known_bytes = 0


class _WatchedTable(HeaderTable):
    """HPACK's dynamic table, counting what changes the meaning of an index."""

    def __init__(self) -> None:
        self.changes = 0
        super().__init__()

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    def _shrink(self) -> None:
        self.changes += 1
        super()._shrink()


def _resizes_often(block: bytes) -> bool:
    """Say whether a block begins with more than two table size updates. RFC 7541 section 4.2."""
    at, updates = 0, 0
    while at < len(block) and block[at] & 0xE0 == 0x20 and updates <= RESIZES_MAX:
        updates += 1
        goes_on = block[at] == 0x3F
        at += 1
        while goes_on and at < len(block):
            goes_on = block[at] >= 0x80
            at += 1
    return updates > RESIZES_MAX


def list_bytes(headers: Sequence[Header]) -> int:
    """Return the size of a header list. RFC 9113 section 10.5.1."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


def encode(headers: Sequence[Header]) -> bytes:
    """
    Encode a list without the dynamic table: static references and plain literals.

    A field that came as never indexed goes out so, as RFC 7541 section 6.2.3 asks: it is a secret.
    """
    out = bytearray()
    for header in headers:
        name, value = header
        index, values = _STATIC.get(name, (0, {}))
        exact = values.get(value)
        if exact is not None:
            out += _integer(exact, 7, 0x80)
            continue
        out += _integer(index, 4, 0x00 if getattr(header, "indexable", True) else 0x10)
        if not index:
            out += _integer(len(name), 7, 0x00) + name
        out += _integer(len(value), 7, 0x00) + value
    return bytes(out)


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """Encode an integer after `first`'s high bits. RFC 7541 section 5.1."""
    full = (1 << prefix_bits) - 1
    if value < full:
        return bytes((first | value,))
    out = bytearray((first | full,))
    value -= full
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _split(
    headers: Sequence[Header], allowed: tuple[bytes, ...]
) -> tuple[dict[bytes, bytes], list[Header]]:
    """Part pseudo-header fields from the rest, and judge both. RFC 9113 sections 8.2 and 8.3."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[Header] = []
    for header in headers:
        name, value = header
        if not _VALUE(value):
            raise MalformedError("bad field value")
        if name.startswith(b":"):
            if fields or name in pseudo or name not in allowed:
                raise MalformedError("pseudo-header field repeated, unknown or after others")
            pseudo[name] = value
        elif not _TOKEN(name):
            raise MalformedError("bad field name")
        elif name in _CONNECTION_FIELDS:
            raise MalformedError("connection-specific field")
        else:
            fields.append(header)
    return pseudo, fields


def _authority(authority: bytes | None, hosts: set[bytes]) -> bytes:
    """Return the one name that `:authority` and every Host give. RFC 9113 section 8.3.1."""
    names = hosts if authority is None else hosts | {authority}
    if len({name.lower() for name in names}) != 1:
        raise MalformedError("neither :authority nor host, or two that differ")
    name = next(iter(hosts)) if authority is None else authority
    if not _AUTHORITY(name):
        raise MalformedError("bad :authority")
    return name


def _length(value: bytes, before: int) -> int:
    if not value.isdigit() or len(value) > 18 or (before >= 0 and int(value) != before):
        raise MalformedError("bad content-length")
    return int(value)


def _timeout(seconds: float) -> bytes:
    """Write a `grpc-timeout`: eight digits at most, as fine as they allow, never nothing."""
    for unit, each_s in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0)):
        count = max(1, int(seconds / each_s))
        if count < 10**8:
            return b"%d%s" % (count, unit)
    return b"%dH" % min(int(seconds / 3600), 10**8 - 1)


def _timeout_s(value: bytes) -> float:
    match = _TIMEOUT(value)
    if not match:
        return BAD_TIMEOUT_S
    # 0 would mean none; a timeout of nothing has run out at once.
    return max(int(match[1]) * _TIMEOUT_UNIT_S[match[2]], 1e-9)
