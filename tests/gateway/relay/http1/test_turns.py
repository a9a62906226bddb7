"""A client that sends without a pause has its turn, and then the others have theirs."""

import sys

import pytest

from gateway.limits import Limits
from gateway.relay.http1.body import RANGES_MAX
from gateway.relay.http1.downstream import AT_ONCE_MAX
from tests.gateway.relay.http1.stage import OK, Stage, took

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"2\r\nab\r\n"


@pytest.fixture
def stage():
    return Stage("a")


def answers(client) -> int:
    """Return how many answers have been written, without a turn of the loop."""
    return bytes(client.sent).count(b"HTTP/1.1 200")


def test_after_some_pipelined_requests_the_others_have_a_turn(stage):
    client = stage.client()
    client.sends(LIVE * 1000)
    assert answers(client) == AT_ONCE_MAX + 1
    assert not client.reading
    stage.run()
    assert answers(client) == 1000
    assert client.reading
    assert stage.idle


def test_what_comes_in_between_waits_behind_what_has_come(stage):
    """TLS may have read more than it has handed over."""
    client = stage.client()
    client.sends(LIVE * 100)
    client.protocol.data_received(b"GET /v2/health/live HTTP/1.1\r\nHost : a\r\n\r\n")
    stage.run()
    got = took(client)
    assert got.count(b"HTTP/1.1 200") == 100
    assert got[got.rfind(b"HTTP/1.1 ") :].startswith(b"HTTP/1.1 400")


def test_a_gateway_that_drains_answers_what_has_come(stage):
    client = stage.client()
    client.sends(LIVE * 100)
    client.protocol.drain()
    stage.run()
    got = took(client)
    assert got.count(b"HTTP/1.1 200") > AT_ONCE_MAX
    assert b"Connection: close" in got[got.rfind(b"HTTP/1.1 ") :]
    assert client.closing or client.eof_sent


def test_a_client_that_leaves_within_its_turn_is_forgotten(stage):
    client = stage.client()
    client.sends(LIVE * 100)
    client.resets()
    stage.run()
    assert not stage.core.clients
    assert stage.idle


def test_after_some_chunks_the_others_have_a_turn(stage):
    client = stage.client()
    client.sends(CHUNKED + CHUNK * 5000 + b"0\r\n\r\n" + LIVE)
    slice_ = None
    assert not client.reading
    stage.run()
    slice_ = stage.slice()
    sent = took(slice_)
    assert sent.count(b"ab") == 5000
    assert sent.endswith(b"\r\n0\r\n\r\n")
    assert sent.count(b"\r\n400\r\n") == 5000 // RANGES_MAX  # each turn's chunks are one
    slice_.sends(OK)
    got = took(client)
    assert got.startswith(OK)
    assert got.count(b"HTTP/1.1 200") == 2
    assert stage.idle


def test_a_malformed_chunk_behind_the_turn_is_found(stage):
    client = stage.client()
    client.sends(CHUNKED + CHUNK * 2000 + b"x\r\n")
    assert took(client).startswith(b"HTTP/1.1 400")
    assert stage.idle


def test_an_answer_of_many_chunks_passes_whole(stage):
    client = stage.client()
    client.sends(LIVE.replace(b"health/live", b"models/m"))
    stage.slice().sends(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK * 5000 + b"0\r\n\r\n"
    )
    got = took(client)
    assert got.count(b"ab") == 5000
    assert got.endswith(b"0\r\n\r\n")
    assert stage.idle


def size_of(pieces) -> int:
    return sys.getsizeof(pieces) + sum(map(sys.getsizeof, pieces))


@pytest.mark.parametrize("pieces", ["chunk by chunk", "byte by byte", "all at once"])
def test_what_is_kept_of_a_body_takes_no_more_than_is_counted(stage, pieces):
    """However small the pieces are that it comes in."""
    stage.core.limits = Limits(replay_bytes=60_000)
    client = stage.client()
    client.sends(CHUNKED)
    stage.run()
    body = CHUNK * 3000
    step = {"chunk by chunk": len(CHUNK), "byte by byte": 1, "all at once": len(body)}[pieces]
    kept_max = 0
    for start in range(0, len(body), step):
        client.sends(body[start : start + step])
        kept = client.protocol.kept
        if kept is not None:
            kept_max = max(kept_max, size_of(kept))
            assert size_of(kept) < 1.5 * client.protocol.kept_bytes + 500
        stage.run()
    kept = client.protocol.kept
    assert max(kept_max, size_of(kept or [])) < 100_000
    assert took(stage.slice()).count(b"a") >= 3000
