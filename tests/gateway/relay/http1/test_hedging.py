"""A request whose answer is late goes to a second slice as well; the first answer to begin wins."""

from collections.abc import Callable

import pytest

from gateway.fleet.health import CheckResult, Order
from gateway.fleet.lanes import ModelLimit
from gateway.fleet.outcomes import SERVER_ERROR
from gateway.hedging_rules import HedgingRules
from gateway.limits import Limits, Timeouts
from tests.gateway.making import live
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status, took
from tests.support.clocks import turn_relays_by
from tests.support.wire import FakeTransport

RULES = HedgingRules(after_s=0.05, percent=100.0)
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"

Make = Callable[..., Stage]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make_stage(*names: str, rules: HedgingRules = RULES, limits: Limits | None = None,
                   timeouts: Timeouts | None = None) -> Stage:  # fmt: skip
        stage = Stage(*(names or "ab"), hedging=rules, limits=limits, timeouts=timeouts)
        turn_relays_by(monkeypatch, stage.loop.time)
        return stage

    return make_stage


@pytest.fixture
def stage(make: Make) -> Stage:
    return make()


def load(stage: Stage) -> dict[str, tuple[int, int]]:
    """Return (in flight, abandoned) of the slices that have anything."""
    members = stage.fleet.registry.slices.values()
    return {m.name: (m.in_flight, m.abandoned) for m in members if m.in_flight}


def hedged(stage: Stage, request: bytes = INFER) -> FakeTransport:
    """Let a client's request go to slice a, and to slice b as well."""
    client = stage.client()
    client.sends(request)
    assert stage.opened("a") == 1
    stage.pass_time(0.06)
    assert stage.opened("b") == 1
    assert load(stage) == {"a": (1, 0), "b": (1, 0)}
    return client


def test_what_is_late_goes_to_a_second_slice_once(stage: Stage) -> None:
    hedged(stage)
    assert took(stage.slice("b")) == INFER == took(stage.slice("a"))
    stage.pass_time(10)
    assert (stage.opened("a"), stage.opened("b"), stage.counters.hedges) == (1, 1, 1)


def test_what_is_not_late_goes_nowhere_else(stage: Stage) -> None:
    client = stage.client()
    for _ in range(5):
        client.sends(INFER)
        stage.pass_time(0.045)
        stage.slice("a" if stage.fleet["a"].in_flight else "b").sends(OK)
        assert status(client) == 200
    assert stage.counters.hedges == 0
    assert stage.idle


def test_off_means_off(make: Make) -> None:
    stage = make(rules=HedgingRules())
    stage.client().sends(INFER)
    stage.pass_time(10)
    assert stage.opened("b") == 0


@pytest.mark.parametrize("rest", [b"", b"x" * 100_000])
def test_the_second_slice_may_win_and_the_first_is_held_until_it_answers(
    stage: Stage, rest: bytes
) -> None:
    """Triton does not stop for an HTTP client that has gone; its slot is not free before that."""
    client = hedged(stage)
    answer = LARGE + rest if rest else OK
    stage.slice("b").sends(answer)
    assert took(client) == answer
    assert load(stage) == {"a": (1, 1)}
    assert stage.counters.hedges_won == 1
    assert not stage.slice("a").closing
    stage.pass_time(0.2)
    stage.slice("a").sends(OK)
    assert took(client) == b""
    assert stage.idle
    assert not stage.slice("a").closing, "the connection can be used again"
    assert stage.fleet["a"].http_latency.quantile_s(1.0) > 0.2, "it was as slow as it was"
    assert stage.fleet["b"].http_latency.quantile_s(1.0) < 0.02
    client.sends(INFER)
    stage.slice("a" if stage.fleet["a"].in_flight else "b").sends(OK)
    assert took(client) == OK


def test_the_first_slice_may_win_and_the_second_is_held(stage: Stage) -> None:
    client = hedged(stage)
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert load(stage) == {"b": (1, 1)}
    assert stage.counters.hedges_won == 0
    stage.slice("b").sends(OK)
    assert took(client) == b""
    assert stage.idle


def test_an_error_from_the_second_slice_is_none_for_the_client(stage: Stage) -> None:
    client = hedged(stage)
    stage.slice("b").sends(ERROR)
    assert took(client) == b""
    assert stage.fleet["b"].failures == 1
    assert load(stage) == {"a": (1, 0)}
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_an_error_from_the_first_slice_is_its_answer(stage: Stage) -> None:
    """5xx are not replayed, hedged or not."""
    client = hedged(stage)
    stage.slice("a").sends(ERROR)
    assert took(client) == ERROR
    stage.slice("b").sends(OK)
    assert stage.idle


@pytest.mark.parametrize("how", ["resets", "nonsense", "refuses"])
def test_when_the_first_fails_the_second_is_waited_for(make: Make, how: str) -> None:
    stage = make("a", "b", "c")
    if how == "refuses":
        stage.dialer.silent.add(stage.port("a"))
        client = stage.client()
        client.sends(INFER)
        stage.pass_time(0.06)
        stage.dialer.time_out()
    else:
        client = hedged(stage)
        if how == "resets":
            stage.slice("a").resets()
        else:
            stage.slice("a").sends(b"nonsense\r\n\r\n")
    stage.run()
    assert load(stage) == {"b": (1, 0)}
    assert (stage.fleet["a"].failures, stage.counters.replays) == (1, 0)
    stage.slice("b").sends(OK)
    assert took(client) == OK
    assert stage.opened("c") == 0
    assert stage.idle


@pytest.mark.parametrize("first", "ab")
def test_two_slices_that_break_are_the_last(make: Make, first: str) -> None:
    """Hedged or replayed: what may have killed two is not given to a third, and not again."""
    stage = make("a", "b", "c")
    client = hedged(stage)
    stage.slice(first).resets()
    stage.run()
    stage.slice("b" if first == "a" else "a").resets()
    assert status(client) == 502
    assert stage.opened("c") == 0
    assert stage.counters.quarantines == 1
    assert stage.idle


def test_a_second_slice_that_cannot_be_reached_is_forgotten(stage: Stage) -> None:
    stage.dialer.silent.add(stage.port("b"))
    client = stage.client()
    client.sends(INFER)
    stage.pass_time(0.06)
    assert load(stage) == {"a": (1, 0), "b": (1, 0)}
    stage.dialer.time_out()
    stage.run()
    assert load(stage) == {"a": (1, 0)}
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_when_the_first_fails_before_the_second_has_a_connection(stage: Stage) -> None:
    stage.dialer.silent.add(stage.port("b"))
    client = stage.client()
    client.sends(INFER)
    stage.pass_time(0.06)
    stage.slice("a").resets()
    stage.run()
    assert load(stage) == {"b": (1, 0)}
    stage.dialer.silent.clear()
    stage.dialer._next()
    stage.slice("b").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_the_answer_of_a_slice_that_was_waited_for_a_connection_of(stage: Stage) -> None:
    """The first slice takes no connection, the second answers."""
    stage.dialer.silent.add(stage.port("a"))
    client = stage.client()
    client.sends(INFER)
    stage.pass_time(0.06)
    stage.slice("b").sends(OK)
    assert took(client) == OK
    assert stage.idle
    assert not stage.stocks.stock(stage.fleet["a"]).waiting


def test_a_client_that_leaves_leaves_both(stage: Stage) -> None:
    client = hedged(stage)
    client.resets()
    stage.run()
    assert load(stage) == {"a": (1, 1), "b": (1, 1)}
    stage.slice("a").sends(OK)
    stage.slice("b").sends(OK)
    assert stage.idle


def test_a_loser_that_never_answers_is_given_up_in_time(make: Make) -> None:
    stage = make(timeouts=Timeouts(response_s=5.0))
    client = hedged(stage)
    stage.slice("b").sends(OK)
    assert status(client) == 200
    stage.pass_time(6)
    assert stage.slice("a").closing
    assert stage.fleet["a"].failures == 1, "it counts as any other that does not answer"
    assert stage.idle


def test_nobody_answers_in_time(make: Make) -> None:
    stage = make(timeouts=Timeouts(response_s=5.0))
    client = hedged(stage)
    stage.pass_time(5.2)
    assert status(client) == 504
    stage.pass_time(6)
    assert stage.idle


# --- where it may not -------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [
    b"GET /v2/models/m/config HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v2/models/m/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v2/models/m/generate_stream HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v2/models/unknown/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    HEAD % 100_000 + b"x" * 99_999,
])  # fmt: skip
def test_only_whole_inferences_are_sent_twice(stage: Stage, request_: bytes) -> None:
    stage.client().sends(request_)
    stage.pass_time(1)
    assert stage.counters.hedges == 0


def test_what_is_too_large_to_keep_is_not_sent_twice(make: Make) -> None:
    stage = make(limits=Limits(replay_bytes=1000))
    stage.client().sends(HEAD % 100_000 + b"x" * 100_000)
    stage.pass_time(1)
    assert stage.counters.hedges == 0


def test_a_body_is_late_from_its_last_byte_on(stage: Stage) -> None:
    client = stage.client()
    client.sends(HEAD % 100_000 + b"x" * 50_000)
    stage.pass_time(1)
    client.sends(b"x" * 50_000)
    stage.pass_time(0.04)
    assert stage.counters.hedges == 0
    stage.pass_time(0.02)
    assert stage.counters.hedges == 1
    assert took(stage.slice("b")) == HEAD % 100_000 + b"x" * 100_000


def test_a_chunked_body_is_sent_twice_in_the_same_chunks(stage: Stage) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    hedged(stage, head + b"3\r\nabc\r\n0\r\n\r\n")
    assert took(stage.slice("b")) == took(stage.slice("a"))


@pytest.mark.parametrize("why", ["drained", "ejected", "down", "as busy"])
def test_no_other_slice_means_no_second_attempt(stage: Stage, why: str) -> None:
    member = stage.fleet["b"]
    if why == "drained":
        stage.fleet.registry.order(member, Order.DRAINED, "test")
    elif why == "ejected":
        for _ in range(5):
            stage.fleet.registry.attempt_ended(member, "infer/m", SERVER_ERROR)
    elif why == "down":
        for _ in range(3):
            stage.fleet.registry.record(member, CheckResult(False, "not answered in time"))
    else:
        member.begin()
    stage.fleet["b"].charge = 0.0
    stage.client().sends(INFER)
    if not stage.fleet["a"].in_flight:  # both are as busy
        stage.client().sends(INFER)
    stage.pass_time(1)
    assert stage.counters.hedges == 0


def test_a_slice_that_is_due_for_its_trial_is_not_tried_by_a_second_attempt(make: Make) -> None:
    stage = make("a", "b")
    for _ in range(5):
        stage.fleet.registry.attempt_ended(stage.fleet["b"], "infer/m", SERVER_ERROR)
    stage.client().sends(INFER)
    stage.fleet.clock.now_s += 60
    stage.fleet.registry.tick(60)
    assert stage.fleet.registry.pool("infer/m").trials
    stage.pass_time(1)
    assert stage.counters.hedges == 0


def test_with_limits_a_second_attempt_takes_a_free_slot_and_gives_it_back(make: Make) -> None:
    stage = make("a", "b")
    stage.fleet.registry.queues.follow("m", ModelLimit(1))
    line = stage.fleet.registry.pool("infer/m").line
    assert line is not None
    client = hedged(stage)
    lanes = [line.lane(stage.fleet[name]) for name in "ab"]
    assert [lane.taken() for lane in lanes] == [1, 1]
    stage.slice("b").sends(OK)
    assert status(client) == 200
    assert [lane.taken() for lane in lanes] == [1, 0], "what is held is held in the lane as well"
    stage.slice("a").sends(OK)
    assert [lane.taken() for lane in lanes] == [0, 0]
    assert stage.idle


def test_no_second_attempt_beyond_a_limit_or_before_those_who_wait(make: Make) -> None:
    stage = make("a", "b")
    stage.fleet.registry.queues.follow("m", ModelLimit(1))
    stage.fleet.registry.queues.run_by(stage.loop.call_soon, stage.loop.call_later)
    clients = [stage.client() for _ in range(3)]
    for client in clients:
        client.sends(INFER)
    stage.pass_time(0.2)
    assert stage.counters.hedges == 0, "both are full, and one waits"
    stage.slice("a").sends(OK)
    stage.pass_time(0.04)
    assert load(stage) == {"a": (1, 0), "b": (1, 0)}, "who waited has the slot"
    stage.slice("a").sends(OK)
    stage.pass_time(0.01)
    assert stage.counters.hedges == 1, "nobody waits, and there is room"


def test_at_most_a_share_of_the_traffic_is_sent_twice(make: Make) -> None:
    stage = make(rules=HedgingRules(after_s=0.05, percent=10.0))
    client = stage.client()
    for _ in range(200):
        client.sends(INFER)
        stage.pass_time(0.1)
        for name in "ab":
            if stage.fleet[name].in_flight:
                stage.slice(name).sends(OK)
                stage.run()
    assert 19 <= stage.counters.hedges <= 20


def test_a_share_that_was_not_needed_is_kept_for_a_bad_moment_but_not_all_of_it(make: Make) -> None:
    stage = make()
    client = stage.client()
    for _ in range(100):
        client.sends(INFER)
        stage.run()
        stage.slice("a" if stage.fleet["a"].in_flight else "b").sends(OK)
        stage.run()
    stage.pass_time(0.1)
    stage.fleet["b"].charge = 100.0
    clients = [stage.client() for _ in range(60)]
    for one in clients:
        one.sends(INFER)
    stage.run()
    assert stage.fleet["a"].in_flight == 60
    stage.fleet["b"].charge = 0.0
    stage.pass_time(0.055)
    assert stage.counters.hedges <= 30, "and never so many that the second has as much to do"
    assert stage.counters.hedges >= 20


def test_a_reload_turns_it_on_and_off(make: Make) -> None:
    stage = make(rules=HedgingRules())
    core = stage.core
    core.configure(core.limits, core.timeouts, hedging=RULES)
    client = hedged(stage)
    core.configure(core.limits, core.timeouts)
    stage.slice("b").sends(OK)
    assert status(client) == 200
    stage.slice("a").sends(OK)
    client.sends(INFER)
    stage.pass_time(1)
    assert stage.counters.hedges == 1


def test_a_share_of_the_models_own_answers_says_what_is_late(make: Make) -> None:
    stage = make(rules=HedgingRules(quantile=0.9, percent=100.0))
    stage.fleet.registry.record(stage.fleet["a"], live("m", "slow"))
    stage.fleet.registry.record(stage.fleet["b"], live("m", "slow"))
    client = stage.client()
    for model, seconds in ((b"m", 0.01), (b"slow", 0.5)):
        for _ in range(60):
            client.sends(INFER.replace(b"/m/", b"/%s/" % model))
            stage.pass_time(seconds)
            stage.slice("a" if stage.fleet["a"].in_flight else "b").sends(OK)
            assert status(client) == 200
    stage.pass_time(1.1)
    assert stage.counters.hedges == 0
    client.sends(INFER.replace(b"/m/", b"/slow/"))
    stage.pass_time(0.4)
    assert stage.counters.hedges == 0, "it takes as long as that"
    other = stage.client()
    other.sends(INFER)
    stage.pass_time(0.02)
    assert stage.counters.hedges == 0, "the other slice has as much to do"
    stage.slice("a").sends(OK)
    stage.slice("b").sends(OK)
    stage.run()
    assert stage.idle
    other.sends(INFER)
    stage.pass_time(0.02)
    assert stage.counters.hedges == 1
