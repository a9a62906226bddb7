"""
What h2spec asks of a server, case by case, with its section numbers.

Those numbers are RFC 7540's; RFC 9113 has the same rules, most under the same numbers.
"""

import pytest

from gateway.limits import Limits
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
from tests.support.h2_peers import STATISTICS, head

WHOLE = END_HEADERS | END_STREAM
EMPTY = b""


def block(client, headers=None):
    return client.encoder.encode(head(STATISTICS) if headers is None else headers)


def opened(client):
    """Stream 1 is open: its head has been sent, its end has not."""
    client.opens(1, ends=False)


def half_closed(client):
    """Stream 1 has been ended by the client and waits for its answer."""
    client.opens(1)


def reset(client):
    """Stream 1 has been reset by the client."""
    client.opens(1, ends=False)
    client.sends(frames.rst_stream(1, frames.CANCEL))


def closed(client):
    """Stream 1 has been answered to its end."""
    client.opens(1)
    client.stage.slice("a").call().answers()


def idle(client):
    """No stream has been opened."""


def in_a_block(client):
    """A header block for stream 1 has begun."""
    client.sends(frame(HEADERS, END_STREAM, 1, block(client)[:5]))


CONNECTION_ERRORS = [
    ("4.2/2", opened, lambda c: frame(DATA, 0, 1, b"x" * 16385), FRAME_SIZE_ERROR),
    ("4.2/3", idle, lambda c: frame(HEADERS, WHOLE, 1, b"x" * 16385), FRAME_SIZE_ERROR),
    ("4.3/1", idle, lambda c: frame(HEADERS, WHOLE, 1, b"\xff\xff\xff"), COMPRESSION_ERROR),
    ("4.3/2", in_a_block, lambda c: frame(PRIORITY, 0, 1, b"\0\0\0\0\0"), PROTOCOL_ERROR),
    ("4.3/3", in_a_block, lambda c: frame(HEADERS, WHOLE, 3, block(c)), PROTOCOL_ERROR),
    ("5.1/1", idle, lambda c: frame(DATA, 1, 1, b"x"), PROTOCOL_ERROR),
    ("5.1/2", idle, lambda c: frames.rst_stream(1, 8), PROTOCOL_ERROR),
    ("5.1/3", idle, lambda c: frames.window_update(1, 100), PROTOCOL_ERROR),
    ("5.1/4", idle, lambda c: frame(CONTINUATION, 4, 1, block(c)), PROTOCOL_ERROR),
    ("5.1/5", half_closed, lambda c: frame(DATA, 1, 1, b"x"), STREAM_CLOSED),
    ("5.1/6", half_closed, lambda c: frame(HEADERS, WHOLE, 1, block(c)), STREAM_CLOSED),
    ("5.1/7", half_closed, lambda c: frame(CONTINUATION, 4, 1, block(c)), PROTOCOL_ERROR),
    ("5.1/8", reset, lambda c: frame(DATA, 1, 1, b"x"), STREAM_CLOSED),
    ("5.1/9", reset, lambda c: frame(HEADERS, WHOLE, 1, block(c)), STREAM_CLOSED),
    ("5.1/10", reset, lambda c: frame(CONTINUATION, 4, 1, block(c)), PROTOCOL_ERROR),
    ("5.1/11", closed, lambda c: frame(DATA, 1, 1, b"x"), STREAM_CLOSED),
    ("5.1/12", closed, lambda c: frame(HEADERS, WHOLE, 1, block(c)), STREAM_CLOSED),
    ("5.1/13", closed, lambda c: frame(CONTINUATION, 4, 1, block(c)), PROTOCOL_ERROR),
    ("5.1.1/1", idle, lambda c: c.head(2), PROTOCOL_ERROR),
    ("5.1.1/2", idle, lambda c: c.head(1) + c.head(5) + c.head(3), PROTOCOL_ERROR),
    ("5.1.1/2, first", idle, lambda c: c.head(5) + c.head(3), PROTOCOL_ERROR),
    (
        "5.3.1/1",
        idle,
        lambda c: frame(HEADERS, WHOLE | HAS_PRIORITY, 1, b"\0\0\0\1\0" + block(c)),
        PROTOCOL_ERROR,
    ),
    ("5.3.1/2", opened, lambda c: frame(PRIORITY, 0, 1, b"\0\0\0\1\0"), PROTOCOL_ERROR),
    ("5.5/2", in_a_block, lambda c: frame(0x16, 0, 0, b"12345678"), PROTOCOL_ERROR),
    ("6.1/1", idle, lambda c: frame(DATA, 1, 0, b"x"), PROTOCOL_ERROR),
    ("6.1/3", opened, lambda c: frame(DATA, PADDED, 1, b"\6Test"), PROTOCOL_ERROR),
    ("6.1, empty", opened, lambda c: frame(DATA, PADDED, 1, EMPTY), FRAME_SIZE_ERROR),
    ("6.2/3", idle, lambda c: frame(HEADERS, WHOLE, 0, block(c)), PROTOCOL_ERROR),
    ("6.2/3, padded", idle, lambda c: frame(HEADERS, WHOLE | PADDED, 0, b"\0"), PROTOCOL_ERROR),
    (
        "6.2/4",
        idle,
        lambda c: frame(HEADERS, WHOLE | PADDED, 1, b"\xf0" + block(c)),
        PROTOCOL_ERROR,
    ),
    (
        "6.2, short priority",
        idle,
        lambda c: frame(HEADERS, WHOLE | HAS_PRIORITY, 1, b"\0\0"),
        FRAME_SIZE_ERROR,
    ),
    ("6.3/1", idle, lambda c: frame(PRIORITY, 0, 0, b"\0\0\0\0\0"), PROTOCOL_ERROR),
    ("6.3/2", opened, lambda c: frame(PRIORITY, 0, 1, b"\0\0\0\0"), FRAME_SIZE_ERROR),
    ("6.4/1", idle, lambda c: frames.rst_stream(0, 8), PROTOCOL_ERROR),
    ("6.4/3", opened, lambda c: frame(RST_STREAM, 0, 1, b"\0\0\0"), FRAME_SIZE_ERROR),
    ("6.5/1", idle, lambda c: frame(SETTINGS, 1, 0, b"\0"), FRAME_SIZE_ERROR),
    ("6.5/2", idle, lambda c: frame(SETTINGS, 0, 1, b"\0\3\0\0\0\1"), PROTOCOL_ERROR),
    ("6.5/3", idle, lambda c: frame(SETTINGS, 0, 0, b"\0\3\0"), FRAME_SIZE_ERROR),
    ("6.5.2/1", idle, lambda c: frames.settings({2: 2}), PROTOCOL_ERROR),
    ("6.5.2/2", idle, lambda c: frames.settings({4: 2**31}), FLOW_CONTROL_ERROR),
    ("6.5.2/3", idle, lambda c: frames.settings({5: 16383}), PROTOCOL_ERROR),
    ("6.5.2/4", idle, lambda c: frames.settings({5: 2**24}), PROTOCOL_ERROR),
    ("6.7/3", idle, lambda c: frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    ("6.7/4", idle, lambda c: frame(PING, 0, 0, b"123456"), FRAME_SIZE_ERROR),
    ("6.8/1", idle, lambda c: frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL_ERROR),
    ("6.8, short", idle, lambda c: frame(GOAWAY, 0, 0, b"\0" * 7), FRAME_SIZE_ERROR),
    ("6.9/1", idle, lambda c: frames.window_update(0, 0), PROTOCOL_ERROR),
    ("6.9/2", opened, lambda c: frames.window_update(1, 0), PROTOCOL_ERROR),
    ("6.9/3", idle, lambda c: frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), FRAME_SIZE_ERROR),
    ("6.9.1/2", idle, lambda c: frames.window_update(0, 2**31 - 1), FLOW_CONTROL_ERROR),
    (
        "6.9.2, overflow by SETTINGS",
        opened,
        lambda c: frames.window_update(1, 2**31 - 1 - 65535) + frames.settings({4: 65536}),
        FLOW_CONTROL_ERROR,
    ),
    ("6.10/2", in_a_block, lambda c: frame(DATA, 1, 1, b"x"), PROTOCOL_ERROR),
    ("6.10/3", in_a_block, lambda c: frame(CONTINUATION, 4, 0, b"x"), PROTOCOL_ERROR),
    (
        "6.10/4",
        opened,
        lambda c: frame(CONTINUATION, END_HEADERS, 1, block(c)),
        PROTOCOL_ERROR,
    ),
    (
        "6.10/6",
        opened,
        lambda c: frame(DATA, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1, b""),
        PROTOCOL_ERROR,
    ),
    ("8.2/1", opened, lambda c: frame(5, 4, 1, b"\0\0\0\2" + block(c)), PROTOCOL_ERROR),
    (
        "hpack 2.3.3/1",
        idle,
        lambda c: frame(HEADERS, WHOLE, 1, block(c) + b"\xfe"),
        COMPRESSION_ERROR,
    ),
    (
        "hpack 2.3.3/2",
        idle,
        lambda c: frame(HEADERS, WHOLE, 1, b"\x7f\x30\1x"),
        COMPRESSION_ERROR,
    ),
    (
        "hpack 4.2/1",
        idle,
        lambda c: frame(HEADERS, WHOLE, 1, block(c) + b"\x21"),
        COMPRESSION_ERROR,
    ),
    ("hpack 6.1/1", idle, lambda c: frame(HEADERS, WHOLE, 1, b"\x80"), COMPRESSION_ERROR),
    (
        "hpack 6.3/1",
        idle,
        lambda c: frame(HEADERS, WHOLE, 1, b"\x3f\xe2\x1f" + block(c)),
        COMPRESSION_ERROR,
    ),
]


@pytest.mark.parametrize(
    ("state", "wrong", "code"),
    [pytest.param(*case[1:], id=case[0]) for case in CONNECTION_ERRORS],
)
def test_a_connection_error_is_a_goaway_that_can_be_read_and_then_a_close(
    stage, state, wrong, code
):
    client = stage.raw_client()
    state(client)
    client.sends(wrong(client))
    assert client.goaway is not None
    assert client.goaway[0] == code, client.goaway
    assert client.frames[-1][0] == GOAWAY
    assert client.closed
    stage.assert_at_rest()


def test_the_first_frame_is_settings_and_the_client_s_are_acknowledged(stage):
    """3.4/1, 3.5/1, 6.5.3/2."""
    client = stage.raw_client()
    assert client.frames[0][0] == SETTINGS
    assert (SETTINGS, frames.ACK, 0, b"") in client.frames


def test_a_wrong_preface_is_an_error(stage):
    """3.5/2."""
    client = stage.raw_client(greets=False)
    client.sends(b"INVALID CONNECTION PREFACE\r\n\r\n")
    assert client.goaway[0] == PROTOCOL_ERROR
    assert client.closed


@pytest.mark.parametrize("code", [frames.NO_ERROR, 0xFF])
def test_a_client_s_goaway_ends_a_connection_without_calls(stage, code):
    """Also with an unknown code (7/1). Nothing is asked of the client first: it has gone."""
    client = stage.raw_client()
    client.sends(frames.goaway(0, code, "bye"))
    assert client.goaway[0] == frames.NO_ERROR
    assert client.closed


def test_a_request_before_settings_is_an_error(stage):
    client = stage.raw_client(greets=False)
    client.sends(frames.PREFACE + client.head(1))
    assert client.goaway[0] == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(frame(0x16, 0, 0, b"12345678"), id="4.1/1, 5.5/1 unknown frame"),
        pytest.param(frame(0x16, 0, 9, b"x" * 16384), id="a large unknown frame"),
        pytest.param(frame(0x16, 0, 9, b""), id="an empty unknown frame"),
        pytest.param(frames.settings({0xFF: 1}), id="6.5.2/5 unknown setting"),
        pytest.param(frames.settings({4: 100, 3: 1}), id="several settings"),
    ],
)
def test_what_is_unknown_is_ignored(stage, odd):
    client = stage.raw_client()
    client.sends(odd)
    client.sends(frame(PING, 0x16, 0x80000000, b"12345678"))  # 4.1/2, 4.1/3: flags, reserved bit
    assert client.got(PING)[-1][1:] == (frames.ACK, 0, b"12345678")


def test_a_ping_answer_is_not_answered(stage):
    """6.7/2."""
    client = stage.raw_client()
    client.sends(frames.ping(b"12345678", frames.ACK))
    client.sends(frames.ping(b"abcdefgh"))
    assert [f[3] for f in client.got(PING)] == [b"abcdefgh"]


def test_a_reset_with_an_unknown_code_is_a_reset(stage):
    """7/2."""
    client = stage.raw_client()
    client.opens(1, ends=False)
    client.sends(frames.rst_stream(1, 0xFF), frames.ping(b"12345678"))
    assert client.got(PING)
    assert client.goaway is None


def test_a_block_in_many_continuations_is_one_block(stage):
    """6.10/1."""
    client = stage.raw_client()
    whole = block(client)
    client.sends(
        frame(HEADERS, END_STREAM, 1, whole[:4]),
        *(frame(CONTINUATION, 0, 1, whole[i : i + 1]) for i in range(4, 10)),
        frame(CONTINUATION, END_HEADERS, 1, whole[10:]),
    )
    assert stage.slice("a").call().ended


def test_a_padded_head_with_priority_is_read(stage):
    client = stage.raw_client()
    payload = b"\5\0\0\0\0\7" + block(client) + b"\0" * 5
    client.sends(frame(HEADERS, WHOLE | PADDED | HAS_PRIORITY, 1, payload))
    assert stage.slice("a").call().ended


def test_streams_above_the_bound_are_refused(stage):
    """5.1.2/1."""
    client = stage.raw_client()
    bound = stage.core.limits.streams
    client.sends(*(client.head(2 * i + 1, ends=False) for i in range(bound + 1)))
    assert client.reset_code(2 * bound + 1) == REFUSED_STREAM
    assert client.goaway is None


def test_a_stream_s_window_that_overflows_is_the_stream_s_error(stage):
    """6.9.1/3 is the one overflow that must not end the connection."""
    client = stage.raw_client()
    client.opens(1, ends=False)
    client.sends(frames.window_update(1, 2**31 - 1))
    assert client.reset_code(1) == FLOW_CONTROL_ERROR
    assert client.goaway is None


def test_the_last_of_several_values_of_a_setting_counts(stage):
    """6.5.3/1."""
    client = stage.raw_client()
    client.sends(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\x64" + b"\0\4\0\0\0\1"))
    client.opens(1)
    stage.slice("a").call().answers(b"reply")
    assert [f[3] for f in client.got(DATA, 1)] == [b"r"]


def test_settings_are_acknowledged_once_each_and_in_order(stage):
    client = stage.raw_client()
    before = len(client.frames)
    client.sends(frames.settings({4: 5}), frames.ping(b"12345678"), frames.settings({4: 6}))
    assert [f[0] for f in client.frames[before:]] == [SETTINGS, PING, SETTINGS]


@pytest.mark.parametrize("settings", [{1: 0}, {1: 100}], ids=["no table", "a smaller table"])
def test_a_client_that_shrinks_its_table_is_told_that_we_follow(stage, settings):
    """RFC 7541 section 4.2; the strict decoder of hpack insists."""
    client = stage.client()
    client.conn.update_settings({})
    client.raw(frames.settings(settings))
    client.conn.decoder.max_allowed_table_size = next(iter(settings.values()))
    call = client.calls(STATISTICS, ends=True)
    stage.slice("a").call().answers(b"reply")
    assert call.body == b"reply"


def _with(*more):
    return [*head(STATISTICS), *more]


def _without(name):
    return [h for h in head(STATISTICS) if h[0] != name]


MALFORMED = [
    ("8.1.2/1 upper case", _with((b"X-Test", b"ok"))),
    ("8.1.2.1/1 unknown pseudo-header", [*_with()[:4], (b":test", b"ok"), *_with()[4:]]),
    ("8.1.2.1/2 a response's", [*_with()[:4], (b":status", b"200"), *_with()[4:]]),
    ("8.1.2.1/4 behind others", [*_with()[1:], (b":method", b"POST")]),
    ("8.1.2.2/1 connection", _with((b"connection", b"keep-alive"))),
    ("8.1.2.2/2 te", _with((b"te", b"trailers, deflate"))),
    ("transfer-encoding", _with((b"transfer-encoding", b"chunked"))),
    ("upgrade", _with((b"upgrade", b"h2c"))),
    ("keep-alive", _with((b"keep-alive", b"5"))),
    ("proxy-connection", _with((b"proxy-connection", b"close"))),
    ("8.1.2.3/1 empty path", [(n, b"" if n == b":path" else v) for n, v in _with()]),
    ("8.1.2.3/2 no method", _without(b":method")),
    ("8.1.2.3/3 no scheme", _without(b":scheme")),
    ("8.1.2.3/4 no path", _without(b":path")),
    ("8.1.2.3/5 two methods", [(b":method", b"POST"), *_with()]),
    ("8.1.2.3/6 two schemes", [(b":scheme", b"http"), *_with()]),
    ("8.1.2.3/7 two paths", [(b":path", b"/"), *_with()]),
    ("two hosts", _with((b"host", b"elsewhere"))),
    ("no authority", _without(b":authority")),
    ("empty authority", [(n, b"" if n == b":authority" else v) for n, v in _with()]),
    ("empty host", [*_without(b":authority"), (b"host", b"")]),
    ("a user in authority", [(n, b"me@x" if n == b":authority" else v) for n, v in _with()]),
    ("two authorities", [(b":authority", b"x"), *_with()]),
    ("bad scheme", [(n, b"ht tp" if n == b":scheme" else v) for n, v in _with()]),
    ("connect", [(b":method", b"CONNECT"), (b":authority", b"x:1")]),
    ("path not a path", [(n, b"http://x/" if n == b":path" else v) for n, v in _with()]),
    ("space in path", [(n, b"/a b" if n == b":path" else v) for n, v in _with()]),
    ("bad method", [(n, b"PO ST" if n == b":method" else v) for n, v in _with()]),
    ("line break in a value", _with((b"x", b"a\r\nb"))),
    ("zero in a value", _with((b"x", b"a\0b"))),
    ("space around a value", _with((b"x", b" a"))),
    ("line break in a name", _with((b"x\n", b"a"))),
    ("colon in a name", _with((b"x:y", b"a"))),
    ("empty name", _with((b"", b"a"))),
    ("content-length not a number", _with((b"content-length", b"+1"))),
    ("two content-lengths", _with((b"content-length", b"1"), (b"content-length", b"2"))),
    ("endless content-length", _with((b"content-length", b"1" * 19))),
    ("8.1.2.6 content-length without a body", _with((b"content-length", b"1"))),
]


@pytest.mark.parametrize("headers", [pytest.param(case[1], id=case[0]) for case in MALFORMED])
def test_a_malformed_request_is_reset_and_the_connection_goes_on(stage, headers):
    """RFC 9113 section 8.1.1: a stream error of type PROTOCOL_ERROR."""
    client = stage.raw_client()
    client.opens(1, headers=headers)
    assert client.reset_code(1) == PROTOCOL_ERROR
    client.opens(3)
    assert len(stage.slice("a").waiting()) + len(stage.slice("b").waiting()) == 1 or any(
        e.reset_code == frames.CANCEL for e in stage.slice("a").waiting()
    )
    assert client.goaway is None


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        pytest.param(1, [b"test"], id="8.1.2.6/1"),
        pytest.param(1, [b"te", b"st"], id="8.1.2.6/2"),
        pytest.param(5, [b"te", b"st"], id="too little"),
        pytest.param(0, [b"x"], id="none announced"),
    ],
)
def test_a_body_of_another_length_than_announced_is_reset(stage, length, pieces):
    client = stage.raw_client()
    client.opens(1, ends=False, headers=_with((b"content-length", b"%d" % length)))
    for index, piece in enumerate(pieces):
        client.sends(frame(DATA, index == len(pieces) - 1, 1, piece))
        if client.got(RST_STREAM, 1):
            break
    assert client.reset_code(1) == PROTOCOL_ERROR
    [served] = stage.slice("a").waiting()
    assert served.reset_code == frames.CANCEL
    assert client.goaway is None


@pytest.mark.parametrize(
    ("flags", "trailers"),
    [
        pytest.param(END_HEADERS, [(b"x", b"y")], id="8.1/1 without END_STREAM"),
        pytest.param(WHOLE, [(b":method", b"POST")], id="8.1.2.1/3 pseudo-header"),
        pytest.param(WHOLE, [(b"connection", b"close")], id="connection"),
        pytest.param(WHOLE, [(b"X", b"y")], id="upper case"),
    ],
)
def test_malformed_trailers_are_reset(stage, flags, trailers):
    client = stage.raw_client()
    client.opens(1, ends=False)
    client.sends(frame(HEADERS, flags, 1, client.encoder.encode(trailers)))
    assert client.reset_code(1) == PROTOCOL_ERROR
    assert client.goaway is None
    stage.assert_at_rest()


@pytest.mark.parametrize("size", [16384, 262_144])
def test_a_full_frame_is_taken(make_stage, size):
    """4.2/1, up to the size that we announce."""
    stage = make_stage("a", limits=Limits(frame_bytes=size))
    client = stage.raw_client()
    client.opens(1, ends=False)
    client.sends(frame(DATA, 0, 1, b"x" * 16384), frame(DATA, END_STREAM, 1, b"y" * size))
    stage.slice("a").call()
    assert client.goaway is None


def test_more_than_a_window_is_an_error(stage):
    client = stage.raw_client()
    client.opens(1, ends=False)
    peer = stage.slice("a")
    peer.connection.reads = False
    for _ in range(65):
        client.sends(frame(DATA, 0, 1, b"x" * 16384))
    assert client.goaway[0] == FLOW_CONTROL_ERROR
