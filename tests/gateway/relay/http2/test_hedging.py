"""A call whose answer is late goes to a second slice as well; the first answer to begin wins."""

from collections.abc import Callable

import pytest

from gateway.fleet.health import Order
from gateway.fleet.lanes import ModelLimit
from gateway.hedging_rules import HedgingRules
from gateway.limits import Limits, Timeouts
from gateway.relay.http2 import frames
from tests.support.clocks import turn_relays_by
from tests.support.h2_peers import (
    ANSWER_HEAD,
    INFER,
    OK_TRAILERS,
    STATISTICS,
    STREAM_INFER,
    Exchange,
    message,
)
from tests.support.h2_stage import Stage

RULES = HedgingRules(after_s=0.05, percent=100.0)
STOPPING = [*ANSWER_HEAD, (b"grpc-status", b"14"), (b"grpc-message", b"Server is stopping")]
INTERNAL = [*ANSWER_HEAD, (b"grpc-status", b"13")]

Make = Callable[..., Stage]


@pytest.fixture
def make(make_stage: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(*names: str, hedging: HedgingRules = RULES, **options: object) -> Stage:
        stage = make_stage(*(names or "ab"), hedging=hedging, **options)
        turn_relays_by(monkeypatch, stage.loop.time)
        return stage

    return make


@pytest.fixture
def two(make: Make) -> Stage:
    return make()


def load(stage: Stage) -> str:
    """Return the slices that have something in flight."""
    return "".join(name for name, m in stage.registry.slices.items() if m.in_flight)


def hedged(stage: Stage, size: int = 100) -> tuple[Exchange, Exchange, Exchange]:
    """Let a call go to slice a, and to slice b as well; return the client's, a's and b's."""
    call = stage.client().infers(size=size)
    assert load(stage) == "a"
    stage.advance(0.06)
    assert load(stage) == "ab"
    return call, stage.slice("a").call(), stage.slice("b").call()


@pytest.mark.parametrize("size", [100, 9000, 200_000])
def test_what_is_late_goes_to_a_second_slice_once(two: Stage, size: int) -> None:
    """Also what does not fit into the second slice's windows at once."""
    call, first, second = hedged(two, size)
    for served in (first, second):
        served.reads()
    two.advance(10)
    assert first.body == second.body == message("m", size)
    assert first.ended
    assert second.ended
    assert two.counters.hedges == 1
    second.answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)


def test_the_second_slice_may_win_and_the_first_is_told_to_stop(two: Stage) -> None:
    call, first, second = hedged(two)
    second.sends_head(ANSWER_HEAD)
    assert first.reset_code == frames.CANCEL
    assert load(two) == "b"
    second.sends(b"x" * 50_000)
    second.sends_head(OK_TRAILERS, ends=True)
    assert (call.body, call.grpc_status) == (b"x" * 50_000, 0)
    assert (two.counters.hedges, two.counters.hedges_won) == (1, 1)
    two.assert_at_rest()
    slow, fast = (two.registry.slices[name] for name in "ab")
    assert slow.failures == 0
    assert slow.charge == 1.0, "it may be at it for a while: it must not look idle"
    assert slow.grpc_latency.quantile_s(1.0) >= 0.05, "it must not look fast"
    assert fast.grpc_latency.quantile_s(1.0) < 0.02
    assert fast.charge == 0.0


def test_the_first_slice_may_win_and_the_second_is_told_to_stop(two: Stage) -> None:
    call, first, second = hedged(two)
    first.answers(b"reply")
    assert second.reset_code == frames.CANCEL
    assert (call.body, call.grpc_status, two.counters.hedges_won) == (b"reply", 0, 0)
    assert two.registry.slices["b"].grpc_latency.count == 0, "nobody knows how long it would take"
    assert two.registry.slices["b"].charge == 1.0
    two.assert_at_rest()


def test_an_error_from_the_second_slice_is_none_for_the_client(two: Stage) -> None:
    call, first, second = hedged(two)
    second.sends_head(INTERNAL, ends=True)
    assert not call.head
    assert two.registry.slices["b"].failures == 1
    assert load(two) == "a"
    two.advance(1)
    assert two.counters.hedges == 1
    first.answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)


def test_an_error_from_the_first_slice_is_its_answer(two: Stage) -> None:
    call, first, second = hedged(two)
    first.sends_head(INTERNAL, ends=True)
    assert call.grpc_status == 13
    assert second.reset_code == frames.CANCEL
    two.assert_at_rest()


HOW = {
    "breaks": lambda served: served.peer.cuts(),
    "resets": lambda served: served.resets(frames.INTERNAL_ERROR),
    "refuses": lambda served: served.resets(frames.REFUSED_STREAM),
    "leaves": lambda served: served.peer.raw(frames.goaway(0, frames.NO_ERROR)),
    "stops": lambda served: served.sends_head(STOPPING, ends=True),
    "speaks nonsense": lambda served: served.sends_head([(b":status", b"abc")]),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("failing", ["first", "second"])
def test_when_one_fails_the_other_is_waited_for(make: Make, how: str, failing: str) -> None:
    stage = make("a", "b", "c")
    call, first, second = hedged(stage)
    failed, other = (first, second) if failing == "first" else (second, first)
    HOW[how](failed)
    assert load(stage) == ("b" if failing == "first" else "a")
    assert not call.head
    assert stage.counters.replays == 0
    stage.advance(1)
    assert stage.counters.hedges == 1
    other.answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)
    stage.assert_at_rest()


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_slices_that_break_are_the_last(make: Make, order: tuple[str, str]) -> None:
    """Hedged or replayed: what may have killed two is not given to a third, and not again."""
    stage = make("a", "b", "c")
    call, _, _ = hedged(stage)
    for name in order:
        stage.slice(name).connection.cuts()
    assert call.grpc_status == 14
    assert load(stage) == ""
    assert stage.counters.quarantines == 1


def test_a_slice_that_turns_the_second_away_leaves_the_first_its_replay(make: Make) -> None:
    """It has certainly not begun, so the call has been with one slice only."""
    stage = make("a", "b", "c")
    call, first, second = hedged(stage)
    second.resets(frames.REFUSED_STREAM)
    first.peer.cuts()
    stage.slice("c").call().answers(b"reply")
    assert call.body == b"reply"


@pytest.mark.parametrize("then", ["first fails", "first answers", "is refused", "client leaves"])
def test_a_second_slice_whose_connection_is_not_open_yet(make: Make, then: str) -> None:
    stage = make("a", "b", "c")
    stage.slice("b").holding = True
    call = stage.client().infers()
    stage.advance(0.06)
    assert load(stage) == "ab"
    if then == "first answers":
        stage.slice("a").call().answers(b"reply")
        assert load(stage) == ""
    elif then == "client leaves":
        call.resets()
        assert load(stage) == ""
    elif then == "first fails":
        stage.slice("a").call().peer.cuts()
        assert load(stage) == "b"
    else:
        stage.slice("b").refusing = True
    stage.slice("b").holding = False
    stage.slice("b").answer_dials()
    stage.settle()
    if then == "first fails":
        [served] = stage.slice("b").waiting()
        served.answers(b"reply")
    elif then == "is refused":
        assert load(stage) == "a"
        stage.slice("a").call().answers(b"reply")
    else:
        assert not stage.slice("b").waiting()
    assert call.body == (b"" if then == "client leaves" else b"reply")
    stage.assert_at_rest()


@pytest.mark.parametrize("how", ["resets", "hangs up", "runs out of time"])
def test_a_client_that_leaves_ends_both(make: Make, how: str) -> None:
    stage = make()
    more = [(b"grpc-timeout", b"1S")] if how == "runs out of time" else []
    client = stage.client()
    call = client.calls(INFER, message("m"), ends=True, more=more)
    stage.advance(0.06)
    first, second = stage.slice("a").call(), stage.slice("b").call()
    if how == "resets":
        call.resets()
    elif how == "hangs up":
        client.cuts()
    else:
        stage.advance(1)
        assert call.grpc_status == 4
    assert first.reset_code == second.reset_code == frames.CANCEL
    stage.assert_at_rest()


def test_nobody_answers_in_time(make: Make) -> None:
    stage = make(timeouts=Timeouts(response_s=5.0))
    call, first, second = hedged(stage)
    stage.advance(6)
    assert call.grpc_status == 4
    assert first.reset_code == second.reset_code == frames.CANCEL
    assert stage.registry.slices["a"].failures == 1
    assert stage.registry.slices["b"].failures == 0, "it had less time than the first"


def test_the_second_slice_is_told_what_is_left_of_the_deadline(two: Stage) -> None:
    two.client().calls(INFER, message("m"), ends=True, more=[(b"grpc-timeout", b"10S")])
    two.advance(0.3)
    second = two.slice("b").call()
    left = dict(second.head)[b"grpc-timeout"]
    assert left.endswith(b"u")
    assert 9_600_000 < int(left[:-1]) < 9_950_000


# --- where it may not -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [STATISTICS, STREAM_INFER])
def test_only_unary_inferences_are_sent_twice(two: Stage, path: bytes) -> None:
    two.client().calls(path, message("m"), ends=True)
    two.advance(1)
    assert two.counters.hedges == 0


def test_a_call_that_has_not_all_come_is_not_sent_twice(two: Stage) -> None:
    call = two.client().calls(INFER, message("m", 50_000)[:20_000])
    two.advance(1)
    assert (load(two), two.counters.hedges) == ("a", 0)
    call.sends(message("m", 50_000)[20_000:], ends=True)
    two.advance(0.04)
    assert two.counters.hedges == 0, "late is counted from its last byte on"
    two.advance(0.03)
    assert two.counters.hedges == 1


def test_what_is_too_large_to_keep_is_not_sent_twice(make: Make) -> None:
    stage = make(limits=Limits(replay_bytes=1000))
    stage.client().infers(size=30_000)
    stage.advance(1)
    assert stage.counters.hedges == 0


def test_an_answer_that_has_begun_is_not_asked_for_twice(two: Stage) -> None:
    two.client().infers()
    two.slice("a").call().sends_head(ANSWER_HEAD)
    two.advance(1)
    assert two.counters.hedges == 0


def test_a_call_that_was_replayed_is_not_sent_a_third_time(make: Make) -> None:
    stage = make("a", "b", "c")
    stage.client().infers()
    stage.slice("a").call().peer.cuts()
    stage.advance(1)
    assert (stage.counters.replays, stage.counters.hedges) == (1, 0)


def test_a_slice_that_is_drained_is_given_nothing(two: Stage) -> None:
    two.registry.order(two.registry.slices["b"], Order.DRAINED, "test")
    two.client().infers()
    two.advance(1)
    assert two.counters.hedges == 0


def test_with_limits_it_takes_a_free_slot_and_is_never_queued(two: Stage) -> None:
    two.registry.queues.follow("m", ModelLimit(1))
    two.registry.queues.run_by(two.loop.call_soon, two.loop.call_later)
    line = two.registry.queues.lines["m"]
    call, _, second = hedged(two)
    assert [line.lane(two.registry.slices[name]).taken() for name in "ab"] == [1, 1]
    other = two.client().infers()
    assert line.waiting == 1
    second.answers(b"reply")
    two.settle()
    assert line.waiting == 0
    assert [line.lane(two.registry.slices[name]).taken() for name in "ab"] in ([1, 0], [0, 1])
    [served] = [*two.slice("a").waiting(), *two.slice("b").waiting()]
    served.answers(b"other")
    assert (call.body, other.body) == (b"reply", b"other")
    assert [line.lane(two.registry.slices[name]).taken() for name in "ab"] == [0, 0]


def test_no_second_attempt_while_others_wait(two: Stage) -> None:
    two.registry.queues.follow("m", ModelLimit(1))
    client = two.client()
    for _ in range(3):
        client.infers()
    two.advance(1)
    assert two.counters.hedges == 0


def test_a_share_of_the_models_own_answers_says_what_is_late(make: Make) -> None:
    stage = make(hedging=HedgingRules(quantile=0.9, percent=100.0))
    client = stage.client()
    for _ in range(60):
        client.infers()
        stage.advance(0.2)
        [served] = [*stage.slice("a").waiting(), *stage.slice("b").waiting()]
        stage.slice("a" if stage.slice("a").waiting() else "b").call()
        served.answers(b"reply")
    assert stage.counters.hedges == 0
    client.infers()
    stage.advance(0.15)
    assert stage.counters.hedges == 0
    stage.advance(0.2)
    assert stage.counters.hedges == 1
