"""Every timeout of the HTTP/2 relay, and draining."""

import pytest

from gateway.errors import GRPC_INTERNAL
from gateway.limits import Timeouts
from gateway.relay.http2 import frames
from tests.support.h2_peers import ANSWER_HEAD, LIVE, OK_TRAILERS, READY, STREAM_INFER, message


@pytest.mark.parametrize("text", [b"1.5S", b"", b"1", b"123456789S", b"-1S", b"1s"])
def test_a_timeout_that_is_none_is_answered(stage, text):
    """Nothing is wrong with its HTTP/2: a status is what a person can read."""
    client = stage.client()
    call = client.calls(data=message("m"), ends=True, more=[(b"grpc-timeout", text)])
    assert call.grpc_status == GRPC_INTERNAL
    assert "grpc-timeout" in call.grpc_message
    assert not client.closed
    stage.assert_at_rest()


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"2S", 2.0), (b"500m", 0.5), (b"250000u", 0.25), (b"1M", 60.0)]
)
def test_a_grpc_timeout_is_kept_by_the_gateway(stage, text, seconds):
    """The client gets its status even from a slice that hangs, and the slice is told to stop."""
    call = stage.client().calls(data=message("m"), ends=True, more=[(b"grpc-timeout", text)])
    served = stage.slice("a").call()
    assert dict(served.head)[b"grpc-timeout"] == text
    stage.advance(seconds - 0.2)
    assert not call.ended
    stage.advance(0.4)
    assert call.grpc_status == 4
    assert "deadline" in call.grpc_message
    assert served.reset_code == frames.CANCEL
    stage.assert_at_rest()


def test_a_grpc_timeout_in_the_middle_of_an_answer_ends_it_with_a_status(stage):
    call = stage.client().calls(
        STREAM_INFER, message("m"), ends=True, more=[(b"grpc-timeout", b"1S")]
    )
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"part")
    stage.advance(1.2)
    assert (call.body, call.grpc_status, served.reset_code) == (b"part", 4, frames.CANCEL)


def test_a_timeout_of_nothing_has_run_out_at_once(stage):
    call = stage.client().calls(data=message("m"), ends=True, more=[(b"grpc-timeout", b"0n")])
    stage.advance(0.2)
    assert call.grpc_status == 4


def test_a_short_timeout_is_not_cut_shorter(stage):
    """The coarse clock, from which other timeouts count, may be nearly a tick behind."""
    stage.loop.now_s += 0.09
    call = stage.client().calls(data=message("m"), ends=True, more=[(b"grpc-timeout", b"50m")])
    stage.loop.now_s += 0.02
    stage.loop.run_timers()
    stage.settle()
    assert not call.ended
    stage.advance(0.2)
    assert call.grpc_status == 4


def test_who_is_asked_again_is_told_what_is_left_of_the_deadline(stage):
    call = stage.client().calls(
        data=message("m"), ends=True, more=[(b"grpc-timeout", b"2S"), (b"x", b"y")]
    )
    stage.advance(0.5)
    stage.slice("a").call().peer.cuts()
    served = stage.slice("b").call()
    head = dict(served.head)
    assert head[b"grpc-timeout"].endswith(b"u")
    assert 1_300_000 < int(head[b"grpc-timeout"][:-1]) <= 1_500_000
    assert head[b"x"] == b"y"
    served.answers(b"reply")
    assert call.body == b"reply"


def test_nobody_is_asked_again_after_the_deadline(stage):
    call = stage.client().calls(data=message("m"), ends=True, more=[(b"grpc-timeout", b"50m")])
    stage.loop.now_s += 0.06  # between two sweeps
    stage.slice("a").call().peer.cuts()
    assert call.grpc_status == 4
    assert not stage.slice("b").waiting()
    stage.assert_at_rest()


def test_a_call_that_waits_for_a_connection_keeps_its_deadline(stage):
    stage.slice("a").holding = True
    call = stage.client().calls(data=message("m"), ends=True, more=[(b"grpc-timeout", b"1S")])
    stage.advance(1.2)
    assert call.grpc_status == 4
    stage.assert_at_rest()
    stage.slice("a").holding = False
    stage.slice("a").answer_dials()
    stage.settle()
    assert not stage.slice("a").waiting()


def test_a_slice_that_does_not_answer_in_time_is_given_up(make_stage):
    stage = make_stage("a", "b", timeouts=Timeouts(response_s=5.0))
    call = stage.client().infers()
    served = stage.slice("a").call()
    stage.advance(5.3)
    assert call.grpc_status == 4
    assert "did not answer in time" in call.grpc_message
    assert served.reset_code == frames.CANCEL
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_a_stream_on_which_nothing_moves_ends(make_stage):
    stage = make_stage("a", timeouts=Timeouts(stream_idle_s=5.0, ping_s=0.0))
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    for _ in range(3):
        stage.advance(4.0)
        call.sends(b"x")
    served.sends_head(ANSWER_HEAD)
    for _ in range(3):
        stage.advance(4.0)
        served.sends(b"x")
    assert not call.ended
    stage.advance(5.3)
    assert call.grpc_status == 4
    stage.assert_at_rest()


def test_a_call_that_never_names_its_model_ends(make_stage):
    stage = make_stage("a", timeouts=Timeouts(stream_idle_s=5.0, ping_s=0.0))
    call = stage.client().calls(STREAM_INFER, b"\0\0")
    stage.advance(5.3)
    assert call.grpc_status == 4
    stage.assert_at_rest()


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(make_stage):
    stage = make_stage("a", timeouts=Timeouts(send_idle_s=5.0))
    client = stage.client(initial_window_size=10)
    client.reads = False
    call = client.infers()
    stage.slice("a").call().answers(b"x" * 100)
    assert stage.core.buffered_bytes == 90
    stage.advance(5.3)
    assert call.reset_code == frames.CANCEL
    assert stage.counters.limits == {"send_idle": 1}
    stage.assert_at_rest()


def test_a_client_that_takes_its_answer_slowly_is_served(make_stage):
    stage = make_stage("a", timeouts=Timeouts(send_idle_s=5.0, ping_s=0.0))
    client = stage.client(initial_window_size=10)
    client.reads = False
    call = client.infers()
    stage.slice("a").call().answers(b"x" * 100)
    for _ in range(12):
        stage.advance(4.0)
        call.reads()
    assert (call.body, call.grpc_status) == (b"x" * 100, 0)


def test_a_client_with_open_streams_that_says_nothing_is_pinged_and_lives(make_stage):
    stage = make_stage("a", timeouts=Timeouts(ping_s=10.0, ping_timeout_s=5.0))
    client = stage.client()
    call = client.calls(STREAM_INFER, message("m"))
    stage.advance(100)
    assert not client.closed
    stage.slice("a").call().answers()
    assert call.grpc_status == 0


def test_a_client_that_does_not_answer_a_ping_is_gone(make_stage):
    stage = make_stage("a", timeouts=Timeouts(ping_s=10.0, ping_timeout_s=5.0))
    client = stage.raw_client()
    client.opens(1)
    stage.advance(10.3)
    assert len(client.got(frames.PING)) == 1
    stage.advance(5.3)
    assert client.closed
    assert stage.counters.limits == {"ping_timeout": 1}
    stage.assert_at_rest()


def test_a_client_without_streams_is_told_to_go(make_stage):
    stage = make_stage("a", timeouts=Timeouts(grpc_idle_s=20.0))
    client = stage.client()
    stage.advance(20.3)
    assert client.closed
    assert client.goaways == [(0, frames.NO_ERROR)]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frames.PREFACE[:10], id="half-a-preface"),
        pytest.param(frames.PREFACE, id="no-settings"),
        pytest.param(frames.PREFACE + frames.settings({4: 5})[:8], id="half-a-frame-head"),
        pytest.param(frames.PREFACE + frames.settings({4: 5})[:12], id="half-a-settings-frame"),
        pytest.param(
            frames.PREFACE + frames.settings({}) + frames.frame(frames.HEADERS, 0, 1, b"\x82"),
            id="half-a-header-block",
        ),
    ],
)
def test_a_head_must_come_in_time_however_slowly_it_drips(stage, start):
    client = stage.raw_client(greets=False)
    client.sends(start)
    stage.advance(stage.core.timeouts.head_s - 0.5)
    assert client.goaway is None
    stage.advance(1.0)
    assert client.goaway[0] == frames.SETTINGS_TIMEOUT
    assert stage.counters.limits == {"head_timeout": 1}


def test_a_client_that_does_not_hang_up_after_goaway_is_cut_off(stage):
    client = stage.raw_client()
    client.lost = lambda: None  # it does not react to the end of our half
    client.wire.move = _half_open(client.wire)
    client.sends(frames.frame(frames.PING, 0, 0, b"short"))
    assert client.goaway[0] == frames.FRAME_SIZE_ERROR
    assert not client.wire.lost
    stage.advance(1.3)
    assert client.wire.lost
    assert not stage.core.clients


def _half_open(wire):
    """A peer that keeps its own half open after ours has ended."""
    move = wire.move

    def moved():
        ended, wire.ended = wire.ended, False
        try:
            return move()
        finally:
            wire.ended = wire.ended or ended

    return moved


# --- draining -------------------------------------------------------------------------------


def test_draining_says_so_in_two_steps_and_finishes_what_is_open(stage):
    """A call that crosses the first GOAWAY on the wire is still served (RFC 9113 section 6.8)."""
    client = stage.client()
    call = client.calls(STREAM_INFER, message("m"))
    stage.core.draining = True
    client.stalls()
    client.downstream.drain()
    stage.settle()
    crossing = client.infers()
    client.stalls(False)
    assert client.goaways == [(2**31 - 1, 0), (crossing.id, 0)]
    stage.slice("b").call().answers(b"crossed")
    assert crossing.body == b"crossed"
    assert not client.closed
    served = stage.slice("a").call()
    call.sends(b"more", ends=True)
    served.answers(b"reply")
    assert call.body == b"reply"
    assert client.closed
    stage.assert_at_rest()


def test_what_comes_behind_the_last_goaway_is_left_alone(stage):
    """The client sends it elsewhere by itself; the connection lives on for the others."""
    client = stage.raw_client()
    client.opens(1)
    client.downstream.drain()
    stage.settle()
    client.sends(frames.ping(b"drain\0\0\0", frames.ACK))
    client.opens(3, ends=False)
    client.sends(frames.frame(frames.DATA, frames.END_STREAM, 3, b"x"))
    assert len(stage.slice("a").waiting()) + len(stage.slice("b").waiting()) == 1
    assert client.reset_code(3) is None
    stage.slice("a").call().answers()
    assert len(client.got(frames.HEADERS, 1)) == 2
    assert client.closed


def test_an_idle_client_is_closed_at_once_when_draining(stage):
    client = stage.client()
    client.downstream.drain()
    stage.settle()
    assert client.closed


@pytest.mark.parametrize("way", ["reset", "slice reset"])
def test_a_call_that_is_reset_lets_draining_go_on(stage, way):
    client = stage.client()
    call = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    client.downstream.drain()
    stage.settle()
    assert not client.closed
    call.resets() if way == "reset" else served.resets()
    assert client.closed
    stage.assert_at_rest()


def test_a_client_that_connects_while_draining_is_told_so(stage):
    stage.core.draining = True
    client = stage.client()
    assert client.goaways[0] == (2**31 - 1, 0)
    assert client.closed


def test_while_leaving_the_gateway_lives_and_is_not_ready(stage):
    client = stage.client()
    client.calls(STREAM_INFER, message("m"))
    stage.core.leaving = True
    live, ready = (client.calls(path, b"\0\0\0\0\0", ends=True) for path in (LIVE, READY))
    assert live.grpc_status == 0
    assert (ready.grpc_status, ready.grpc_message) == (14, "Server exiting")


def test_a_client_s_own_goaway_lets_its_calls_finish(stage):
    client = stage.client()
    call = client.calls(STREAM_INFER, message("m"))
    client.raw(frames.goaway(0, frames.NO_ERROR))
    call.sends(b"more", ends=True)
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"reply")
    served.sends_head(OK_TRAILERS, ends=True)
    assert (call.body, call.grpc_status) == (b"reply", 0)
    assert client.closed
