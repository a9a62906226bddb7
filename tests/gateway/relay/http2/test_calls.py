"""What a call is, from its first frame to its last, when nothing goes wrong."""

from gateway.fleet.readiness import ALL
from gateway.relay.http2 import frames
from tests.support.h2_peers import (
    ANSWER_HEAD,
    HEALTH,
    INFER,
    LIVE,
    OK_TRAILERS,
    READY,
    STATISTICS,
    STREAM_INFER,
    head,
    message,
)


def test_a_unary_call_reaches_one_slice_and_its_answer_comes_back(stage):
    call = stage.client().calls(INFER, message("m", 512), ends=True)
    served = stage.slice("a").call()
    assert served.body == message("m", 512)
    assert served.ended
    assert dict(served.head)[b":path"] == INFER
    assert dict(served.head)[b":authority"] == b"gateway:50050"
    assert stage.in_flight == 1
    served.answers(b"reply")
    assert (call.status, call.body, call.grpc_status) == (200, b"reply", 0)
    assert call.ended
    stage.assert_at_rest()


def test_metadata_passes_unchanged_and_in_order_both_ways(stage):
    more = [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3"), (b"key-bin", b"AAE=")]
    call = stage.client().calls(STATISTICS, ends=True, more=more)
    served = stage.slice("a").call()
    assert served.head[-4:] == more
    served.answers(head=[*ANSWER_HEAD, *more], trailers=[*OK_TRAILERS, *more])
    assert call.head == [*ANSWER_HEAD, *more]
    assert call.trailers == [*OK_TRAILERS, *more]


def test_a_trailers_only_answer_stays_one(stage):
    call = stage.client().infers()
    error = [*ANSWER_HEAD, (b"grpc-status", b"5"), (b"grpc-message", b"unknown model: 100%25")]
    stage.slice("a").call().sends_head(error, ends=True)
    assert call.head == error
    assert call.trailers is None
    assert call.ended
    stage.assert_at_rest()


def test_a_stream_carries_messages_both_ways_as_they_come(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    for index in range(5):
        call.sends(b"question %d" % index)
        assert served.body.endswith(b"question %d" % index)
        served.sends(b"answer %d" % index)
        assert call.body.endswith(b"answer %d" % index)
    call.sends(ends=True)
    assert served.ended
    assert stage.in_flight == 1
    served.sends_head(OK_TRAILERS, ends=True)
    assert call.grpc_status == 0
    stage.assert_at_rest()


def test_a_call_waits_until_its_first_message_names_the_model(stage):
    """ModelInfer goes where the model is, and only the message says which that is."""
    call = stage.client().calls(INFER)
    start = message("m", 50)
    for index in range(8):  # prefix, tag, length, name: the next tag tells there is no version
        assert not stage.slice("a").waiting()
        call.sends(start[index : index + 1])
    call.sends(start[8:], ends=True)
    assert stage.slice("a").call().body == start


def test_a_call_with_an_empty_body_goes_to_any_slice(stage):
    stage.client().calls(INFER, ends=True)
    stage.client().calls(INFER, b"", ends=True)
    assert stage.slice("a").call().ended
    assert stage.slice("b").call().ended


def test_request_trailers_are_passed_on(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    call.sends_head([(b"x-checksum", b"1")], ends=True)
    served = stage.slice("a").call()
    assert served.trailers == [(b"x-checksum", b"1")]
    assert served.ended
    served.answers()
    assert call.grpc_status == 0


def test_request_trailers_without_a_message_bind_the_call(stage):
    call = stage.client().calls(INFER)
    call.sends_head([(b"x-checksum", b"1")], ends=True)
    served = stage.slice("a").call()
    assert (served.body, served.trailers) == (b"", [(b"x-checksum", b"1")])


def test_informational_heads_are_kept_from_the_client(stage):
    """1xx tells a gRPC client nothing; the call goes on."""
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.sends_head([(b":status", b"103"), (b"link", b"</x>")])
    assert not call.head
    assert not call.hints
    served.answers(b"reply")
    assert call.body == b"reply"


def test_a_head_request_is_answered_without_a_body(stage):
    call = stage.client().calls(headers=head(b"/x", method=b"HEAD"), ends=True)
    answer = [(b":status", b"200"), (b"content-length", b"1000")]
    stage.slice("a").call().sends_head(answer, ends=True)
    assert call.head == answer
    assert call.ended
    stage.assert_at_rest()


def test_padding_is_taken_off_and_its_window_given_back(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    window = call.window
    for _ in range(200):
        call.sends(b"x" * 100, pad=255)
        served_padded = served.body
    assert served_padded == message("m") + b"x" * 20_000
    assert window - call.window <= stage.core.limits.stream_window // 2 + 356
    served.sends_head(ANSWER_HEAD)
    served.sends(b"reply", pad=100)
    assert call.body == b"reply"


def test_priority_is_read_and_ignored(stage):
    client = stage.client()
    client.conn.send_headers(1, head(STATISTICS), end_stream=True, priority_weight=20)
    client.conn.prioritize(3, depends_on=1)
    stage.settle()
    assert stage.slice("a").call().ended


def test_long_header_blocks_come_and_go_in_continuations(stage):
    """Both peers here allow frames of 16 KiB."""
    more = [(b"x-%d" % i, bytes([97 + i]) * 7000) for i in range(5)]
    client = stage.client()
    client.conn.max_outbound_frame_size = 16384
    call = client.calls(STATISTICS, ends=True, more=more)
    served = stage.slice("a").call()
    assert served.head[-5:] == more
    served.answers(head=[*ANSWER_HEAD, *more])
    assert call.head[-5:] == more


def test_the_gateway_says_itself_that_it_lives_and_that_a_slice_is_ready(stage):
    client = stage.client()
    live, ready, health = (client.calls(p, b"\0\0\0\0\0", ends=True) for p in (LIVE, READY, HEALTH))
    for call in (live, ready, health):
        assert (call.body, call.grpc_status) == (b"\0\0\0\0\2\x08\x01", 0)
    assert not stage.slice("a").connections
    stage.assert_at_rest()


def test_without_a_slice_the_gateway_lives_and_is_not_ready(stage):
    for member in stage.registry.slices.values():
        stage.registry.condemn(member, "killed")
    client = stage.client()
    live, ready, health = (client.calls(p, b"\0\0\0\0\0", ends=True) for p in (LIVE, READY, HEALTH))
    assert live.body == b"\0\0\0\0\2\x08\x01"
    assert ready.body == b"\0\0\0\0\0"
    assert health.body == b"\0\0\0\0\2\x08\x02"
    assert [call.grpc_status for call in (live, ready, health)] == [0, 0, 0]


def test_a_server_that_is_to_be_ready_with_all_slices_is_not_without_one(stage):
    stage.registry.ready_when = ALL
    client = stage.client()

    def asked():
        ready, health = (client.calls(p, b"\0\0\0\0\0", ends=True) for p in (READY, HEALTH))
        return ready.body, health.body

    assert asked() == (b"\0\0\0\0\2\x08\x01", b"\0\0\0\0\2\x08\x01")
    stage.registry.condemn(stage.registry.slices["a"], "killed")
    assert asked() == (b"\0\0\0\0\0", b"\0\0\0\0\2\x08\x02")
    assert client.infers() is not None, "and takes requests all the same"
    stage.slice("b").call()


def test_an_answer_of_our_own_waits_for_the_client_s_window(stage):
    client = stage.client(initial_window_size=3)
    call = client.calls(LIVE, b"\0\0\0\0\0", ends=True)
    client.reads = False
    assert call.body == b"\0\0\0\0\2\x08\x01"


def test_calls_are_spread_by_load_over_all_slices(stage):
    client = stage.client()
    for _ in range(6):
        client.infers()
    assert len(stage.slice("a").waiting()) == len(stage.slice("b").waiting()) == 3
    assert stage.in_flight == 6


def test_many_calls_share_one_connection_to_each_slice(stage):
    for client in [stage.client() for _ in range(4)]:
        for _ in range(10):
            client.infers()
    for name in "ab":
        assert len(stage.slice(name).connections) == 1
        while stage.slice(name).waiting():
            stage.slice(name).call().answers(b"x" * 100)
    stage.assert_at_rest()


def test_a_ping_is_answered_with_its_payload(stage):
    client = stage.client()
    client.pings_with(b"12345678")
    assert client.pings == [b"12345678"]
    client.infers()
    connection = stage.slice("a").connection
    connection.pings_with(b"abcdefgh")
    assert connection.pings == [b"abcdefgh"]


def test_an_answer_may_end_before_the_request_does(stage):
    """The client is told to stop with NO_ERROR (RFC 9113 section 8.1), the slice with CANCEL."""
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.answers(b"enough")
    assert (call.body, call.grpc_status, call.reset_code) == (b"enough", 0, frames.NO_ERROR)
    assert served.reset_code == frames.CANCEL
    stage.assert_at_rest()
