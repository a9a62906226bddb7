"""A peer that sends without a pause has its turn, and then the others have theirs."""

import pytest

from gateway.errors import GRPC_UNAVAILABLE
from gateway.relay.http2 import frames
from gateway.relay.http2.frames import ACK, DATA, END_STREAM, HEADERS, frame
from gateway.relay.http2.framing import TURN_WORK
from gateway.relay.http2.upstream import INTERIM_MAX
from tests.support.h2_peers import (
    ANSWER_HEAD,
    INFER,
    OK_TRAILERS,
    STATISTICS,
    RawClient,
    head,
    message,
)

SERVER_LIVE = b"/inference.GRPCInferenceService/ServerLive"


def read(client: RawClient, data: bytes) -> None:
    """The gateway reads `data` at once, and nothing else happens."""
    client.wire.protocol.data_received(data)


def opened(client: RawClient) -> int:
    """Return how many streams of the client have been looked at."""
    return (client.downstream._last_id + 1) // 2


def live_calls(client: RawClient, count: int) -> bytes:
    return b"".join(client.head(2 * i + 1, headers=head(SERVER_LIVE)) for i in range(count))


def test_after_some_calls_the_others_have_a_turn(stage):
    client = stage.raw_client()
    read(client, live_calls(client, 2000))
    assert 20 < opened(client) <= TURN_WORK
    assert not client.wire.reading
    stage.settle()
    assert opened(client) == 2000
    assert client.wire.reading
    assert client.goaway is None


def test_calls_of_one_turn_are_answered_before_the_next(stage):
    """So they are no more at once than a client may have, however many were read."""
    client = stage.raw_client()
    client.sends(live_calls(client, 2000))
    answers = client.got(HEADERS)
    assert len(answers) == 2 * 2000
    assert "streams" not in stage.counters.limits


@pytest.mark.parametrize(
    "small",
    [
        frame(DATA, 0, 1, b"x"),
        frame(DATA, 8, 1, b"\3xabc"),
        frames.window_update(1, 1),
        frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\0"),
        frame(0x77, 0, 0, b""),
        frames.ping(b"12345678", ACK),
    ],
    ids=["DATA", "padded DATA", "WINDOW_UPDATE", "PRIORITY", "unknown", "ACK"],
)
def test_small_frames_count(stage, small):
    client = stage.raw_client()
    client.opens(1, ends=False)
    read(client, small * 900)
    assert not client.wire.reading
    stage.settle()
    assert client.wire.reading
    assert client.goaway is None


def test_a_large_header_block_counts_for_many_frames(stage):
    client = stage.raw_client()
    fields = [(b"x-%d" % i, b"%d" % i * 6) for i in range(700)]
    big = client.encoder.encode([*head(STATISTICS), *fields])
    assert 11_000 < len(big) < 16_384
    blocks = [frame(HEADERS, 5, 1, big), *(client.head(2 * i + 3) for i in range(200))]
    read(client, b"".join(blocks))
    assert opened(client) < TURN_WORK - 11_000 // 64


def test_large_frames_do_not_count(stage):
    """A body goes through as it comes."""
    client = stage.raw_client()
    client.opens(1, headers=head(INFER), ends=False)
    client.sends(frame(DATA, 0, 1, message("m", 4 << 20)[:16_384]))
    read(client, frame(DATA, 0, 1, b"x" * 2000) * 300)
    assert client.wire.reading


def test_what_is_left_is_not_lost_with_the_turn(stage):
    """The last frame of a read may be the one that ends the turn, or lie behind it in pieces."""
    client = stage.raw_client()
    client.opens(1, headers=head(INFER), ends=False)
    body = message("m", 3000)
    pieces = [frame(DATA, 0, 1, body[i : i + 1]) for i in range(len(body) - 1)]
    data = b"".join([*pieces, frame(DATA, END_STREAM, 1, body[-1:])])
    client.sends(data[:-5])
    client.sends(data[-5:])
    served = next(p for p in stage.slices.values() if p.waiting()).call()
    assert bytes(served.body) == body
    assert served.ended


def test_a_client_that_leaves_within_its_turn_is_forgotten(stage):
    client = stage.raw_client()
    read(client, live_calls(client, 2000))
    client.wire.cut()
    stage.settle()
    assert not stage.core.clients
    assert stage.in_flight == 0


def test_a_mistake_behind_the_turn_is_found(stage):
    client = stage.raw_client()
    client.sends(live_calls(client, 400) + frame(DATA, 0, 0, b"x"))
    assert client.goaway[0] == frames.PROTOCOL_ERROR
    assert len(client.got(HEADERS)) == 2 * 400


def test_a_slice_that_answers_without_a_pause_is_read_to_the_end(stage):
    client = stage.client()
    call = client.infers()
    peer = next(p for p in stage.slices.values() if p.waiting())
    served = peer.call()
    served.peer.conn.send_headers(served.id, ANSWER_HEAD)
    for _ in range(1000):
        served.peer.conn.send_data(served.id, b"x")
    served.peer.conn.send_headers(served.id, OK_TRAILERS, end_stream=True)
    stage.settle()
    assert (len(call.body), call.grpc_status) == (1000, 0)


def test_a_slice_sends_so_many_interim_answers_and_no_more(stage):
    client = stage.client()
    call = client.infers()
    peer = next(p for p in stage.slices.values() if p.waiting())
    served = peer.call()
    for _ in range(INTERIM_MAX):
        served.sends_head([(b":status", b"103")])
    assert call.grpc_status is None
    served.sends_head([(b":status", b"103")])
    assert call.grpc_status == GRPC_UNAVAILABLE
    assert served.reset_code == frames.PROTOCOL_ERROR
