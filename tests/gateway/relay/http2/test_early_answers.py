"""A request that is answered before it has ended: its rest is thrown away, within bounds."""

import pytest

from gateway.limits import MIB, Limits
from gateway.relay.http2 import frames
from tests.support.h2_peers import GRPC, STATISTICS, STREAM_INFER, head, message

PLAIN = [each for each in head(b"/v2/models/m/infer") if each != GRPC]


def test_what_is_no_grpc_call_is_answered_here_and_says_what_is_spoken(stage):
    call = stage.client().calls(headers=PLAIN, ends=True)
    assert (call.status, call.ended) == (415, True)
    assert b"gRPC" in call.body
    assert b"HTTP/1.1" in call.body
    assert stage.counters.faults == {"not_grpc": 1}
    assert not stage.slice("a").connections


@pytest.mark.parametrize("path", [b"/my.Service/Call", STATISTICS])
def test_other_grpc_services_and_triton_s_own_paths_are_for_the_slices(stage, path):
    headers = head(path) if path != STATISTICS else [h for h in head(path) if h != GRPC]
    stage.client().calls(headers=headers, ends=True)
    assert stage.slice("a").call().ended


def test_a_client_that_has_its_answer_may_finish_its_request(stage):
    """No RST_STREAM: curl 7.88 takes one for an error, whatever its code, and loses the answer."""
    client = stage.client()
    call = client.calls(headers=PLAIN)
    assert (call.status, call.ended) == (415, True)
    call.sends_all(b"x" * 3 * MIB, ends=True)
    assert call.reset_code is None
    assert not client.downstream.streams
    assert stage.core.buffered_bytes == 0


def test_so_may_one_whose_request_waits_at_a_slow_slice(stage):
    """What was held of the window is given back."""
    client = stage.client()
    call = client.calls(headers=[h for h in head(STATISTICS) if h != GRPC])
    served = stage.slice("a").call()
    served.peer.reads = False
    call.sends_all(b"x" * MIB)
    assert call.window == 0
    served.sends_head([(b":status", b"200")], ends=True)
    call.sends_all(b"x" * MIB, ends=True)
    assert (call.status, call.ended, call.reset_code) == (200, True, None)
    assert served.reset_code == frames.CANCEL


def test_trailers_end_it_as_well(stage):
    client = stage.client()
    call = client.calls(headers=PLAIN)
    call.sends(b"x")
    call.sends_head([(b"x", b"y")], ends=True)
    assert call.reset_code is None
    assert not client.downstream.streams


def test_one_that_goes_quiet_is_told_to_stop(stage):
    client = stage.client()
    call = client.calls(headers=PLAIN)
    for _ in range(4):
        stage.advance(1.5)
        call.sends(b"x")
    assert call.reset_code is None
    stage.advance(2.2)
    assert call.reset_code == frames.NO_ERROR
    assert not client.downstream.streams


def test_one_that_does_not_end_is_told_to_stop(make_stage):
    stage = make_stage("a", limits=Limits(body_bytes=100_000))
    client = stage.client()
    call = client.calls(headers=PLAIN)
    call.sends_all(b"x" * 100_000)
    assert call.reset_code is None
    call.sends(b"x")
    assert call.reset_code == frames.NO_ERROR
    assert stage.counters.limits == {"body_bytes": 1}
    assert not client.downstream.streams


def test_one_that_resets_its_stream_is_gone(stage):
    client = stage.client()
    client.calls(headers=PLAIN).resets()
    assert not client.downstream.streams
    assert not client.goaways


def test_a_flood_of_them_ends_its_connection(stage):
    client = stage.raw_client()
    for stream_id in range(1, 4001, 2):
        client.sends(
            client.head(stream_id, ends=False, headers=PLAIN) + frames.rst_stream(stream_id, 8)
        )
    assert client.goaway[0] == frames.ENHANCE_YOUR_CALM


def test_a_mistake_in_the_rest_is_still_one(stage):
    client = stage.raw_client()
    client.opens(1, ends=False, headers=[*PLAIN, (b"content-length", b"3")])
    client.sends(frames.frame(frames.DATA, frames.END_STREAM, 1, b"four"))
    assert client.reset_code(1) == frames.PROTOCOL_ERROR


def test_a_grpc_client_is_told_to_stop_at_once(stage):
    """As gRPC's own servers do: a client that streams would never finish by itself."""
    client = stage.client()
    call = client.calls(STREAM_INFER, message("m"))
    stage.slice("a").call().answers()
    assert (call.ended, call.grpc_status, call.reset_code) == (True, 0, frames.NO_ERROR)
    assert not client.downstream.streams
