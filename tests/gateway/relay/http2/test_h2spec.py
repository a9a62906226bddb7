"""
What h2spec 2.6 sends to a server and what it allows in return, over a real socket.

The ids are h2spec's: its group (`generic`, `http2`, `hpack`), the section of RFC 7540 or 7541, and the
number of the case there. Requests are the ones it sends, `GET /` and `POST /`, and no gRPC calls.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.relay.http2 import frames
from gateway.relay.http2.frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    frame,
)
from tests.support.children import ending_with_us
from tests.support.h2_socket import H2Socket

ROOT = Path(__file__).parents[4]
WHOLE = END_HEADERS | END_STREAM
PAYLOAD = bytes(8)
PING_0 = frames.ping(PAYLOAD)
DUMMY = b"x" * 4000
NO_WINDOW = frames.settings({4: 0})


@pytest.fixture(scope="module")
def port():
    """The port of a data plane without slices."""
    wanted = json.dumps({"slices": [], "limits": {}, "timeouts": {}})
    command = [sys.executable, "-m", "tests.support.data_plane", wanted]
    with subprocess.Popen(
        ending_with_us(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]
        process.stdin.write(b"\n")
        process.stdin.flush()
        state = json.loads(process.stdout.readline())
        process.stdin.close()
    assert (process.returncode, state["errors"]) == (0, [])


# --- what is sent -----------------------------------------------------------------------------


def request(method=b"GET", *more):
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"127.0.0.1:50050"),
        *more,
    ]


def without(name):
    return [field for field in request() if field[0] != name]


def dummies(count):
    return [(b"x-dummy%d" % n, DUMMY) for n in range(count)]


class Sending:
    """The frames of one case; header blocks share the connection's HPACK table."""

    def __init__(self, client):
        self.client = client
        self.block = client.encoder.encode
        self.frame_bytes = client.settings.get(5, 16384)

    def get(self, stream_id=1, headers=None, flags=WHOLE):
        return frame(
            HEADERS, flags, stream_id, self.block(request() if headers is None else headers)
        )

    def post(self, stream_id=1, *more, flags=END_HEADERS):
        return self.get(stream_id, request(b"POST", *more), flags)

    def get_with(self, extra, before=b""):
        return frame(HEADERS, WHOLE, 1, before + self.block(request()) + extra)

    def more(self, stream_id=1, flags=END_HEADERS):
        return frame(CONTINUATION, flags, stream_id, self.block(dummies(1)))


def data(stream_id=1, flags=END_STREAM, payload=b"test"):
    return frame(DATA, flags, stream_id, payload)


def priority(stream_id=1, dependency=0, weight=255):
    return frame(PRIORITY, 0, stream_id, dependency.to_bytes(4, "big") + bytes((weight,)))


# --- what is allowed in return ----------------------------------------------------------------


def closes_with(*codes):
    """A connection error: GOAWAY with one of the codes, and the connection is closed."""

    def check(client):
        goaway = client.waits_for(GOAWAY)
        assert int.from_bytes(goaway[3][4:8], "big") in codes, goaway
        client.waits_for_close()

    return check


def resets_with(*codes):
    """A stream error: RST_STREAM, or a connection error instead, with one of the codes."""

    def check(client):
        while got := client.waits():
            if got[0] in (RST_STREAM, GOAWAY):
                code = int.from_bytes(got[3][-4:] if got[0] == RST_STREAM else got[3][4:8], "big")
                assert code in codes, client.seen
                return
        raise AssertionError(client.seen)

    return check


def resets_only(code):
    """RST_STREAM of stream 1 with this code, and nothing less."""

    def check(client):
        assert client.waits_for(RST_STREAM)[2:] == (1, code.to_bytes(4, "big"))

    return check


def closes(client):
    client.waits_for_close()


def answers(client):
    assert client.waits_for(HEADERS)[2] == 1


def pongs(client):
    assert client.waits_for(PING)[1:] == (frames.ACK, 0, PAYLOAD)
    assert not [f for f in client.seen if f[0] == GOAWAY]


def sends_data(client):
    assert client.waits_for(DATA)[2] == 1


def sends_one_byte(client):
    assert len(client.waits_for(DATA)[3]) == 1


def acknowledges(client):
    assert client.waits_for(SETTINGS)[1:] == (frames.ACK, 0, b"")


def ended(client):
    """Wait until stream 1 has been answered to its end."""
    while not (got := client.waits_for(DATA))[1] & END_STREAM:
        pass
    assert got[2] == 1


# Each case: (id, what is sent, what is allowed). What is sent is a list; an entry that can be called
# waits for something in between.
ACCEPTED = [
    ("generic/2/1", lambda s: [priority(), PING_0], pongs),
    ("generic/2/2", lambda s: [NO_WINDOW, s.get(), frames.window_update(1, 1)], sends_data),
    (
        "generic/2/3",
        lambda s: [NO_WINDOW, s.get(), priority(), frames.window_update(1, 1)],
        sends_data,
    ),
    ("generic/2/4", lambda s: [s.get(), frames.rst_stream(1, 8), PING_0], pongs),
    ("generic/2/5", lambda s: [s.get(), ended, priority(), PING_0], pongs),
    ("generic/3.1/1", lambda s: [s.post(), data()], answers),
    ("generic/3.1/2", lambda s: [s.post(), data(flags=0), data()], answers),
    (
        "generic/3.1/3",
        lambda s: [s.post(), data(flags=PADDED | END_STREAM, payload=b"\6test" + bytes(6))],
        answers,
    ),
    ("generic/3.2/1, 4/1", lambda s: [s.get()], answers),
    (
        "generic/3.2/2",
        lambda s: [frame(HEADERS, WHOLE | PADDED, 1, b"\6" + s.block(request()) + bytes(6))],
        answers,
    ),
    (
        "generic/3.2/3",
        lambda s: [
            frame(HEADERS, WHOLE | HAS_PRIORITY, 1, bytes(4) + b"\xff" + s.block(request()))
        ],
        answers,
    ),
    ("generic/3.3/1", lambda s: [priority(weight=0), s.get()], answers),
    ("generic/3.3/2", lambda s: [priority(weight=255), s.get()], answers),
    ("generic/3.3/3", lambda s: [priority(3, 1, 0), s.get()], answers),
    ("generic/3.3/4", lambda s: [priority(dependency=1 << 31, weight=0), s.get()], answers),
    ("generic/3.3/5", lambda s: [priority(3), s.get()], answers),
    ("generic/3.4/1", lambda s: [s.get(flags=END_HEADERS), frames.rst_stream(1, 8), PING_0], pongs),
    ("generic/3.5/1, http2/6.5.3/2", lambda s: [frames.settings({2: 0})], acknowledges),
    ("generic/3.7/1, http2/6.7/1", lambda s: [PING_0], pongs),
    ("generic/3.8/1", lambda s: [frames.goaway(0, 0, "h2spec")], closes),
    ("generic/3.9/1", lambda s: [frames.window_update(0, 1), PING_0], pongs),
    ("generic/3.9/2", lambda s: [s.get(), frames.window_update(1, 1)], answers),
    ("generic/4/2", lambda s: [s.get(headers=request(b"HEAD"))], answers),
    ("generic/4/3", lambda s: [s.post(), data()], answers),
    (
        "generic/4/4",
        lambda s: [
            s.post(1, (b"trailer", b"x-test")),
            data(flags=0),
            s.get(headers=[(b"x-test", b"ok")]),
        ],
        answers,
    ),
    ("generic/5/1", lambda s: [s.get_with(b"\xba")], answers),
    ("generic/5/14", lambda s: [s.get_with(b"", b"\x20")], answers),
    ("generic/5/15", lambda s: [s.get_with(b"", b"\x20\x3f\xe1\x1f")], answers),
    ("http2/4.1/1, 5.5/1", lambda s: [frame(0x16, 0, 0, PAYLOAD), PING_0], pongs),
    ("http2/4.1/2", lambda s: [frame(PING, 0x16, 0, PAYLOAD)], pongs),
    ("http2/4.1/3", lambda s: [frame(PING, 0, 1 << 31, PAYLOAD)], pongs),
    ("http2/4.2/1", lambda s: [s.post(), data(payload=b"x" * s.frame_bytes)], answers),
    ("http2/6.5.2/5", lambda s: [frames.settings({0xFF: 1}), acknowledges, PING_0], pongs),
    (
        "http2/6.5.3/1",
        lambda s: [
            frame(SETTINGS, 0, 0, b"\0\4\0\0\0\x64\0\4\0\0\0\1"),
            acknowledges,
            s.get(),
        ],
        sends_one_byte,
    ),
    ("http2/6.7/2", lambda s: [frames.ping(b"invalid\0", frames.ACK), PING_0], pongs),
    ("http2/6.9.1/1", lambda s: [frames.settings({4: 1}), acknowledges, s.get()], sends_one_byte),
    (
        "http2/6.9.2/1",
        lambda s: [NO_WINDOW, acknowledges, s.get(), frames.settings({4: 1}), acknowledges],
        sends_one_byte,
    ),
    (
        "http2/6.9.2/2",
        lambda s: [
            *(frames.settings({4: 3}), acknowledges, s.get(), sends_data),
            *(frames.settings({4: 2}), acknowledges, frames.window_update(1, 2)),
        ],
        sends_one_byte,
    ),
    (
        "http2/6.10/1",
        lambda s: [s.get(flags=END_STREAM), s.more(flags=0), s.more()],
        answers,
    ),
    ("http2/7/1", lambda s: [frames.goaway(0, 0xFF)], closes),
    ("http2/7/2", lambda s: [s.post(), frames.rst_stream(1, 0xFF), PING_0], pongs),
]

# Literals as generic/5 sends them: "user-agent: h2spec" and "x-test: h2spec", plain and Huffman-coded.
LITERALS = [
    b"\x0auser-agent\x06h2spec",
    b"\x87\xb5\x05\xb1\x61\xcc\x5a\x93\x84\x9c\x48\xac\xa4",
    b"\x06x-test\x06h2spec",
    b"\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4",
]
ACCEPTED += [
    (f"generic/5, {name} {n}", lambda s, r=first + literal: [s.get_with(r)], answers)
    for name, first in [("indexed", b"\x40"), ("not indexed", b"\0"), ("never indexed", b"\x10")]
    for n, literal in enumerate(LITERALS)
]

REFUSED = [
    ("http2/4.2/2", lambda s: [s.post(), data(payload=b"x" * (s.frame_bytes + 1))],
     resets_with(FRAME_SIZE_ERROR)),
    ("http2/4.2/3", lambda s: [s.get(headers=[*request(), *dummies(5)])],
     closes_with(FRAME_SIZE_ERROR)),
    ("http2/4.3/1", lambda s: [b"\0\0\1\1\5\0\0\0\1\x40"], closes_with(COMPRESSION_ERROR)),
    ("http2/4.3/2, 6.2/1", lambda s: [s.get(flags=0), priority(), s.more()],
     closes_with(PROTOCOL_ERROR)),
    ("http2/4.3/3, 6.2/2", lambda s: [s.get(flags=0), s.get(3), s.more()],
     closes_with(PROTOCOL_ERROR)),
    ("http2/5.1/1", lambda s: [data()], closes_with(PROTOCOL_ERROR)),
    ("http2/5.1/2, 6.4/2", lambda s: [frames.rst_stream(1, 8)], closes_with(PROTOCOL_ERROR)),
    ("http2/5.1/3", lambda s: [frames.window_update(1, 100)], closes_with(PROTOCOL_ERROR)),
    ("http2/5.1/4", lambda s: [frame(CONTINUATION, END_HEADERS, 1, s.block(request()))],
     closes_with(PROTOCOL_ERROR)),
    ("http2/5.1/5", lambda s: [s.get(), data()], resets_with(STREAM_CLOSED)),
    ("http2/5.1/6, 5.1.1/3", lambda s: [s.get(), s.get()], resets_with(STREAM_CLOSED)),
    ("http2/5.1/7", lambda s: [s.get(), frame(CONTINUATION, END_HEADERS, 1, s.block(request()))],
     resets_with(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("http2/5.1/8", lambda s: [s.get(flags=END_HEADERS), frames.rst_stream(1, 8), data()],
     resets_with(STREAM_CLOSED)),
    ("http2/5.1/9", lambda s: [s.get(flags=END_HEADERS), frames.rst_stream(1, 8), s.get()],
     resets_with(STREAM_CLOSED)),
    ("http2/5.1/10", lambda s: [s.get(flags=END_HEADERS), frames.rst_stream(1, 8), s.more()],
     resets_with(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("http2/5.1/11", lambda s: [s.get(), ended, data()], closes_with(STREAM_CLOSED)),
    ("http2/5.1/12", lambda s: [s.get(), ended, s.get()], closes_with(STREAM_CLOSED)),
    ("http2/5.1/13", lambda s: [s.get(), ended, s.more()],
     closes_with(STREAM_CLOSED, PROTOCOL_ERROR)),
    ("http2/5.1.1/1", lambda s: [s.get(2)], closes_with(PROTOCOL_ERROR)),
    ("http2/5.1.1/2", lambda s: [s.get(5), s.get(3)], closes_with(PROTOCOL_ERROR)),
    ("http2/5.1.2/1",
     lambda s: [NO_WINDOW, *(s.get(2 * n + 1) for n in range(s.client.settings[3] + 1))],
     resets_with(PROTOCOL_ERROR, REFUSED_STREAM)),
    ("http2/5.3.1/1",
     lambda s: [frame(HEADERS, WHOLE | HAS_PRIORITY, 1, b"\0\0\0\1\xff" + s.block(request()))],
     resets_with(PROTOCOL_ERROR)),
    ("http2/5.3.1/2", lambda s: [priority(2, 2)], resets_with(PROTOCOL_ERROR)),
    ("http2/5.4.1/1, 5.4.1/2, 6.7/3", lambda s: [frame(PING, 0, 3, PAYLOAD)],
     closes_with(PROTOCOL_ERROR)),
    ("http2/5.5/2", lambda s: [s.get(flags=END_STREAM), frame(0x16, 0, 0, PAYLOAD)],
     closes_with(PROTOCOL_ERROR)),
    ("http2/6.1/1", lambda s: [data(0)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.1/2", lambda s: [s.get(headers=request(b"POST")), data()],
     resets_with(STREAM_CLOSED)),
    ("http2/6.1/3",
     lambda s: [s.post(1, (b"content-length", b"4")), data(flags=9, payload=b"\6Test")],
     closes_with(PROTOCOL_ERROR)),
    ("http2/6.2/3", lambda s: [s.get(0)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.2/4", lambda s: [_overpadded(s.block(request()))], resets_with(PROTOCOL_ERROR)),
    ("http2/6.3/1", lambda s: [priority(0)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.3/2", lambda s: [s.get(flags=END_HEADERS), frame(PRIORITY, 0, 1, b"\x80\0\0\1")],
     resets_with(FRAME_SIZE_ERROR)),
    ("http2/6.4/1", lambda s: [frames.rst_stream(0, 8)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.4/3", lambda s: [s.get(flags=END_HEADERS), frame(RST_STREAM, 0, 1, b"\0\0\0")],
     closes_with(FRAME_SIZE_ERROR)),
    ("http2/6.5/1", lambda s: [frame(SETTINGS, 1, 0, b"\0")], closes_with(FRAME_SIZE_ERROR)),
    ("http2/6.5/2", lambda s: [frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64")],
     closes_with(PROTOCOL_ERROR)),
    ("http2/6.5/3", lambda s: [frame(SETTINGS, 0, 0, b"\0\3\0")], closes_with(FRAME_SIZE_ERROR)),
    ("http2/6.5.2/1", lambda s: [frames.settings({2: 2})], closes_with(PROTOCOL_ERROR)),
    ("http2/6.5.2/2, 6.9.2/3", lambda s: [frames.settings({4: 2**31})],
     closes_with(FLOW_CONTROL_ERROR)),
    ("http2/6.5.2/3", lambda s: [frames.settings({5: 16383})], closes_with(PROTOCOL_ERROR)),
    ("http2/6.5.2/4", lambda s: [frames.settings({5: 2**24})], closes_with(PROTOCOL_ERROR)),
    ("http2/6.7/4", lambda s: [frame(PING, 0, 0, bytes(6))], closes_with(FRAME_SIZE_ERROR)),
    ("http2/6.8/1", lambda s: [frame(GOAWAY, 0, 1, bytes(8))], closes_with(PROTOCOL_ERROR)),
    ("http2/6.9/1", lambda s: [frames.window_update(0, 0)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.9/2", lambda s: [s.get(flags=END_HEADERS), frames.window_update(1, 0)],
     resets_with(PROTOCOL_ERROR)),
    ("http2/6.9/3", lambda s: [frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")],
     closes_with(FRAME_SIZE_ERROR)),
    ("http2/6.9.1/2", lambda s: [frames.window_update(0, 2**31 - 1)] * 2,
     closes_with(FLOW_CONTROL_ERROR)),
    ("http2/6.9.1/3",
     lambda s: [s.get(flags=END_HEADERS), *[frames.window_update(1, 2**31 - 1)] * 2],
     resets_only(FLOW_CONTROL_ERROR)),
    ("http2/6.10/2", lambda s: [s.post(flags=0), s.more(flags=0), data()],
     closes_with(PROTOCOL_ERROR)),
    ("http2/6.10/3", lambda s: [s.get(flags=END_STREAM), s.more(0)], closes_with(PROTOCOL_ERROR)),
    ("http2/6.10/4", lambda s: [s.get(), s.more()], closes_with(PROTOCOL_ERROR)),
    ("http2/6.10/5", lambda s: [s.get(flags=END_STREAM), s.more(), s.more()],
     closes_with(PROTOCOL_ERROR)),
    ("http2/6.10/6", lambda s: [s.post(flags=0), data(), s.more(flags=0), s.more(0)],
     closes_with(PROTOCOL_ERROR)),
    ("http2/8.1/1", lambda s: [s.post(), data(flags=0), s.get(headers=[(b"x-test", b"ok")], flags=END_HEADERS)],
     resets_with(PROTOCOL_ERROR)),
    ("http2/8.1.2.1/3",
     lambda s: [s.post(), data(flags=0), s.get(headers=[(b":method", b"POST")], flags=END_HEADERS)],
     resets_with(PROTOCOL_ERROR)),
    ("http2/8.1.2.6/1", lambda s: [s.post(1, (b"content-length", b"1")), data()],
     resets_with(PROTOCOL_ERROR)),
    ("http2/8.1.2.6/2", lambda s: [s.post(1, (b"content-length", b"1")), data(flags=0), data()],
     resets_with(PROTOCOL_ERROR)),
    ("http2/8.2/1", lambda s: [frame(5, END_HEADERS, 1, b"\0\0\0\3" + s.block(request()))],
     closes_with(PROTOCOL_ERROR)),
    ("hpack/2.3.3/1", lambda s: [s.get_with(b"\xfe")], closes_with(COMPRESSION_ERROR)),
    ("hpack/2.3.3/2", lambda s: [s.get_with(b"\x7f\x07\x01x")], closes_with(COMPRESSION_ERROR)),
    ("hpack/4.2/1", lambda s: [s.get_with(b"\x21")], closes_with(COMPRESSION_ERROR)),
    ("hpack/5.2/1", lambda s: [s.get_with(b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")],
     closes_with(COMPRESSION_ERROR)),
    ("hpack/5.2/2", lambda s: [s.get_with(b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90")],
     closes_with(COMPRESSION_ERROR)),
    ("hpack/5.2/3", lambda s: [s.get_with(b"\0\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f")],
     closes_with(COMPRESSION_ERROR)),
    ("hpack/6.1/1", lambda s: [s.get_with(b"\x80")], closes_with(COMPRESSION_ERROR)),
    ("hpack/6.3/1", lambda s: [s.get_with(b"", b"\x3f\xe2\x1f")], closes_with(COMPRESSION_ERROR)),
]  # fmt: skip

MALFORMED = [
    ("8.1.2/1", request(b"GET", (b"X-TEST", b"ok"))),
    ("8.1.2.1/1", request(b"GET", (b":test", b"ok"))),
    ("8.1.2.1/2", request(b"GET", (b":status", b"200"))),
    ("8.1.2.1/4", [(b"x-test", b"ok"), *request()]),
    ("8.1.2.2/1", request(b"GET", (b"connection", b"keep-alive"))),
    ("8.1.2.2/2", request(b"GET", (b"trailers", b"test"), (b"te", b"trailers, deflate"))),
    ("8.1.2.3/1", [(name, b"" if name == b":path" else value) for name, value in request()]),
    ("8.1.2.3/2", without(b":method")),
    ("8.1.2.3/3", without(b":scheme")),
    ("8.1.2.3/4", without(b":path")),
    ("8.1.2.3/5", request(b"GET", (b":method", b"GET"))),
    ("8.1.2.3/6", request(b"GET", (b":scheme", b"http"))),
    ("8.1.2.3/7", request(b"GET", (b":path", b"/"))),
]
REFUSED += [
    (f"http2/{name}", lambda s, h=headers: [s.get(headers=h)], resets_only(PROTOCOL_ERROR))
    for name, headers in MALFORMED
]


def _overpadded(block):
    """A HEADERS frame whose padding is one byte longer than what is left of it."""
    return frame(HEADERS, WHOLE | PADDED, 1, bytes((len(block) + 2,)) + block)


@pytest.mark.parametrize(
    ("sent", "check"), [pytest.param(*case[1:], id=case[0]) for case in ACCEPTED + REFUSED]
)
def test_a_case_of_h2spec_ends_as_it_allows(port, sent, check):
    with H2Socket(port) as client:
        for piece in sent(Sending(client)):
            if callable(piece):
                piece(client)
            else:
                client.sends(piece)
        check(client)


@pytest.mark.parametrize("cut", [5, 10])
def test_a_head_in_continuations_is_answered(port, cut):
    """generic/3.10/1 and 2."""
    with H2Socket(port) as client:
        block = client.encoder.encode(request())
        client.sends(frame(HEADERS, END_STREAM, 1, block[:5]))
        if cut > 5:
            client.sends(frame(CONTINUATION, 0, 1, block[5:cut]))
        client.sends(frame(CONTINUATION, END_HEADERS, 1, block[cut:]))
        answers(client)


def test_the_preface_is_answered_with_settings_first(port):
    """generic/1/1 and http2/3.5/1."""
    with H2Socket(port, greets=False) as client:
        client.sends(frames.PREFACE, frames.settings({4: 65535}))
        client.waits()
        assert client.seen[0][:3] == (SETTINGS, 0, 0)


def test_what_is_no_preface_ends_the_connection(port):
    """http2/3.5/2."""
    with H2Socket(port, greets=False) as client:
        client.sends(b"INVALID CONNECTION PREFACE\r\n\r\n")
        assert client.waits_for_close().startswith(b"HTTP/1.1 400")
