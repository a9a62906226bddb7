"""What one outcome changes, and what no order of outcomes, checks and orders can bring about."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.balance.policies import POLICIES
from gateway.fleet.ejection import TRIAL_S, EjectionSettings
from gateway.fleet.health import CheckResult, Order, Thresholds
from gateway.fleet.lifecycle import DUE, EJECTED, FREE, TRYING
from gateway.fleet.outcomes import (
    CONNECT_FAILED,
    LOST,
    OK,
    REJECTED,
    SERVER_ERROR,
    TIMEOUT,
    of_grpc_status,
    of_http_status,
)
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from tests.gateway.making import REFUSED, Clock, Fleet, live, make_spec

TIMED_OUT = CheckResult(False, "not answered in time")


def end(fleet: Fleet, name: str, outcome: int, key: str = "infer/m", times: int = 1) -> None:
    for _ in range(times):
        fleet.registry.attempt_ended(fleet[name], key, outcome)


def eject(fleet: Fleet, name: str, outcome: int = LOST) -> None:
    end(fleet, name, outcome, times=5)


def wait(fleet: Fleet, seconds: float) -> None:
    fleet.clock.now_s += seconds
    fleet.registry.tick(seconds)


def test_five_lost_connections_take_the_slice_out_of_every_pool() -> None:
    fleet = Fleet("a", "b")
    end(fleet, "a", LOST, times=4)
    assert fleet.members() == ["a", "b"]
    end(fleet, "a", LOST)
    for key in ("", "call", "infer/m", "infer/m/1", "call/m"):
        assert fleet.members(key) == ["b"]
    assert fleet["a"].state.value == "ejected"
    assert fleet.told == [("a", "ejected")]


def test_five_server_errors_take_out_the_model_on_that_slice_and_nothing_else() -> None:
    """A dead Python stub: the server is ready, the model says it is, and each inference fails."""
    fleet = Fleet("a", "b")
    for name in "ab":
        fleet.registry.record(fleet[name], live("m", "n"))
    eject(fleet, "a", SERVER_ERROR)
    assert fleet.members("infer/m") == fleet.members("infer/m/1") == ["b"]
    assert fleet.members("infer/n") == fleet.members("call/m") == fleet.members() == ["a", "b"]
    assert fleet["a"].state.value == "ready"


def test_time_outs_are_judged_when_it_is_known_how_the_others_do() -> None:
    """Where there is too much work one slice is late five times before any other is."""
    fleet = Fleet("a", "b", "c", "d")
    end(fleet, "a", TIMEOUT, times=5)
    wait(fleet, 0.5)
    for name in "bc":
        end(fleet, name, TIMEOUT)
    wait(fleet, 10.0)
    assert fleet.members("infer/m") == ["a", "b", "c", "d"]
    end(fleet, "a", TIMEOUT, times=5)
    wait(fleet, 1.0)
    end(fleet, "b", TIMEOUT)
    end(fleet, "b", OK, times=50)
    wait(fleet, 4.5)
    assert fleet.members("infer/m") == ["b", "c", "d"]


def test_a_success_ends_the_row() -> None:
    fleet = Fleet("a", "b")
    end(fleet, "a", LOST, times=4)
    end(fleet, "a", OK)
    end(fleet, "a", LOST, times=4)
    assert fleet.members() == ["a", "b"]


def test_other_calls_that_go_well_do_not_hide_a_model_that_fails() -> None:
    """Its metadata can be had all the while."""
    fleet = Fleet("a", "b")
    for _ in range(5):
        end(fleet, "a", SERVER_ERROR)
        end(fleet, "a", OK, "call/m")
    assert fleet.members("infer/m") == ["b"]


def test_rejections_say_nothing_and_cost_nothing() -> None:
    fleet = Fleet("a", "b")
    end(fleet, "a", REJECTED, times=50)
    assert (fleet["a"].failures, fleet["a"].charge, fleet["a"].tallies) == (0, 0.0, {})


def test_an_unknown_model_makes_no_tally() -> None:
    """What clients name is not remembered."""
    fleet = Fleet("a", "b")
    end(fleet, "a", SERVER_ERROR, "infer/x", times=50)
    assert fleet["a"].tallies == {}
    end(fleet, "a", TIMEOUT, "infer/x")
    assert list(fleet["a"].tallies) == [""]


def test_every_failure_is_counted_and_charged_once() -> None:
    fleet = Fleet("a", "b", "c")
    for outcome in (CONNECT_FAILED, LOST, SERVER_ERROR, TIMEOUT):
        end(fleet, "a", outcome)
    assert (fleet["a"].failures, fleet["a"].charge) == (4, 4.0)


def test_what_a_slice_that_is_down_had_does_not_keep_it_out_when_it_is_back() -> None:
    """A server that hung, with fifty requests that were then sent elsewhere, comes to itself."""
    fleet = Fleet("a", "b")
    for _ in range(3):
        fleet.registry.record(fleet["a"], TIMED_OUT)
    end(fleet, "a", TIMEOUT, times=50)
    assert fleet["a"].failures == 50
    for _ in range(2):
        fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members("infer/m") == ["a", "b"]


def test_a_trial_that_goes_down_with_its_slice_is_no_trial() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    wait(fleet, 6.1)
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    fleet.registry.record(fleet["a"], REFUSED)
    end(fleet, "a", LOST)
    assert fleet["a"].ejection is DUE


def test_in_a_panic_who_answers_his_checks_comes_before_who_does_not() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "b", SERVER_ERROR)
    fleet.clock.now_s += 1
    for _ in range(3):
        fleet.registry.record(fleet["a"], TIMED_OUT)
    pool = fleet.registry.pool("infer/m")
    assert set(pool.reserve) == {fleet["a"], fleet["b"]}
    assert {pool.pick() for _ in range(4)} == {fleet["b"]}
    assert pool.has_other([fleet["a"]])
    assert not pool.has_other([fleet["b"]])


def test_one_request_tries_a_slice_whose_time_is_over() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    pool = fleet.registry.pool("infer/m")
    assert {pool.pick() for _ in range(4)} == {fleet["b"]}
    wait(fleet, 6.1)
    assert fleet["a"].ejection is DUE
    assert pool.pick() is fleet["a"]
    assert fleet["a"].ejection is TRYING
    assert {fleet.registry.pool(key).pick() for key in ("", "call", "infer/m")} == {fleet["b"]}
    end(fleet, "a", OK)
    assert fleet.members("infer/m") == ["a", "b"]
    assert fleet["a"].drag > 1
    assert [event for _, event in fleet.told] == ["ejected", "due", "returned"]


def test_a_trial_that_fails_is_out_for_twice_as_long() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    wait(fleet, 6.1)
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    end(fleet, "a", LOST)
    assert fleet["a"].ejection is EJECTED
    wait(fleet, 7.9)
    assert fleet["a"].ejection is EJECTED
    wait(fleet, 4.2)
    assert fleet["a"].ejection is DUE


@pytest.mark.parametrize("undecided", [REJECTED, None])
def test_a_trial_without_an_outcome_is_followed_by_another(undecided: int | None) -> None:
    """The client went away; or the request takes longer than anybody waits to know."""
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    wait(fleet, 6.1)
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    if undecided is None:
        wait(fleet, TRIAL_S)
    else:
        end(fleet, "a", undecided)
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]


def test_a_retry_never_tries_a_slice_out() -> None:
    fleet = Fleet("a", "b", "c")
    eject(fleet, "a")
    wait(fleet, 6.1)
    pool = fleet.registry.pool("infer/m")
    assert pool.pick_other([fleet["b"]]) is fleet["c"]
    assert pool.pick_other([fleet["b"], fleet["c"]]) is None
    assert fleet["a"].ejection is DUE


def test_answers_from_before_an_ejection_do_not_end_it() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    end(fleet, "a", OK, times=10)
    end(fleet, "a", LOST, times=10)
    assert (fleet["a"].ejection, fleet["a"].tallies[""].times) == (EJECTED, 1)


def test_checks_that_pass_do_not_end_an_ejection() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    for _ in range(5):
        fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members() == ["b"]


def test_another_server_under_the_name_starts_over() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    fleet.registry.replace([make_spec("a", 19000), fleet.specs[1]])
    assert (fleet["a"].ejection, fleet["a"].tallies) == (FREE, {})
    fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members() == ["a", "b"]


def test_a_model_that_is_unloaded_takes_its_ejection_along() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a", SERVER_ERROR)
    fleet.registry.record(fleet["a"], live())
    wait(fleet, 0.5)
    fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members("infer/m") == ["a", "b"]


def test_when_the_others_go_down_the_ejected_slice_is_asked_rather_than_nobody() -> None:
    fleet = Fleet("a", "b")
    eject(fleet, "a")
    fleet.registry.condemn(fleet["b"], "refused")
    assert fleet.registry.panicking
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    assert fleet.members() == []
    fleet.registry.record(fleet["b"], live("m"))
    fleet.registry.record(fleet["b"], live("m"))
    assert not fleet.registry.panicking
    assert fleet.registry.pool("infer/m").pick() is fleet["b"]


def test_a_model_that_is_ejected_where_it_is_left_is_asked_there_rather_than_elsewhere() -> None:
    """Slices without the model would answer that they do not know it."""
    fleet = Fleet("a", "b", "c")
    fleet.registry.record(fleet["c"], live("other"))
    eject(fleet, "a", SERVER_ERROR)
    fleet.registry.condemn(fleet["b"], "refused")
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    assert not fleet.registry.panicking


def test_in_panic_the_turn_passes_with_each_failure() -> None:
    fleet = Fleet("a", "b", "c")
    eject(fleet, "a")
    eject(fleet, "b")
    fleet.registry.condemn(fleet["c"], "refused")
    picked = []
    for _ in range(4):
        fleet.clock.now_s += 0.1
        target = fleet.registry.pool("infer/m").pick()
        assert target is not None
        picked.append(target.name)
        end(fleet, target.name, LOST)
    assert picked in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


def test_slices_that_hang_are_asked_for_half_a_minute_and_closed_ports_never() -> None:
    fleet = Fleet("a", "b")
    for _ in range(3):
        fleet.registry.record(fleet["a"], TIMED_OUT)
    fleet.registry.record(fleet["b"], REFUSED)
    assert fleet["a"].health.hung
    assert not fleet["b"].health.hung
    assert fleet.registry.pool("infer/m").pick() is fleet["a"]
    assert fleet.registry.pool("infer/m").pick_other([fleet["a"]]) is None
    wait(fleet, 30.1)
    assert fleet.registry.pool("infer/m").pick() is None
    assert not fleet.registry.panicking


def test_slow_start_begins_when_a_slice_comes_back_and_not_when_the_gateway_starts() -> None:
    fleet = Fleet("a", "b")
    assert {member.drag for member in fleet.registry.slices.values()} == {1.0}
    fleet.registry.condemn(fleet["a"], "refused")
    for _ in range(2):
        fleet.registry.record(fleet["a"], live("m"))
    assert fleet["a"].drag == 10.0
    wait(fleet, 5.0)
    assert fleet["a"].drag == pytest.approx(2.0)
    wait(fleet, 5.0)
    assert fleet["a"].drag == 1.0


def test_the_only_slice_starts_at_once() -> None:
    fleet = Fleet("a")
    fleet.registry.condemn(fleet["a"], "refused")
    for _ in range(2):
        fleet.registry.record(fleet["a"], live("m"))
    assert fleet["a"].drag == 1.0


def test_everything_can_be_turned_off() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.ejector.settings = EjectionSettings(consecutive=0, ratio=0.0)
    end(fleet, "a", LOST, times=500)
    fleet.registry.ejector.settings = EjectionSettings(enabled=False)
    end(fleet, "a", LOST, times=500)
    assert fleet.members() == ["a", "b"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, OK), (304, OK), (400, REJECTED), (404, REJECTED), (429, REJECTED), (500, SERVER_ERROR),
     (501, REJECTED), (502, SERVER_ERROR), (503, REJECTED), (504, SERVER_ERROR)],
)  # fmt: skip
def test_http_statuses(status: int, outcome: int) -> None:
    assert of_http_status(status) == outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(b"0", OK), (b"1", REJECTED), (b"2", SERVER_ERROR), (b"3", REJECTED), (b"4", REJECTED),
     (b"5", REJECTED), (b"8", REJECTED), (b"12", REJECTED), (b"13", SERVER_ERROR),
     (b"14", SERVER_ERROR), (b"15", SERVER_ERROR), (b"", LOST)],
)  # fmt: skip
def test_grpc_statuses(status: bytes, outcome: int) -> None:
    assert of_grpc_status(status) == outcome


@pytest.mark.parametrize(
    ("message", "outcome"),
    [(b"[request id: <id_unknown>] Exceeds maximum queue size", REJECTED),
     (b"Request timeout expired", REJECTED), (b"stub process is not healthy", SERVER_ERROR)],
)  # fmt: skip
def test_a_triton_whose_queue_is_full_has_not_failed(message: bytes, outcome: int) -> None:
    """Its queue policy refuses with UNAVAILABLE: five in a row are soon there, in an overload."""
    assert of_grpc_status(b"14", message) == outcome


# --- whatever happens -------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pick", "end", "end", "end", "tick", "check", "order", "replace"]),
        st.integers(0, 10**6),
    ),
    max_size=120,
)


class History:
    """Random steps on a registry, as relays, checks and operators would take them."""

    def __init__(self, slices: int) -> None:
        self.clock = Clock()
        chance = random.Random(5)
        self.registry = SliceRegistry(
            POLICIES["least_load"], Thresholds(), self.clock, chance=chance.random
        )
        self.specs = [make_spec(f"s{i}", 18000 + 10 * i) for i in range(slices)]
        self.registry.replace(self.specs)
        for member in self.members:
            self.registry.record(member, live("m", "n"))
        self.under_way: list[tuple[Slice, str]] = []

    @property
    def members(self) -> list[Slice]:
        return list(self.registry.slices.values())

    def take(self, step: str, chance: random.Random) -> None:
        member = chance.choice(self.members)
        if step == "pick":
            key = chance.choice(["infer/m", "infer/n/1", "call/m", "call", "", "infer/x"])
            could = bool(self.registry.everywhere.members)
            target = self.registry.pool(key).pick()
            assert target is not None or not could, "refused although a slice could serve"
            if target is not None:
                assert target.order is Order.ENABLED
                target.begin()
                self.under_way.append((target, key))
        elif step == "end" and self.under_way:
            target, key = self.under_way.pop(chance.randrange(len(self.under_way)))
            target.end()
            outcome = chance.choice([OK, OK, LOST, LOST, LOST, SERVER_ERROR, TIMEOUT, REJECTED])
            for _ in range(chance.choice([1, 1, 6])):
                self.registry.attempt_ended(target, key, outcome)
        elif step == "tick":
            self.pass_time(chance.choice([0.5, 3.0, 20.0, 400.0]))
        elif step == "check":
            result = chance.choice([live("m", "n"), live("m"), TIMED_OUT, REFUSED])
            self.registry.record(member, result)
        elif step == "order":
            self.registry.order(member, chance.choice(list(Order)), "test")
        elif step == "replace":
            port = chance.choice([18000, 19000])
            self.registry.replace([make_spec("s0", port), *self.specs[1:]])

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.registry.tick(seconds)

    def check_pools(self) -> None:
        registry = self.registry
        for key, pool in registry.pools.items():
            assert list(pool.members) == [
                m for m in self.members if m.routable and has(m, key) and not model_out(m, key)
            ]
            assert not (pool.members and pool.reserve)
        # Nobody is ejected while nobody else serves, unless the others went away afterwards.
        assert registry.panicking == (
            not registry.everywhere.members and bool(registry.everywhere.reserve)
        )


def has(member: Slice, key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 1 or parts[1] in (member.models or {})


def model_out(member: Slice, key: str) -> bool:
    model = key.split("/")[1] if key.startswith("infer/") else ""
    tally = member.tallies.get(model)
    return tally is not None and tally.ejection is not FREE


@settings(max_examples=150, deadline=None)
@given(slices=st.integers(1, 8), steps=STEPS)
def test_whatever_happens_pools_are_right_and_every_slice_comes_back(
    slices: int, steps: list[tuple[str, int]]
) -> None:
    history = History(slices)
    for step, seed in steps:
        history.take(step, random.Random(seed))
        history.check_pools()
    while history.under_way:
        history.take("end", random.Random(1))
    assert sum(member.in_flight for member in history.members) == 0
    # From here on all is well: the operator wants all, checks pass, and requests are answered.
    for member in history.members:
        history.registry.order(member, Order.ENABLED, "test")
    for _ in range(3):
        for member in history.members:
            history.registry.record(member, live("m", "n"))
    for _ in range(10):
        history.pass_time(400.0)
        for key in ("infer/m", "infer/n"):
            for _ in range(slices + 1):
                target = history.registry.pool(key).pick()
                assert target is not None
                history.registry.attempt_ended(target, key, OK)
        history.check_pools()
    assert len(history.registry.everywhere.members) == slices
    assert [member.tallies for member in history.members] == [{}] * slices
    assert {member.charge for member in history.members} == {0.0}
    assert {member.drag for member in history.members} == {1.0}


@settings(max_examples=100, deadline=None)
@given(
    slices=st.integers(2, 56),
    outcomes=st.lists(
        st.tuples(st.integers(0, 55), st.sampled_from([OK, LOST, SERVER_ERROR, TIMEOUT])),
        max_size=400,
    ),
)
def test_traffic_alone_never_ejects_the_last_slice(
    slices: int, outcomes: list[tuple[int, int]]
) -> None:
    history = History(slices)
    members = history.members
    for number, outcome in outcomes:
        for _ in range(3):
            history.registry.attempt_ended(members[number % slices], "infer/m", outcome)
        assert history.registry.everywhere.members
        # One slice may be out as a whole and the other for this model: then both are in reserve.
        pool = history.registry.pools["infer/m"]
        assert pool.members or pool.reserve
