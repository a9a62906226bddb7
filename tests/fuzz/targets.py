"""
What is fuzzed: each target takes any bytes and raises only when the gateway is wrong.

The seeds of a target are run by `tests/fuzz/test_seeds.py` with the rest of the tests; `make fuzz`
looks for more (see tests/fuzz/run.py).
"""

from collections.abc import Callable
from typing import Any, Final

import httptools
from hpack.hpack import Decoder

from gateway.errors import Fault
from gateway.limits import Limits
from gateway.relay.http1.answer_head import AnswerHead, judge_answer
from gateway.relay.http1.body import ChunkedBody, framed
from gateway.relay.http1.grammar import CHUNKED
from gateway.relay.http1.head import RequestHead, judge_request
from gateway.relay.http2.frames import ProtocolError
from gateway.relay.http2.framing import FrameReader
from gateway.relay.http2.headers import Answer, BlockReader, MalformedError, Request
from tests.gateway.relay.http1.llhttp import Reading
from tests.gateway.relay.http1.llhttp import Request as LlhttpRequest
from tests.gateway.relay.http1.stage import OK, Stage
from tests.support.h2_stage import Stage as H2Stage

LIMITS: Final = Limits()


def request_head(data: bytes) -> None:
    """What is accepted means the same when it is read again, and the same to llhttp."""
    raw = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    head = judge_request(raw, LIMITS)
    if isinstance(head, Fault):
        return
    again = judge_request(head.upstream, LIMITS)
    assert isinstance(again, RequestHead), again
    assert again.unchanged
    assert (again.length, again.is_head, again.route) == (head.length, head.is_head, head.route)
    reading = LlhttpRequest(head.upstream)
    lengths = [int(value) for name, value in reading.headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in reading.headers)
    assert ([CHUNKED] if chunked else lengths or [0]) == [head.length]


def answer_head(data: bytes) -> None:
    """What is accepted means the same when it is read again."""
    raw = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    head = judge_answer(raw, LIMITS)
    if isinstance(head, Fault):
        return
    again = judge_answer(head.for_client, LIMITS)
    assert isinstance(again, AnswerHead), again
    assert again.for_client == head.for_client
    assert again.status == head.status
    assert again.length == head.length or head.length < 0
    for http10 in (False, True):
        assert isinstance(judge_answer(head.form(http10, False), LIMITS), AnswerHead)


def _chunked(pieces: list[bytes]) -> tuple[bytes, bytes, bool, Fault | None]:
    """Return what a chunked body holds: (data, the same in our framing, its end came, fault)."""
    chunks = ChunkedBody(1 << 20)
    body, out = b"", b""
    for piece in pieces:
        ranges: list[tuple[int, int]] = []
        if chunks.feed(piece, 0, ranges) < 0:
            return body, out, False, chunks.fault
        body += b"".join(piece[start:end] for start, end in ranges)
        out += b"".join(framed(piece, ranges, chunks)) if not chunks.done or piece else b""
        if chunks.done:
            break
    return body, out, chunks.done, None


def chunked_body(data: bytes) -> None:
    """A body means the same however it is cut, and after it was framed anew."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    body, out, done, fault = _chunked([data])
    in_bytes = _chunked([data[at : at + 1] for at in range(len(data))])
    at = cut % (len(data) + 1)
    in_two = _chunked([data[:at], data[at:]])
    assert (in_bytes[2], in_bytes[3] is None) == (in_two[2], in_two[3] is None) == (done, not fault)
    if fault is None:
        assert in_bytes[0] == in_two[0] == body
        again = _chunked([out])
        assert (again[0], again[2], again[3]) == (body, done, None)


def http1_connection(data: bytes) -> None:
    """Whatever a client sends in whatever pieces, a slice only gets what llhttp can read too."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    stage = Stage()
    client = stage.client()
    at = cut * len(data) // 255
    for piece in (data[:at], data[at:]):
        client.sends(piece)
        stage.run()
        for connection in list(stage.connections.get(stage.port("a"), [])):
            sent = bytes(connection.sent)
            reader = Reading()
            reader.parser = httptools.HttpRequestParser(reader)
            reader.parser.feed_data(sent)
            if reader.complete and not connection.closing:
                assert reader.complete == 1, sent
                connection.sent.clear()
                connection.sends(OK)
                stage.run()
    client.resets()
    stage.run()
    if not stage.idle:  # a slice that was asked and has not answered
        stage.pass_time(700)
    assert stage.idle


class _Told(FrameReader):
    """Writes down what it is told; pieces of DATA are joined."""

    def __init__(self) -> None:
        super().__init__(LIMITS.frame_bytes, LIMITS.continuations)
        self.told: list[Any] = []
        self.yielded = False

    def yield_turn(self) -> None:
        super().yield_turn()
        self.yielded = True

    def on_headers(self, stream_id: int, block: bytes, ends: bool) -> None:
        self.told.append(("headers", stream_id, bytes(block), ends))

    def on_data(self, stream_id: int, data: Any, size: int, ends: bool) -> None:
        data = bytes(data)
        if self.told and self.told[-1][:2] == ("data", stream_id) and not self.told[-1][4]:
            _, _, before, counted, _ = self.told.pop()
            data, size = before + data, counted + size
        self.told.append(("data", stream_id, data, size, ends))

    def on_reset(self, stream_id: int, code: int) -> None:
        self.told.append(("reset", stream_id, code))

    def on_settings(self, entries: list[tuple[int, int]]) -> None:
        self.told.append(("settings", entries))

    def on_ping(self, payload: bytes) -> None:
        self.told.append(("ping", bytes(payload)))

    def on_goaway(self, last_stream_id: int, code: int) -> None:
        self.told.append(("goaway", last_stream_id, code))

    def on_window_update(self, stream_id: int, increment: int) -> None:
        self.told.append(("window", stream_id, increment))

    def is_idle_stream(self, stream_id: int) -> bool:
        return False

    def spend(self, what: str) -> None:
        """A budget without end."""


def _frames(pieces: list[bytes]) -> tuple[list[Any], str]:
    reader = _Told()
    try:
        for piece in pieces:
            reader.read_frames(piece)
            while reader.yielded:
                reader.yielded = False
                reader.read_frames(b"")
    except ProtocolError as error:
        return reader.told, str(error)
    return reader.told, ""


def http2_frames(data: bytes) -> None:
    """Frames mean the same however the bytes are cut, up to the first that is wrong."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    at = cut * len(data) // 255
    whole = _frames([data])
    _same(_frames([data[:at], data[at:]]), whole)
    _same(_frames([data[n : n + 1] for n in range(len(data))]), whole)


def _same(one: tuple[list[Any], str], other: tuple[list[Any], str]) -> None:
    """Of a frame that has not come to its end, one may have been told more than the other."""
    (less, less_error), (more, more_error) = sorted((one, other), key=lambda it: len(it[0]))
    assert less_error in ("", more_error) or more_error == ""
    # A frame that is waited for cannot have been the reason for anything but its own DATA.
    assert len(more) <= len(less) + 1
    if less and less[-1][0] == "data" and not less[-1][4]:
        mine, theirs = less.pop(), more[len(less)]
        assert mine[:2] == theirs[:2]
        assert mine[2].startswith(theirs[2]) or theirs[2].startswith(mine[2])
    assert more[: len(less)] == less


def http2_headers(data: bytes) -> None:
    """A block that is remembered means what it meant, and what is sent on decodes to it."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    for judge in (Request, Answer):
        reader: BlockReader[Any] = BlockReader(judge, LIMITS.head_bytes)
        at = cut * len(data) // 255
        for block in (data[:at], data[at:], data[:at], data[at:]):
            try:
                outcome = reader.read(block)
            except MalformedError:
                continue
            except ProtocolError:
                break
            sent = Decoder(max_header_list_size=1 << 24).decode(outcome.block, raw=True)
            assert judge(sent).block == outcome.block


def http2_connection(data: bytes) -> None:
    """Whatever frames a client sends, nothing is raised, and the slice, an `h2`, takes them all."""
    stage = H2Stage("a")
    client = stage.raw_client()
    cut, data = (data[0], data[1:]) if data else (0, b"")
    at = cut * len(data) // 255
    client.sends(data[:at])
    client.sends(data[at:])
    stage.advance(1.0)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "request_head": request_head,
    "answer_head": answer_head,
    "chunked_body": chunked_body,
    "http1_connection": http1_connection,
    "http2_frames": http2_frames,
    "http2_headers": http2_headers,
    "http2_connection": http2_connection,
}
