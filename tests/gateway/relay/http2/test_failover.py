"""What a client sees when slices refuse, leave, break or run out of streams: as little as can be."""

import pytest

from gateway.fleet.outcomes import SERVER_ERROR
from gateway.limits import Limits
from gateway.relay.http2 import frames
from tests.support.h2_peers import (
    ANSWER_HEAD,
    GRPC,
    INFER,
    OK_TRAILERS,
    STATISTICS,
    STREAM_INFER,
    head,
    message,
)


def test_a_refused_connection_moves_the_call_and_condemns_the_slice(stage):
    """Nobody listens: nothing was sent, and nobody else need try."""
    stage.slice("a").refusing = True
    call = stage.client().infers(size=100)
    assert stage.slice("b").call().body == message("m", 100)
    assert stage.slice("a").member.failures == 1
    assert not stage.slice("a").member.routable
    assert stage.checked_soon == [stage.slice("a").member]
    stage.slice("b").waiting()
    next(iter(stage.slice("b").connection.exchanges.values())).answers(b"reply")
    assert call.body == b"reply"
    assert stage.counters.replays == 1
    stage.assert_at_rest()


def test_all_slices_refusing_is_unavailable_with_a_reason(stage):
    for name in "ab":
        stage.slice(name).refusing = True
    call = stage.client().infers()
    assert call.grpc_status == 14
    assert "no slice accepted the connection" in call.grpc_message
    assert call.ended
    stage.assert_at_rest()


def test_no_slice_is_unavailable_with_a_reason(stage):
    for member in stage.registry.slices.values():
        stage.registry.condemn(member, "killed")
    call = stage.client().infers()
    assert (call.status, call.grpc_status) == (200, 14)
    assert call.grpc_message == "no slice is ready to take this request"
    assert stage.counters.faults == {"no_slice": 1}


def test_a_request_that_is_not_grpc_gets_an_http_error(stage):
    for member in stage.registry.slices.values():
        stage.registry.condemn(member, "killed")
    client = stage.client()
    plain = [h for h in head(STATISTICS, method=b"GET") if h != GRPC]
    call = client.calls(headers=plain, ends=True)
    assert call.status == 503
    assert call.body == b'{"error": "no slice is ready to take this request"}'
    plain[0] = (b":method", b"HEAD")
    call = client.calls(headers=plain, ends=True)
    assert (call.status, call.body, call.ended) == (503, b"", True)


def test_a_connection_lost_before_the_answer_moves_the_call_once(stage):
    call = stage.client().infers(size=5000)
    first = stage.slice("a").call()
    first.peer.cuts()
    second = stage.slice("b").call()
    assert second.body == message("m", 5000)
    assert second.ended
    second.answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_a_second_loss_is_told_to_the_client(make_stage):
    """What has killed two slices might kill them all."""
    stage = make_stage("a", "b", "c")
    call = stage.client().infers()
    stage.slice("a").call().peer.cuts()
    stage.slice("b").call().peer.cuts()
    assert not stage.slice("c").waiting()
    assert call.grpc_status == 14
    assert "slice b" in call.grpc_message
    stage.assert_at_rest()


def test_a_call_still_being_sent_moves_with_what_has_come_and_goes_on(stage):
    call = stage.client().calls(STREAM_INFER, message("m", 3000))
    call.sends(b"second")
    stage.slice("a").call().peer.cuts()
    call.sends(b"third", ends=True)
    second = stage.slice("b").call()
    assert second.body == message("m", 3000) + b"secondthird"
    assert second.ended
    second.answers()
    assert call.grpc_status == 0


def test_trailers_of_a_request_move_with_it(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    call.sends_head([(b"x-checksum", b"1")], ends=True)
    stage.slice("a").call().peer.cuts()
    second = stage.slice("b").call()
    assert (second.body, second.trailers) == (message("m"), [(b"x-checksum", b"1")])


def test_what_is_too_large_to_keep_is_not_moved(make_stage):
    stage = make_stage("a", "b", limits=Limits(replay_bytes=1000))
    call = stage.client().infers(size=5000)
    assert stage.core.buffered_bytes == 0
    stage.slice("a").call().peer.cuts()
    assert not stage.slice("b").waiting()
    assert call.grpc_status == 14
    stage.assert_at_rest()


def test_a_connection_lost_after_the_answer_began_ends_it_with_a_status(stage):
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"half")
    served.peer.cuts()
    assert (call.body, call.grpc_status) == (b"half", 14)
    assert "slice a" in call.grpc_message
    assert call.reset_code is None
    assert not stage.slice("b").waiting()
    stage.assert_at_rest()


def test_a_plain_answer_that_breaks_off_is_reset(stage):
    """A clean end would pass half a body for a whole one."""
    plain = [h for h in head(STATISTICS, method=b"GET") if h != GRPC]
    call = stage.client().calls(headers=plain, ends=True)
    served = stage.slice("a").call()
    served.sends_head([(b":status", b"200")])
    served.sends(b"half")
    served.peer.cuts()
    assert not call.ended
    assert call.reset_code == frames.INTERNAL_ERROR


def test_a_refused_stream_moves_as_often_as_there_are_slices(make_stage):
    """REFUSED_STREAM says that nothing was done (RFC 9113 section 8.7)."""
    stage = make_stage("a", "b", "c")
    call = stage.client().infers()
    stage.slice("a").call().resets(frames.REFUSED_STREAM)
    stage.slice("b").call().resets(frames.REFUSED_STREAM)
    stage.slice("c").call().answers(b"reply")
    assert call.body == b"reply"
    assert stage.counters.replays == 2
    stage.assert_at_rest()


STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"
UNLOADED = "Request for unknown model: 'm' has no available versions"


@pytest.mark.parametrize(("code", "why"), [(b"14", STOPPING), (b"5", UNLOADED)])
def test_a_call_that_a_stopping_triton_turns_away_moves(stage, code, why):
    call = stage.client().infers()
    turned_away = [*ANSWER_HEAD, (b"grpc-status", code), (b"grpc-message", why.encode())]
    stage.slice("a").call().sends_head(turned_away, ends=True)
    stage.slice("b").call().answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)
    assert [member.name for member in stage.checked_soon] == ["a"]
    stage.assert_at_rest()


def test_turned_away_everywhere_is_told_in_the_slice_s_words(stage):
    call = stage.client().infers()
    turned_away = [*ANSWER_HEAD, (b"grpc-status", b"14"), (b"grpc-message", STOPPING.encode())]
    for name in "ab":
        stage.slice(name).call().sends_head(turned_away, ends=True)
    assert (call.grpc_status, call.grpc_message) == (14, STOPPING)
    stage.assert_at_rest()


def test_a_model_that_nobody_has_is_asked_for_once(stage):
    """Who names a model that no slice has ready gets the first answer, whatever it says."""
    call = stage.client().infers("unknown")
    away = [*ANSWER_HEAD, (b"grpc-status", b"5"), (b"grpc-message", UNLOADED.encode())]
    stage.slice("a").call().sends_head(away, ends=True)
    assert call.grpc_status == 5
    assert not stage.slice("b").waiting()


def stream_answer(field: bytes) -> bytes:
    return b"\0\0\0\0\4" + field + b"\2no"


@pytest.mark.parametrize(("field", "well"), [(b"\x0a", False), (b"\x12", True)])
def test_an_error_in_a_stream_s_first_message_speaks_neither_for_nor_against_a_slice(
    make_stage, field, well
):
    """A slice on trial does not return by it, and a row of failures is not ended by it."""
    stage = make_stage("a")
    member = stage.slice("a").member
    for _ in range(4):
        stage.core.attempt_ended(member, "infer/m", SERVER_ERROR)
    call = stage.client().calls(STREAM_INFER, message("m"), ends=True)
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(stream_answer(field))
    served.sends_head(OK_TRAILERS, ends=True)
    assert (call.body, call.grpc_status) == (stream_answer(field), 0)
    assert (member.tallies["m"].streak == 0) is well
    stage.assert_at_rest()


def test_refused_everywhere_is_told_to_the_client(stage):
    call = stage.client().infers()
    stage.slice("a").call().resets(frames.REFUSED_STREAM)
    stage.slice("b").call().resets(frames.REFUSED_STREAM)
    assert call.grpc_status == 14
    assert "refused the stream" in call.grpc_message
    assert stage.counters.replays == 1


def test_a_reset_before_the_answer_moves_the_call_once(stage):
    call = stage.client().infers()
    stage.slice("a").call().resets(frames.INTERNAL_ERROR)
    stage.slice("b").call().resets(frames.INTERNAL_ERROR)
    assert call.grpc_status == 14


def test_a_reset_in_an_answer_is_passed_on(stage):
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.resets(frames.ENHANCE_YOUR_CALM)
    assert call.reset_code == frames.ENHANCE_YOUR_CALM
    stage.assert_at_rest()


def test_goaway_moves_what_was_not_begun_and_finishes_what_was(stage):
    """Streams above the last id were not processed (RFC 9113 section 6.8)."""
    client = stage.client()
    stage.slice("b").member.charge = 50.0
    kept, moved = client.infers(), client.infers()
    first, second = stage.slice("a").call(), stage.slice("a").call()
    stage.slice("b").member.charge = 0.0
    first.peer.raw(frames.goaway(first.id, frames.NO_ERROR))
    assert second.id > first.id
    stage.slice("b").call().answers(b"from b")
    assert moved.body == b"from b"
    first.answers(b"from a")
    assert kept.body == b"from a"
    assert first.peer.closed
    assert stage.slice("a").member.failures == 0
    stage.slice("b").member.charge = 50.0
    client.infers()
    assert len(stage.slice("a").connections) == 2
    stage.slice("a").call().answers()
    stage.assert_at_rest()


def test_goaway_in_two_steps_loses_nothing(stage):
    stage.slice("b").member.charge = 50.0
    client = stage.client()
    one, two = client.infers(), client.infers()
    first, second = stage.slice("a").call(), stage.slice("a").call()
    first.peer.raw(frames.goaway(frames.STREAM_ID_MAX, frames.NO_ERROR))
    assert not stage.slice("b").waiting()
    first.peer.raw(frames.goaway(second.id, frames.NO_ERROR))
    first.answers(b"1")
    assert not first.peer.closed
    second.answers(b"2")
    assert (one.body, two.body) == (b"1", b"2")
    assert first.peer.closed


def test_goaway_before_settings_moves_who_waits(make_stage):
    stage = make_stage("a")
    peer = stage.slice("a")
    peer.silent = True
    call = stage.client().infers()
    peer.silent = False
    peer.connection.wire.feed(frames.goaway(0, frames.NO_ERROR))
    stage.settle()
    assert peer.connections[0].closed
    peer.call().answers(b"reply")
    assert call.body == b"reply"


def test_a_slice_that_accepts_and_says_nothing_is_given_up(stage):
    """A hung process still completes TCP connections."""
    stage.slice("a").silent = True
    call = stage.client().infers()
    stage.advance(stage.core.timeouts.connect_s + 0.2)
    stage.slice("b").call().answers(b"reply")
    assert call.body == b"reply"
    assert stage.slice("a").connections[0].closed
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_a_connection_that_cannot_be_had_in_time_is_one_failure_however_many_wait(stage):
    """A busy slice that is late once must not be ejected for it."""
    stage.slice("a").silent = True
    client = stage.client()
    calls = [client.infers() for _ in range(20)]
    stage.advance(stage.core.timeouts.connect_s + 0.2)
    while stage.slice("b").waiting():
        stage.slice("b").call().answers(b"reply")
    assert all(call.body == b"reply" for call in calls)
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_when_streams_run_out_more_connections_are_opened(make_stage):
    stage = make_stage("a", limits=Limits(grpc_connections_per_slice=3))
    stage.slice("a").settings = {frames.SETTING_MAX_CONCURRENT_STREAMS: 4}
    client = stage.client()
    calls = [client.infers() for _ in range(12)]
    assert [len(c.exchanges) for c in stage.slice("a").connections] == [4, 4, 4]
    refused = client.infers()
    assert refused.grpc_status == 8
    assert stage.counters.limits["grpc_connections_per_slice"] == 1
    while stage.slice("a").waiting():
        stage.slice("a").call().answers()
    assert all(call.grpc_status == 0 for call in calls)
    stage.assert_at_rest()


@pytest.mark.parametrize("streams", [1, 100, 128])
def test_the_slice_s_bound_on_streams_is_kept_from_its_first_settings_on(make_stage, streams):
    stage = make_stage("a")
    peer = stage.slice("a")
    peer.settings = {frames.SETTING_MAX_CONCURRENT_STREAMS: streams}
    peer.holding = True
    client = stage.client()
    for _ in range(130 if streams > 1 else 5):
        client.infers()
    peer.holding = False
    peer.answer_dials()
    stage.settle()
    assert max(len(c.exchanges) for c in peer.connections) <= streams
    assert len(peer.waiting()) == (130 if streams > 1 else 5)


def test_a_bound_made_smaller_lets_open_streams_finish(make_stage):
    stage = make_stage("a")
    client = stage.client()
    calls = [client.infers() for _ in range(3)]
    connection = stage.slice("a").connection
    connection.change({frames.SETTING_MAX_CONCURRENT_STREAMS: 1})
    later = client.infers()
    assert [len(c.exchanges) for c in stage.slice("a").connections] == [3, 1]
    while stage.slice("a").waiting():
        stage.slice("a").call().answers()
    assert all(call.grpc_status == 0 for call in [*calls, later])


def test_a_slice_that_takes_no_streams_ends_in_an_error(make_stage):
    stage = make_stage("a")
    stage.slice("a").settings = {frames.SETTING_MAX_CONCURRENT_STREAMS: 0}
    assert stage.client().infers().grpc_status == 8
    stage.assert_at_rest()


def test_stream_ids_that_run_out_make_a_new_connection(stage):
    stage.slice("b").member.charge = 50.0
    client = stage.client()
    client.infers()
    stage.slice("a").call().answers()
    [upstream] = next(iter(stage.links._slices.values())).connections
    upstream._next_id = frames.STREAM_ID_MAX
    last = client.infers()
    served = stage.slice("a").call()
    assert served.id == frames.STREAM_ID_MAX
    served.answers(b"last")
    assert last.body == b"last"
    assert served.peer.closed
    client.infers()
    assert stage.slice("a").call().id == 1


def test_a_client_s_reset_reaches_the_slice_at_once(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    assert stage.in_flight == 1
    call.resets()
    assert served.reset_code == frames.CANCEL
    stage.assert_at_rest()


def test_a_reset_while_the_connection_opens_sends_nothing(make_stage):
    stage = make_stage("a")
    stage.slice("a").holding = True
    client = stage.client()
    client.infers(size=5000).resets()
    stage.assert_at_rest()
    stage.slice("a").holding = False
    stage.slice("a").answer_dials()
    stage.settle()
    assert not stage.slice("a").waiting()
    client.infers()
    stage.slice("a").call().answers()


def test_a_client_that_goes_takes_its_calls_back(stage):
    client = stage.client()
    for _ in range(4):
        client.calls(STREAM_INFER, message("m", 5000))
    served = [stage.slice(name).call() for name in "abab"]
    served[0].sends_head(ANSWER_HEAD)
    client.cuts()
    assert [s.reset_code for s in served] == [frames.CANCEL] * 4
    assert not stage.core.clients
    stage.assert_at_rest()


def test_a_client_that_closes_its_half_is_gone(stage):
    client = stage.client()
    client.infers()
    client.wire.peer_closed = True
    stage.settle()
    assert client.wire.lost
    stage.assert_at_rest()


def test_a_repeated_end_of_call_is_tolerated(stage):
    """Triton 2.51 sends trailers and RST_STREAM four times when a grpc-timeout expires."""
    client = stage.client()
    stage.slice("b").member.charge = 50.0
    call, other = client.infers(), client.infers()
    served, other_served = stage.slice("a").call(), stage.slice("a").call()
    connection = served.peer
    served.sends_head([*ANSWER_HEAD, (b"grpc-status", b"4")], ends=True)
    again = connection.conn.encoder.encode([*ANSWER_HEAD, (b"grpc-status", b"4")])
    flags = frames.END_HEADERS | frames.END_STREAM
    for _ in range(3):
        connection.raw(
            frames.rst_stream(served.id, 0)
            + frames.frame(frames.HEADERS, flags, served.id, again)
            + frames.frame(frames.DATA, 0, served.id, b"late")
        )
    assert call.grpc_status == 4
    other_served.answers(b"alive")
    assert other.body == b"alive"
    assert not connection.closed


def test_the_triton_form_of_an_early_end_is_tolerated(stage):
    """Trailers, then RST_STREAM(NO_ERROR) because the client has not half-closed."""
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.peer.conn.send_headers(served.id, [*ANSWER_HEAD, *OK_TRAILERS], end_stream=True)
    served.peer.conn.reset_stream(served.id, 0)
    stage.settle()
    assert (call.grpc_status, call.reset_code) == (0, frames.NO_ERROR)
    stage.assert_at_rest()


def test_no_error_without_an_answer_is_a_loss(stage):
    call = stage.client().infers()
    stage.slice("a").call().resets(frames.NO_ERROR)
    stage.slice("b").call().resets(frames.NO_ERROR)
    assert call.grpc_status == 14


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([(b"grpc-status", b"0")], id="no-status"),
        pytest.param([(b":status", b"20")], id="short-status"),
        pytest.param([(b":status", b"200"), (b"Upper", b"x")], id="upper-case"),
        pytest.param([(b":status", b"101")], id="switching-protocols"),
        pytest.param([(b":status", b"200"), (b"connection", b"close")], id="connection"),
    ],
)
def test_an_answer_that_may_not_be_is_an_error_of_the_slice(stage, answer):
    call = stage.client().infers()
    served = stage.slice("a").call()
    block = served.peer.conn.encoder.encode(answer)
    served.peer.raw(frames.frame(frames.HEADERS, frames.END_HEADERS, served.id, block))
    assert call.grpc_status == 14
    assert served.reset_code == frames.PROTOCOL_ERROR
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_data_before_the_head_is_an_error_of_the_slice(stage):
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.peer.raw(frames.frame(frames.DATA, 0, served.id, b"x"))
    assert call.grpc_status == 14
    assert served.reset_code == frames.PROTOCOL_ERROR


def test_a_slice_that_breaks_the_protocol_loses_its_connection_and_its_calls_move(stage):
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.peer.raw(frames.frame(frames.DATA, 0, 0, b"x"))
    assert served.peer.closed
    assert served.peer.goaways[-1][1] == frames.PROTOCOL_ERROR
    stage.slice("b").call().answers(b"reply")
    assert call.body == b"reply"


def test_a_slice_taken_out_finishes_what_it_has_and_is_left(stage):
    client = stage.client()
    call = client.calls(INFER, message("m"), ends=True)
    served = stage.slice("a").call()
    stage.links.close_slice(served.peer and stage.slice("a").member)
    served.answers(b"reply")
    assert call.body == b"reply"
    assert served.peer.closed


def test_a_slice_taken_out_while_its_connection_opens_still_serves_who_waits(make_stage):
    stage = make_stage("a")
    peer = stage.slice("a")
    peer.holding = True
    call = stage.client().infers()
    stage.links.close_slice(peer.member)
    peer.holding = False
    peer.answer_dials()
    stage.settle()
    peer.call().answers(b"reply")
    assert call.body == b"reply"
    stage.advance(0.2)
    assert not [c for c in peer.connections if not c.closed and not c.exchanges]


def test_an_unused_connection_to_a_slice_is_closed_after_a_while(stage):
    stage.client().infers()
    stage.slice("a").call().answers()
    connection = stage.slice("a").connection
    stage.advance(stage.core.timeouts.upstream_idle_s - 1)
    assert not connection.closed
    stage.advance(2)
    assert connection.closed
    stage.client().calls(STATISTICS, ends=True)
    assert stage.slice("b").waiting() or stage.slice("a").waiting()
