"""The stand-in slices are correct peers, however the bytes arrive."""

import asyncio
import json
from itertools import pairwise

import h2.config
import h2.connection
import h2.events
import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from bench import cells, standin_grpc, standin_http

HTTP_HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\ncontent-length: 2000\r\n\r\n"
HTTP_STREAM = (HTTP_HEAD + b"x" * 2000) * 2 + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what a protocol writes."""

    def __init__(self):
        super().__init__()
        self.written = b""

    def write(self, data):
        self.written += data


def feed(protocol, data, cuts=()):
    """Give `data` to a buffered protocol, cut at `cuts`, as an event loop does."""
    edges = [0, *sorted(cuts), len(data)]
    for at, end in pairwise(edges):
        left = data[at:end]
        while left:
            buffer = protocol.get_buffer(-1)
            taken = min(len(buffer), len(left))
            buffer[:taken] = left[:taken]
            protocol.buffer_updated(taken)
            left = left[taken:]


def http_standin():
    protocol, wire = standin_http.StandIn(standin_http.answers(dynamic_batching=True)), Wire()
    protocol.connection_made(wire)
    return protocol, wire


@given(cuts=st.lists(st.integers(0, len(HTTP_STREAM)), max_size=6))
def test_every_http_request_is_answered_once_wherever_it_is_cut(cuts):
    protocol, wire = http_standin()
    feed(protocol, HTTP_STREAM, cuts)
    live = standin_http.answer(b"200 OK")
    assert wire.written == standin_http.INFER_ANSWER * 2 + live


def test_no_http_answer_is_given_before_the_body_has_ended():
    protocol, wire = http_standin()
    feed(protocol, HTTP_HEAD + b"x" * 1999)
    assert wire.written == b""
    feed(protocol, b"x")
    assert wire.written == standin_http.INFER_ANSWER


def test_an_unknown_path_gets_404():
    protocol, wire = http_standin()
    feed(protocol, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.written.startswith(b"HTTP/1.1 404 ")


def test_the_model_is_ready_in_the_repository_index():
    index = standin_http.answers(dynamic_batching=True)[b"/v2/repository/index"]
    assert json.loads(index.partition(b"\r\n\r\n")[2]) == [
        {"name": "m", "version": "1", "state": "READY"}
    ]


class Grpc:
    """h2 as the client of one stand-in connection."""

    def __init__(self, table_bytes=4096):
        self.protocol, self.wire = standin_grpc.StandIn(cells.grpc_response()), Wire()
        self.protocol.connection_made(self.wire)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.client.initiate_connection()
        if table_bytes != 4096:
            self.client.update_settings({SettingCodes.HEADER_TABLE_SIZE: table_bytes})

    def begin(self, body=None):
        """Send one request; a body needs the slice's SETTINGS first, for its windows."""
        stream = self.client.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]
        fields += [(":path", cells.GRPC_PATH), *cells.GRPC_HEADERS]
        self.client.send_headers(stream, fields, end_stream=body is None)
        for start in range(0, len(body or b""), 16384):
            self.client.send_data(stream, body[start : start + 16384])
        if body is not None:
            self.client.end_stream(stream)
        return stream

    def exchange(self, cuts=()):
        """Hand over what the client has to say, and return what it makes of the answer."""
        data = self.client.data_to_send()
        feed(self.protocol, data, [min(cut, len(data)) for cut in cuts])
        events = self.client.receive_data(self.wire.written)
        self.wire.written = b""
        return events


def answered(events):
    """Return, per stream that ended, the status, the message and the grpc-status."""
    found = {}
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            found[event.stream_id] = [dict(event.headers)[":status"]]
        elif isinstance(event, h2.events.DataReceived):
            found[event.stream_id].append(event.data)
        elif isinstance(event, h2.events.TrailersReceived):
            found[event.stream_id].append(dict(event.headers)["grpc-status"])
    return {stream: tuple(parts) for stream, parts in found.items()}


RIGHT = ("200", cells.grpc_response(), "0")


@pytest.mark.parametrize("table_bytes", [4096, 0])
def test_h2_accepts_the_answers_of_a_connection(table_bytes):
    """The first answer fills the dynamic table and the next ones use it, where there is one."""
    grpc = Grpc(table_bytes)
    grpc.exchange()
    for _ in range(3):
        stream = grpc.begin(b"x" * 512)
        assert answered(grpc.exchange()) == {stream: RIGHT}


@given(cuts=st.lists(st.integers(0, 70_000), max_size=8))
def test_every_grpc_request_is_answered_once_wherever_it_is_cut(cuts):
    grpc = Grpc()
    grpc.exchange()
    streams = [grpc.begin(b"x" * 512), grpc.begin(b"x" * 60_000), grpc.begin()]
    assert answered(grpc.exchange(cuts)) == dict.fromkeys(streams, RIGHT)


def test_a_connection_never_runs_out_of_credit():
    """More than the connection's window in all, each stream within its own."""
    grpc = Grpc()
    grpc.exchange()
    body = bytes(cells.IMAGE_BYTES)
    for _ in range(2 * standin_grpc.CONNECTION_WINDOW // len(body)):
        stream = grpc.begin(body)
        assert answered(grpc.exchange()) == {stream: RIGHT}


def test_a_ping_is_answered():
    grpc = Grpc()
    grpc.client.ping(b"12345678")
    assert any(isinstance(event, h2.events.PingAckReceived) for event in grpc.exchange())
