"""
Every known way to make an HTTP/2 server work or hold memory for nothing.

Each attack must end in a bounded number of steps, be counted under a limit's name, leave nothing held,
and leave a second client's call alone.
"""

from collections.abc import Callable

import pytest

from gateway.limits import KIB, Limits, Timeouts
from gateway.relay.http2 import frames
from gateway.relay.http2.frames import END_HEADERS, END_STREAM, frame
from tests.support.h2_peers import (
    ANSWER_HEAD,
    INFER,
    OK_TRAILERS,
    STATISTICS,
    STREAM_INFER,
    RawClient,
    head,
    message,
)
from tests.support.h2_stage import Stage

DATA, HEADERS, PRIORITY, SETTINGS = frames.DATA, frames.HEADERS, frames.PRIORITY, frames.SETTINGS
CALM = frames.ENHANCE_YOUR_CALM


@pytest.fixture(autouse=True)
def _others_are_served(request: pytest.FixtureRequest):
    """A second client has a call open all the while, and it is answered in the end."""
    stage: Stage = request.getfixturevalue("stage")
    bystander = stage.client()
    call = bystander.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    yield
    served.answers(b"undisturbed")
    assert (call.body, call.grpc_status) == (b"undisturbed", 0)


def floods(client: RawClient, make: Callable[[int], bytes], times: int = 5000) -> int:
    """Send until the gateway hangs up; return how often that was."""
    for index in range(times):
        client.sends(make(index))
        if client.closed:
            return index
    return times


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        pytest.param(lambda i: frames.ping(b"12345678"), "control_frames", id="ping"),
        pytest.param(lambda i: frames.settings({4: 65535}), "control_frames", id="settings"),
        pytest.param(lambda i: frames.settings({}), "control_frames", id="empty-settings"),
        pytest.param(
            lambda i: frame(PRIORITY, 0, 1, b"\0\0\0\3\0"), "control_frames", id="priority"
        ),
        pytest.param(lambda i: frames.window_update(1, 1), "control_frames", id="window-update"),
        pytest.param(
            lambda i: frames.window_update(0, 1), "control_frames", id="connection-window"
        ),
        pytest.param(lambda i: frame(DATA, 0, 1, b""), "control_frames", id="empty-data"),
        pytest.param(lambda i: frame(DATA, 8, 1, b"\3abc"), "control_frames", id="only-padding"),
        pytest.param(lambda i: frame(0x77, 0, 1, b"?"), "control_frames", id="unknown-frames"),
        pytest.param(lambda i: frames.rst_stream(3, 8), "control_frames", id="reset-of-the-closed"),
        pytest.param(lambda i: frames.ping(b"12345678", 1), "control_frames", id="ping-ack"),
        pytest.param(lambda i: frames.SETTINGS_ACK, "control_frames", id="settings-ack"),
        pytest.param(lambda i: frames.goaway(0, 0), "control_frames", id="goaway"),
    ],
)
def test_a_flood_of_frames_that_carry_nothing_ends(stage, make, limit):
    """CVE-2019-9511 to -9518: the budget is 1000 at once and 50 a second."""
    client = stage.raw_client()
    client.opens(1, ends=False)
    client.opens(3, ends=False)
    client.sends(frames.rst_stream(3, 8))
    assert 500 < floods(client, make) < 1100
    assert client.goaway[0] == CALM
    assert stage.counters.limits[limit] == 1
    assert stage.in_flight == 1


def test_a_slow_stream_of_such_frames_is_allowed(stage):
    """gRPC measures bandwidth with PINGs, ten a second."""
    client = stage.raw_client()
    for _ in range(200):
        stage.advance(1.0)
        client.sends(frames.ping(b"12345678") * 45)
    assert client.goaway is None


def test_a_ping_for_every_answer_is_allowed(stage):
    """gRPC for Go and for Java measures the way with a PING whenever an answer's data has come."""
    client = stage.raw_client()
    for index in range(1500):
        client.opens(2 * index + 1)
        next(p for p in (stage.slice("b"), stage.slice("a")) if p.waiting()).call().answers(b"x")
        client.sends(frames.ping(b"12345678"))
    assert client.goaway is None


def test_heads_of_a_stream_that_was_refused_end_the_connection(stage):
    """Trailers may be on their way to it, and nothing else that is made of headers."""
    client = stage.raw_client()
    bad = [*head(STATISTICS), (b"Upper", b"x")]
    client.sends(client.head(1, headers=bad, ends=False))
    assert client.reset_code(1) == frames.PROTOCOL_ERROR
    client.sends(client.head(1, ends=False))
    assert client.goaway[0] == frames.STREAM_CLOSED


def test_a_block_of_table_sizes_is_not_worked_through(stage):
    """RFC 7541 section 4.2: two are enough for any encoder."""
    client = stage.raw_client()
    block = client.encoder.encode(head(STATISTICS))
    client.sends(frame(HEADERS, 5, 1, b"\x20\x3f\xe1\x1f" + block))
    assert client.goaway is None
    client.sends(frame(HEADERS, 5, 3, b"\x20\x3f\xe1\x1f\x20" + block))
    assert client.goaway == (frames.COMPRESSION_ERROR, "too many changes of the table's size")


def test_rapid_reset_ends(stage):
    """CVE-2023-44487: open, cancel, open: the stream limit never bites."""
    client = stage.raw_client()
    resets = floods(client, lambda i: client.head(2 * i + 1) + frames.rst_stream(2 * i + 1, 8))
    assert 150 < resets <= 210
    assert client.goaway == (CALM, "too many streams reset early")
    assert stage.counters.limits["early_resets"] == 1
    assert stage.in_flight == 1


def test_clients_that_cancel_old_calls_are_not_taken_for_attackers(stage):
    client = stage.raw_client()
    for index in range(400):
        client.opens(2 * index + 1)
        if index % 100 == 99:
            stage.advance(2.0)
            client.sends(*(frames.rst_stream(2 * i + 1, 8) for i in range(index - 99, index + 1)))
    assert client.goaway is None


@pytest.mark.parametrize(
    "provoke",
    [
        pytest.param(lambda i: frames.window_update(i, 2**31 - 1), id="window-overflow"),
        pytest.param(lambda i: frames.window_update(i, 0), id="zero-increment"),
        pytest.param(lambda i: frame(PRIORITY, 0, i, b"\0\0\0\0"), id="short-priority"),
        pytest.param(
            lambda i: frame(PRIORITY, 0, i, i.to_bytes(4, "big") + b"\0"), id="self-dependency"
        ),
        pytest.param(lambda i: frame(HEADERS, 5, i, b"\x82"), id="headers-after-end"),
        pytest.param(lambda i: frame(DATA, 0, i, b"x"), id="data-after-end"),
    ],
)
def test_made_you_reset_ends(stage, provoke):
    """CVE-2025-8671: the client makes us reset its streams. The slice is told each time."""
    client = stage.raw_client()
    resets = floods(client, lambda i: client.head(2 * i + 1) + provoke(2 * i + 1))
    assert resets <= 210
    assert client.goaway is not None
    assert sum(stage.counters.limits.values()) >= 1
    assert stage.in_flight == 1
    for name in "ab":
        for exchange in stage.slice(name).waiting():
            assert exchange.reset_code == frames.CANCEL


def test_malformed_requests_are_counted_like_resets(stage):
    client = stage.raw_client()
    bad = [*head(STATISTICS), (b"Upper", b"x")]
    assert floods(client, lambda i: client.head(2 * i + 1, headers=bad)) <= 210
    assert stage.counters.limits["early_resets"] == 1


def test_streams_above_the_bound_are_refused_and_counted(stage):
    client = stage.raw_client()
    opened = floods(client, lambda i: client.head(2 * i + 1, ends=False))
    assert stage.core.limits.streams < opened <= stage.core.limits.streams + 210
    assert client.reset_code(2 * stage.core.limits.streams + 1) == frames.REFUSED_STREAM
    assert stage.counters.limits["streams"] >= 200
    assert stage.in_flight == 1


def test_a_flood_of_continuations_ends(stage):
    """CVE-2024-27983 and its kin: a header block without end."""
    client = stage.raw_client()
    client.sends(frame(HEADERS, END_STREAM, 1, client.encoder.encode(head(STATISTICS))))
    assert floods(client, lambda i: frame(frames.CONTINUATION, 0, 1, b"")) <= 10
    assert client.goaway[0] == CALM
    assert stage.counters.limits["continuations"] == 1


@pytest.mark.parametrize("kind", ["one frame", "in pieces"])
def test_a_header_block_is_not_waited_for_beyond_its_bound(make_stage, kind):
    """Whatever larger frames the configuration allows for data."""
    stage = make_stage("a", limits=Limits(frame_bytes=256 * KIB))
    client = stage.raw_client()
    if kind == "one frame":
        client.sends(frame(HEADERS, 5, 1, b"\x00" * 140_000)[:2000])
    else:
        client.sends(frame(HEADERS, 1, 1, b"x" * 16_000))
        client.sends(*(frame(frames.CONTINUATION, 0, 1, b"x" * 16_000) for _ in range(8)))
    assert client.goaway[0] == CALM
    assert stage.counters.limits["head_bytes"] == 1


def test_an_hpack_bomb_is_not_unpacked(stage):
    """CVE-2016-6581: 4 KB in the table, then thousands of one-byte references to it."""
    client = stage.raw_client()
    big = client.encoder.encode([*head(STATISTICS), (b"x-bomb", b"b" * 3900)])
    client.sends(frame(HEADERS, 5, 1, big))
    client.sends(frame(HEADERS, 5, 3, client.encoder.encode(head(STATISTICS)) + b"\xbe" * 16_000))
    assert client.goaway == (CALM, "header list far too large")
    assert stage.counters.limits["head_bytes"] == 1


def test_a_header_list_that_is_only_too_long_gets_an_answer(stage):
    """The connection and its other calls go on."""
    client = stage.client()
    call = client.calls(STATISTICS, ends=True, more=[(b"x-%d" % i, b"y") for i in range(200)])
    assert call.grpc_status == 8
    assert "headers are larger" in call.grpc_message
    assert stage.counters.limits["head_bytes"] == 1
    assert not client.closed


def test_a_client_that_shuts_its_windows_and_never_reads_holds_a_bounded_amount(stage):
    """Data dribble and its kin (CVE-2019-9511): the answer window bounds each call."""
    client = stage.client(initial_window_size=0)
    client.reads = False
    for _ in range(10):
        client.infers()
    for name in "ab":
        while stage.slice(name).waiting():
            served = stage.slice(name).call()
            served.sends_head(ANSWER_HEAD)
            while served.window > 0:
                served.sends(b"x" * min(16384, served.window))
    assert stage.core.buffered_bytes <= 10 * (stage.core.limits.answer_window + 65535)
    stage.advance(stage.core.timeouts.send_idle_s + 0.5)
    assert stage.counters.limits["send_idle"] == 10
    assert stage.core.buffered_bytes < 100  # the bystander's message, kept for a second slice
    assert stage.in_flight == 1


def test_a_client_that_never_reads_its_socket_is_cut_off(stage):
    """PING answers and short answers need no window; what is unread is bounded by itself."""
    client = stage.raw_client()
    client.wire.stalled = True
    big = [*ANSWER_HEAD, *OK_TRAILERS, (b"x-big", b"y" * 10_000)]
    stage.slice("b").member.charge = -5.0
    for index in range(400):
        client.opens(2 * index + 1)
        stage.slice("b").call().sends_head(big, ends=True)
        if client.wire.lost:
            break
    assert client.wire.lost
    assert stage.counters.limits["unread_bytes"] == 1
    assert index < 330


def test_all_connections_together_hold_a_bounded_amount(stage, make_stage):
    """New calls, and calls that would add to it, are told to come again later."""
    small = make_stage("a", limits=Limits(buffered_bytes=300_000))
    small.slice("a").holding = True
    client = small.client()
    calls = [client.calls(INFER, message("m", 10)) for _ in range(5)]
    for call in calls:
        while call.window > 0 and not call.ended:
            call.sends(b"x" * min(16384, call.window))
    assert [call.grpc_status for call in calls] == [8] * 5
    assert small.core.buffered_bytes < 300_000 + 256 * 1024
    assert small.counters.limits["buffered_bytes"] >= 1
    refused = client.infers()
    assert refused.grpc_status in (None, 8)


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"\xff" * 50, id="endless-integers"),
        pytest.param(b"\x80", id="index-0"),
        pytest.param(b"\xfe", id="index-beyond-the-table"),
        pytest.param(b"\x3f\xe2\x1f", id="table-above-4096"),
        pytest.param(b"\x82\x20", id="table-size-behind-a-field"),
        pytest.param(b"\x40\x01a\x81\xff", id="padding-of-8-bits"),
        pytest.param(b"\x40\x01a\x81\x00", id="padding-of-zeros"),
        pytest.param(b"\x40\x01a\x84\xff\xff\xff\xff", id="end-of-string-coded"),
        pytest.param(b"\x40\x7f\xff\xff\xff\xff\x0f", id="name-beyond-the-block"),
        pytest.param(b"\x00", id="nothing-behind-a-literal"),
    ],
)
def test_header_garbage_ends_the_connection(stage, junk):
    """Nobody can know the table after it: COMPRESSION_ERROR (RFC 9113 section 4.3)."""
    client = stage.raw_client()
    client.sends(frame(HEADERS, END_HEADERS | END_STREAM, 1, junk))
    assert client.goaway[0] == frames.COMPRESSION_ERROR
    assert stage.counters.limits["h2_protocol_error"] == 1


def test_too_many_settings_in_a_frame_end_it(stage):
    client = stage.raw_client()
    client.sends(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1" * 33))
    assert client.goaway[0] == CALM


def test_silent_connections_end(stage, make_stage):
    quiet = make_stage("a", timeouts=Timeouts(head_s=2.0, grpc_idle_s=5.0))
    clients = [quiet.raw_client(greets=False) for _ in range(5)]
    clients += [quiet.raw_client() for _ in range(5)]
    quiet.advance(6.0)
    assert all(client.closed for client in clients)
    assert not quiet.core.clients


def answers_nobody_reads(stage, count, size=200_000):
    """Let `count` clients ask for answers that they take nothing of; return their calls."""
    calls = []
    for _ in range(count):
        client = stage.client(initial_window_size=0)
        call = client.calls(INFER, message("m"), ends=True)
        peer = next(p for p in stage.slices.values() if p.waiting())
        served = peer.call()
        served.sends_head(ANSWER_HEAD)
        served.sends(b"x" * size)
        calls.append(call)
    return calls


def test_answers_that_nobody_takes_are_cut_off_when_all_hold_too_much(make_stage):
    """A window of nothing, on as many streams as there are: the newest is given up."""
    stage = make_stage("a", "b", limits=Limits(buffered_bytes=500_000))
    calls = answers_nobody_reads(stage, 3)
    assert [call.reset_code for call in calls] == [None, None, CALM]
    assert stage.counters.limits == {"buffered_bytes": 1}
    assert stage.core.buffered_bytes <= 500_000
    assert stage.client().infers().grpc_status is None


def test_what_a_socket_does_not_take_counts_and_ends_its_connection(make_stage):
    """Windows wide open, and nothing is read: it lies in the transport."""
    stage = make_stage("a", "b", limits=Limits(buffered_bytes=500_000))
    clients = [stage.client(initial_window_size=1 << 20) for _ in range(4)]
    for client in clients:
        client.conn.increment_flow_control_window(1 << 20)
        call = client.calls(INFER, message("m"), ends=True)
        client.stalls()
        served = next(p for p in stage.slices.values() if p.waiting()).call()
        served.sends_head(ANSWER_HEAD)
        served.sends(b"x" * 150_000, frame_bytes=16384)
        assert not call.ended
    assert stage.core.buffered_bytes > 500_000
    stage.advance(0.1)
    assert stage.counters.limits == {"buffered_bytes": 1}
    assert sum(client.closed for client in clients) == 1
    assert 0 < stage.core.buffered_bytes <= 500_000
    for client in clients:
        if not client.closed:
            client.stalls(False)
    assert stage.core.buffered_bytes == 0


def test_what_is_remembered_of_headers_is_bounded_by_what_they_stand_for(stage):
    """A few bytes of references stand for a list of 60 KiB; a hundred of them for megabytes."""
    client = stage.raw_client()
    big = client.encoder.encode([*head(STATISTICS), (b"x-big", b"b" * 3000)])
    client.sends(frame(HEADERS, 5, 1, big))
    block = client.encoder.encode(head(STATISTICS))
    for index in range(1, 60):
        client.sends(frame(HEADERS, 5, 2 * index + 1, block + b"\xbe" * (index % 20)))
    reader = client.downstream._reader
    assert reader._known_bytes <= 32 * KIB
    assert sum(len(each.block) for each in reader._known.values()) <= 32 * KIB
