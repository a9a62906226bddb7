"""Chunked bodies: where the data lies, and where the message ends. RFC 9112 section 7.1."""

import re
from typing import Final

from gateway.errors import BAD_REQUEST, BODY_TOO_LARGE, Fault
from gateway.relay.http1.grammar import NOT_IN_TRAILERS, TOKEN, MalformedError, read_fields

EXTENSION_BYTES_MAX: Final = 256
"""Of one chunk's extension; together at most EXTENSIONS_BYTES_MAX (CVE-2023-39326 is their flood)."""
EXTENSIONS_BYTES_MAX: Final = 16 * 1024
TRAILER_BYTES_MAX: Final = 8 * 1024
TRAILERS_MAX: Final = 64
RANGES_MAX: Final = 512
"""Chunks that are read at a time: a read may bring 40,000."""

_QUOTED: Final = rb'"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]*"'
_EXTENSION: Final = rb";" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + _QUOTED + rb"))?"
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:" + _EXTENSION + rb")*)\r\n")
_SIZE_LINE_MAX: Final = 16 + EXTENSION_BYTES_MAX + 2
_LINE_SO_FAR: Final = re.compile(rb"(?:[\t\x20-\x7e\x80-\xff]*\r?)?")

JOINED_BYTES_MAX: Final = 4096
"""Of a chunk that is copied to be one piece with its frame."""
LAST_CHUNK: Final = b"0\r\n\r\n"

# What the next byte belongs to.
_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILER: Final = 3
_DONE: Final = 4


class ChunkedBody:
    """
    An incremental reader of one chunked body. Extensions are dropped, trailers kept and filtered.

    Attributes:
        done: The message has ended.
        trailers: Header lines after the body that may be passed on, each with its CRLF.
        fault: Why `feed` gave up: BAD_REQUEST with its cause, or BODY_TOO_LARGE.
    """

    __slots__ = (
        "_body_left",
        "_extensions_left",
        "_held",
        "_left",
        "_state",
        "_trailer_count",
        "_trailers_left",
        "fault",
        "trailers",
    )

    def __init__(self, body_bytes_max: int) -> None:
        self.fault: Fault | None = None
        self.trailers = b""
        self._state = _SIZE
        self._held = b""  # a line that has not come to its end
        self._left = 0  # of the chunk
        self._body_left = body_bytes_max
        self._extensions_left = EXTENSIONS_BYTES_MAX
        self._trailers_left = TRAILER_BYTES_MAX
        self._trailer_count = 0

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes, at: int, ranges: list[tuple[int, int]]) -> int:
        """
        Read on in `data` from offset `at`.

        Args:
            ranges: (start, end) offsets of body data within `data` are appended here, up to
                RANGES_MAX of them.

        Returns:
            Where reading stopped: at the end of the message or of `data`, or because `ranges` is
            full; -1 when the message is malformed or too large, see `fault`. What was appended to
            `ranges` is then not to be used.
        """
        end = len(data)
        while at < end and self._state != _DONE and len(ranges) < RANGES_MAX:
            if self._state == _DATA:
                stop = min(end, at + self._left)
                ranges.append((at, stop))
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._state = _DATA_END
                continue
            line_end = data.find(b"\n", at) + 1
            line = self._held + data[at : line_end or end]
            if not line_end:
                if not self._may_go_on(line):
                    return -1
                self._held = line
                return end
            self._held = b""
            at = line_end
            if not self._line(line):
                return -1
        return at

    def _may_go_on(self, line: bytes) -> bool:
        """Refuse a line that cannot end well, before more of it comes."""
        longest = 2 if self._state == _DATA_END else _SIZE_LINE_MAX
        if self._state == _TRAILER:
            longest = self._trailers_left
        if len(line) >= longest:
            return self._bad("a line is too long")
        if not _LINE_SO_FAR.fullmatch(line):
            return self._bad("a line holds a control character")
        if self._state == _DATA_END and line != b"\r":
            return self._bad("a chunk is longer than its size")
        return True

    def _line(self, line: bytes) -> bool:
        """Take a line in, with its LF; return False, with `fault` set, when it is not allowed."""
        if self._state == _DATA_END:
            if line != b"\r\n":
                return self._bad("a chunk is longer than its size")
            self._state = _SIZE
            return True
        if self._state == _TRAILER:
            return self._trailer(line)
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            return self._bad("a chunk size is not a hexadecimal number on a line of its own")
        extension = len(match[2])
        self._extensions_left -= extension
        if extension > EXTENSION_BYTES_MAX or self._extensions_left < 0:
            return self._bad("chunk extensions are too long")
        size = int(match[1], 16)
        if size > self._body_left:
            self.fault = BODY_TOO_LARGE
            return False
        self._body_left -= size
        self._left = size
        self._state = _DATA if size else _TRAILER
        return True

    def _trailer(self, line: bytes) -> bool:
        if line == b"\r\n":
            self._state = _DONE
            return True
        self._trailers_left -= len(line)
        self._trailer_count += 1
        if self._trailers_left < 0 or self._trailer_count > TRAILERS_MAX:
            return self._bad("trailers are too long")
        if not line.endswith(b"\r\n"):
            return self._bad("a trailer ends with a bare LF")
        try:
            [(name, _, text)] = read_fields([line[:-2]])
        except MalformedError as error:
            return self._bad(f"trailer: {error}")
        if name not in NOT_IN_TRAILERS:
            self.trailers += text + b"\r\n"
        return True

    def _bad(self, reason: str) -> bool:
        self.fault = BAD_REQUEST.because(f"chunked body: {reason}")
        return False


def taken_from(data: bytes, ranges: list[tuple[int, int]]) -> bytes:
    """Return the body data that lies in `ranges`."""
    if len(ranges) == 1:
        start, end = ranges[0]
        return data[start:end]
    return b"".join([data[start:end] for start, end in ranges])


def framed(data: bytes, ranges: list[tuple[int, int]], chunks: ChunkedBody) -> list[bytes]:
    """
    Return what `chunks` read from `data` in our own framing: one chunk, then the end if it came.

    One chunk for each read, so never finer than it came: Triton refuses bodies of many chunks. And
    few pieces, for they may be kept for long, and small ones take many times their size.
    """
    pieces: list[bytes] = []
    size = sum(end - start for start, end in ranges)
    if 0 < size <= JOINED_BYTES_MAX:
        pieces.append(b"%x\r\n%s\r\n" % (size, taken_from(data, ranges)))
    elif size:
        pieces += (b"%x\r\n" % size, taken_from(data, ranges), b"\r\n")
    if chunks.done:
        pieces.append(b"0\r\n%s\r\n" % chunks.trailers if chunks.trailers else LAST_CHUNK)
    return pieces
