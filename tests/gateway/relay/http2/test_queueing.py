"""gRPC calls that wait for a slice to have room."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.fleet.health import Order
from gateway.fleet.lanes import ModelLimit
from gateway.fleet.places import QueueSettings
from gateway.limits import Limits, Timeouts
from gateway.relay.http2 import frames
from tests.support.h2_peers import ANSWER_HEAD, GRPC, STATISTICS, STREAM_INFER, message
from tests.support.h2_stage import Stage

Maker = Callable[..., Stage]


def limit(stage: Stage, at_once: int = 1, **settings: Any) -> Any:
    """Let each slice take so many inferences of model `m` at a time; return the queues."""
    queues = stage.registry.queues
    queues.run_by(stage.loop.call_soon, stage.loop.call_later)
    queues.configure(QueueSettings(**settings))
    queues.follow("m", ModelLimit(at_once))
    return queues


def calls_of(stage: Stage, name: str = "a") -> list[Any]:
    """Return the calls that a slice has and has not answered."""
    found: list[Any] = stage.slice(name).waiting()
    return found


@pytest.fixture
def one(make_stage: Maker) -> Stage:
    """One slice."""
    return make_stage("a")


def test_a_call_waits_until_a_slice_has_room(stage: Stage) -> None:
    queues = limit(stage)
    client = stage.client()
    first, second, third = [client.infers() for _ in range(3)]
    assert queues.waiting == 1
    stage.slice("b").call().answers(b"b")
    assert second.body == b"b"
    stage.slice("b").call().answers(b"b again")
    assert third.body == b"b again"
    stage.slice("a").call().answers(b"a")
    assert first.body == b"a"
    assert queues.waiting == 0


def test_both_protocols_count_and_other_calls_do_not_wait(one: Stage) -> None:
    queues = limit(one)
    one.registry.slices["a"].begin()  # as an HTTP request would, in the model's lane
    queues.lines["m"].lane(one.registry.slices["a"]).begin()
    client = one.client()
    waiting = client.infers()
    other = client.calls(STATISTICS, message("m"), ends=True)
    one.slice("a").call().answers(b"statistics")
    assert other.body == b"statistics"
    assert queues.waiting == 1
    queues.lines["m"].lane(one.registry.slices["a"]).end()
    one.registry.slices["a"].end()
    one.settle()
    one.slice("a").call().answers(b"inferred")
    assert waiting.body == b"inferred"


def test_a_stream_counts_as_one_for_as_long_as_it_lasts(one: Stage) -> None:
    queues = limit(one)
    client = one.client()
    stream = client.calls(STREAM_INFER, message("m"), ends=False)
    unary = client.infers()
    served = one.slice("a").call()
    served.sends_head([(b":status", b"200"), GRPC])
    served.sends(b"one answer")
    stream.sends(message("m"))
    assert (queues.waiting, stream.body) == (1, b"one answer")
    stream.sends(ends=True)
    served.sends_head([(b"grpc-status", b"0")], ends=True)
    one.slice("a").call().answers(b"unary")
    assert unary.body == b"unary"


def test_a_call_that_is_cancelled_while_it_waits_never_reaches_a_slice(one: Stage) -> None:
    queues = limit(one)
    client = one.client()
    first, gone, last = [client.infers() for _ in range(3)]
    gone.resets()
    assert queues.waiting == 1
    one.slice("a").call().answers(b"1")
    one.slice("a").call().answers(b"3")
    assert (first.body, last.body) == (b"1", b"3")
    assert queues.figures.ended == {"m left": 1, "m served": 1}


def test_a_connection_that_breaks_takes_its_calls_out_of_the_line(one: Stage) -> None:
    queues = limit(one)
    staying, going = one.client(), one.client()
    staying.infers()
    for _ in range(3):
        going.infers()
    last = staying.infers()
    going.cuts()
    assert queues.waiting == 1
    one.slice("a").call().answers(b"1")
    one.slice("a").call().answers(b"2")
    assert last.body == b"2"


def test_a_calls_own_deadline_ends_its_waiting(one: Stage) -> None:
    queues = limit(one)
    client = one.client()
    client.infers()
    call = client.calls(data=message("m"), ends=True, more=[(b"grpc-timeout", b"1S")])
    one.advance(0.8)
    assert not call.ended
    one.advance(0.4)
    assert call.grpc_status == 4
    assert queues.waiting == 0


def test_who_waits_for_too_long_is_unavailable(one: Stage) -> None:
    limit(one, timeout_s=2.0)
    client = one.client()
    client.infers()
    call = client.infers()
    one.advance(2.3)
    assert call.grpc_status == 14
    assert one.counters.faults == {"queue_timeout": 1}


def test_a_long_line_refuses_with_when_to_try_again(one: Stage) -> None:
    limit(one, length=1)
    client = one.client()
    for _ in range(2):
        client.infers()
    call = client.infers()
    assert call.grpc_status == 8
    assert (b"grpc-retry-pushback-ms", b"1000") in call.head
    assert call.grpc_message == "too many requests wait for this model; try again later"


def test_the_time_in_the_line_is_not_the_slices(make_stage: Maker) -> None:
    stage = make_stage("a", timeouts=Timeouts(response_s=1.0))
    limit(stage, timeout_s=0)
    client = stage.client()
    client.infers()
    call = client.infers()
    stage.advance(0.8)
    stage.slice("a").call().answers(b"1")
    stage.advance(0.8)
    assert not call.ended
    stage.advance(0.4)
    assert call.grpc_status == 4


def test_urgent_calls_go_first(one: Stage) -> None:
    limit(one)
    client = one.client()
    client.infers()
    plain = client.infers()
    hurried = client.calls(data=message("m"), ends=True, more=[(b"priority", b"u=0")])
    one.slice("a").call().answers(b"1")
    one.slice("a").call().answers(b"2")
    assert (hurried.body, plain.body) == (b"2", b"")


def test_a_waiting_call_may_send_what_its_window_allows(make_stage: Maker) -> None:
    """And what may be kept for a second slice, before it waits. The rest is asked for when one takes it."""
    stage = make_stage("a", limits=Limits(stream_window=70_000, replay_bytes=50_000))
    queues = limit(stage)
    client = stage.client()
    first = client.infers()
    body = message("m", 200_000)
    call = client.calls(data=body[:60_000], ends=False)
    assert queues.waiting == 1
    assert queues.common.bytes > 60_000
    sent = 60_000
    while window := client.conn.local_flow_control_window(call.id):
        call.sends(body[sent : sent + min(window, 10_000)])
        sent += min(window, 10_000)
    assert sent <= 50_000 + 16_384 + 70_000
    stage.slice("a").call().answers(b"1")
    call.sends_all(body[sent:], ends=True)
    served = stage.slice("a").call()
    assert served.body == body
    served.answers(b"2")
    assert (first.body, call.body) == (b"1", b"2")


def test_trailers_of_a_waiting_request_go_with_it(one: Stage) -> None:
    limit(one)
    client = one.client()
    client.infers()
    call = client.calls(data=message("m"), ends=False)
    call.sends_head([(b"x-checksum", b"7")], ends=True)
    one.slice("a").call().answers(b"1")
    served = one.slice("a").call()
    assert served.trailers == [(b"x-checksum", b"7")]
    served.answers(b"2")
    assert call.body == b"2"


def test_a_call_that_a_slice_has_lost_goes_before_all_others(stage: Stage) -> None:
    queues = limit(stage)
    client = stage.client()
    first, second, third = [client.infers() for _ in range(3)]
    stage.slice("a").call().peer.cuts()
    assert queues.waiting == 1
    stage.slice("b").call().answers(b"2")
    stage.slice("b").call().answers(b"1")
    assert (first.body, second.body) == (b"1", b"2")
    stage.slice("a").call().answers(b"3")
    assert third.body == b"3"


def test_a_slice_that_is_drained_takes_nothing_from_the_line(stage: Stage) -> None:
    queues = limit(stage)
    client = stage.client()
    _, second, third = [client.infers() for _ in range(3)]
    stage.registry.order(stage.registry.slices["b"], Order.DRAINED, "test")
    stage.slice("b").call().answers(b"2")
    assert (second.body, queues.waiting) == (b"2", 1)
    stage.slice("a").call().answers(b"1")
    stage.slice("a").call().answers(b"3")
    assert third.body == b"3"


def test_draining_serves_who_waits(one: Stage) -> None:
    limit(one)
    client = one.client()
    client.infers()
    call = client.infers()
    client.downstream.drain()
    one.settle()
    one.slice("a").call().answers(b"1")
    one.slice("a").call().answers(b"2")
    assert call.body == b"2"


def test_a_cancelled_call_frees_its_slot(one: Stage) -> None:
    """Triton is told over gRPC, and stops what it has not begun."""
    limit(one)
    client = one.client()
    first, second = client.infers(), client.infers()
    served = one.slice("a").call()
    first.resets()
    assert served.reset_code == frames.CANCEL
    assert calls_of(one), "the next one has the slot"
    one.slice("a").call().answers(b"2")
    assert second.body == b"2"


def test_a_request_that_comes_slowly_keeps_nobody_from_the_slice(one: Stage) -> None:
    """Until it is there the slice has nothing to work on."""
    queues = limit(one)
    client = one.client()
    slow = client.calls(data=message("m", 100_000)[:50], ends=False)
    served = one.slice("a").call()
    other = client.infers()
    assert queues.waiting == 1
    for _ in range(12):
        slow.sends(b"x")  # however busy it looks
        one.advance(0.1)
    assert queues.waiting == 0
    one.slice("a").call().answers(b"done")
    assert other.body == b"done"
    slow.sends(b"x", ends=True)
    waits = client.infers()
    assert queues.waiting == 1, "what is whole counts again"
    served.answers(b"slow")
    assert slow.body == b"slow"
    one.slice("a").call().answers(b"at last")
    assert waits.body == b"at last"
    one.assert_at_rest()


def test_a_stream_counts_while_it_is_answered(one: Stage) -> None:
    """A client may keep one open for hours between two messages."""
    queues = limit(one)
    client = one.client()
    stream = client.calls(STREAM_INFER, message("m"))
    served = one.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    for _ in range(30):
        served.sends(b"x")
        one.advance(0.1)
    other = client.infers()
    assert queues.waiting == 1
    one.advance(1.3)
    assert queues.waiting == 0
    one.slice("a").call().answers(b"done")
    assert other.body == b"done"
    stream.sends(message("m"))
    served.sends(b"more")
    other = client.infers()
    assert queues.waiting == 1, "it counts again"
    stream.resets()
    assert queues.waiting == 0
    one.slice("a").call().answers(b"done")
    assert other.body == b"done"
    one.assert_at_rest()


def test_whole_calls_go_before_those_that_come_slowly(one: Stage) -> None:
    """However many of them there are: they are not in the line, and have no slot while others wait."""
    queues = limit(one)
    client = one.client()
    slow = [client.calls(data=message("m", 100_000)[:50], ends=False) for _ in range(50)]
    one.slice("a").call()
    other = client.infers()
    assert queues.waiting == 1
    one.advance(0.3)
    one.slice("a").call().answers(b"done")
    assert other.body == b"done"
    for call in slow:
        call.resets()
    one.assert_at_rest()


def test_a_call_that_is_whole_at_last_waits_for_its_turn(one: Stage) -> None:
    """Many calls that are not whole need not fit into their connection's window together."""
    queues = limit(one)
    client = one.client()
    first = client.infers()
    served = one.slice("a").call()
    body = message("m", 600_000)
    calls = [client.calls(data=body[:9], ends=False) for _ in range(10)]
    for call in calls:
        call.sends_all(body[9:], ends=False)
    assert queues.waiting == 0
    for call in calls:
        call.sends(b"", ends=True)
    assert queues.waiting == 10
    served.answers(b"1")
    for call in calls:
        one.slice("a").call().answers(b"2")
        assert call.body == b"2"
    assert first.body == b"1"
    one.assert_at_rest()
