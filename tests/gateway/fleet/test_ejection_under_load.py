"""The experiments that peers fail, on paper: black holes, herds, flapping, small and large pools."""

import itertools
import random
from math import ceil

import pytest

from gateway.fleet.ejection import EjectionSettings
from gateway.fleet.health import Order
from gateway.fleet.lifecycle import FREE
from gateway.fleet.outcomes import CONNECT_FAILED, LOST, OK, SERVER_ERROR, TIMEOUT
from gateway.fleet.slices import Slice
from tests.gateway.fleet.simulation import Behaviour, Simulation, serve_in
from tests.gateway.making import live

AT_ONCE_S = 0.001
AT_ONCE = EjectionSettings(slow_start_s=0.0)


def fail_at_once(outcome: int = SERVER_ERROR) -> Behaviour:
    return lambda member, now_s: (AT_ONCE_S, outcome)


@pytest.mark.parametrize("policy", ["least_load", "round_robin"])
@pytest.mark.parametrize("outcome", [CONNECT_FAILED, LOST, SERVER_ERROR])
def test_a_slice_that_fails_at_once_is_out_after_five_requests(policy: str, outcome: int) -> None:
    """Peers: a full scan sends such a slice 92 % of a closed loop, and ejects it never."""
    fleet = Simulation(4, serve_in(0.05), policy)
    fleet.behaviours["s1"] = fail_at_once(outcome)
    fleet.clients(12)
    fleet.run(4.0)
    assert fleet.told("ejected") == ["s1"]
    # Those that were on their way when the fifth failed come on top.
    assert 5 <= fleet.given["s1"] <= 5 + 12
    assert fleet.outcomes[outcome] == fleet.given["s1"]
    assert fleet.refused == 0


def test_without_ejection_the_charge_alone_keeps_the_black_hole_shut() -> None:
    fleet = Simulation(4, serve_in(0.05), settings=EjectionSettings(enabled=False))
    fleet.behaviours["s1"] = fail_at_once()
    fleet.clients(12)
    fleet.run(20.0)
    assert fleet.told("ejected") == []
    assert fleet.given["s1"] < 0.05 * fleet.given.total()


def test_a_slice_that_fails_half_the_time_is_found_by_its_share() -> None:
    """It never fails five times in a row."""
    turn = [0]

    def every_second(member: Slice, now_s: float) -> tuple[float, int]:
        turn[0] += 1
        return (0.05, SERVER_ERROR if turn[0] % 2 else OK)

    fleet = Simulation(4, serve_in(0.05), "round_robin")
    fleet.behaviours["s2"] = every_second
    fleet.clients(12)
    fleet.run(4.0)
    assert fleet.told("ejected") == ["s2"]
    assert fleet.given["s2"] < 60


@pytest.mark.parametrize("bad", [0.05, 0.2])
def test_a_few_failures_eject_nobody(bad: float) -> None:
    turn = [0]

    def sometimes(member: Slice, now_s: float) -> tuple[float, int]:
        turn[0] += 1
        return (0.05, SERVER_ERROR if turn[0] % round(1 / bad) == 0 else OK)

    fleet = Simulation(7, sometimes)
    fleet.clients(20)
    fleet.run(60.0)
    assert fleet.told("ejected") == []


@pytest.mark.parametrize("outcome", [SERVER_ERROR, TIMEOUT, LOST])
def test_where_all_fail_alike_nobody_is_ejected(outcome: int) -> None:
    """It is the request or the model; fewer slices would only fail more slowly."""
    fleet = Simulation(7, fail_at_once(outcome))
    fleet.clients(8)
    fleet.run(20.0)
    assert fleet.told("ejected") == []
    assert fleet.refused == 0


@pytest.mark.parametrize("slices", [2, 3, 4, 7, 14, 28, 56])
def test_pools_of_any_size_eject_all_that_fail_and_keep_one(slices: int) -> None:
    """Envoy's default ejects nothing from a pool of fewer than ten."""
    fleet = Simulation(slices, serve_in(0.02))
    for i in range(1, slices):
        fleet.behaviours[f"s{i}"] = fail_at_once(LOST)
    fleet.clients(2 * slices)
    fleet.run(4.0)
    assert sorted(set(fleet.told("ejected"))) == sorted(f"s{i}" for i in range(1, slices))
    assert [member.name for member in fleet.registry.pool("infer/m").members] == ["s0"]


def test_the_last_slice_stays_however_it_fails() -> None:
    fleet = Simulation(2, serve_in(0.02))
    fleet.behaviours["s1"] = fail_at_once()
    fleet.clients(4)
    fleet.run(2.0)
    assert fleet.told("ejected") == ["s1"]
    fleet.behaviours["s0"] = fail_at_once()
    fleet.run(1.0)
    assert "s0" not in fleet.told("ejected")
    assert fleet.refused == 0


def test_a_slice_that_goes_on_failing_is_tried_by_one_request_at_a_time_and_ever_more_seldom() -> (
    None
):
    fleet = Simulation(4, serve_in(0.05))
    fleet.behaviours["s1"] = fail_at_once()
    fleet.clients(12)
    fleet.run(5.0)
    before = fleet.given["s1"]
    fleet.run(300.0)
    # 5, 10, 20, 40, 80, 160 s: doubling, give or take a fifth.
    trials = fleet.given["s1"] - before
    assert 4 <= trials <= 7
    assert len(fleet.told("ejected")) == 1 + trials
    out_s = [at_s for at_s, name, event, _ in fleet.events if event == "ejected"]
    gaps = [b - a for a, b in itertools.pairwise(out_s)]
    assert all(b > 1.3 * a for a, b in itertools.pairwise(gaps)), gaps


def test_ejections_never_last_longer_than_the_bound() -> None:
    settings = EjectionSettings(duration_s=1.0, duration_max_s=4.0)
    fleet = Simulation(3, serve_in(0.05), settings=settings)
    fleet.behaviours["s1"] = fail_at_once()
    fleet.clients(6)
    fleet.run(200.0)
    out_s = [at_s for at_s, _, event, _ in fleet.events if event == "ejected"]
    assert max(b - a for a, b in itertools.pairwise(out_s)) < 4.0 * 1.2 + 1.0


def test_a_slice_that_is_well_again_returns_without_a_herd() -> None:
    """All others hold six requests; its empty queue must not draw the next six at once."""
    fleet = Simulation(4, serve_in(0.05))
    fleet.behaviours["s1"] = fail_at_once()
    fleet.clients(24)
    fleet.run(3.0)
    del fleet.behaviours["s1"]
    fleet.peak.clear()
    while not fleet.told("returned"):
        fleet.run(0.05)
    fleet.run(0.5)
    assert fleet.peak["s1"] == 1
    fleet.run(4.0)
    assert 2 <= fleet.peak["s1"] <= 5
    fleet.run(8.0)
    assert fleet["s1"].drag == 1.0
    before = fleet.given["s1"], fleet.given.total()
    fleet.run(5.0)
    share = (fleet.given["s1"] - before[0]) / (fleet.given.total() - before[1])
    assert share == pytest.approx(0.25, abs=0.02)


def test_a_slice_that_flaps_is_out_for_longer_each_time_and_forgiven_in_the_end() -> None:
    fleet = Simulation(4, serve_in(0.05))

    def flaps(member: Slice, now_s: float) -> tuple[float, int]:
        well = fleet.told("returned")[-1:] and now_s - returned_s() < 3.0
        return (0.05, OK) if well or not member.tallies or is_tried(member) else (0.001, LOST)

    def returned_s() -> float:
        return [at_s for at_s, _, event, _ in fleet.events if event == "returned"][-1]

    def is_tried(member: Slice) -> bool:
        tally = member.tallies.get("")
        return tally is not None and tally.ejection is not FREE

    fleet.behaviours["s1"] = lambda member, now_s: (0.001, LOST)
    fleet.clients(12)
    fleet.run(1.0)
    fleet.behaviours["s1"] = flaps
    fleet.run(60.0)
    times = fleet["s1"].tallies[""].times
    assert 3 <= times <= 6
    del fleet.behaviours["s1"]
    fleet.run(500.0)
    assert fleet["s1"].tallies == {}
    assert len({member.name for member in fleet.registry.pool("infer/m").members}) == 4


def test_a_slow_slice_is_set_aside_where_the_others_are_quick() -> None:
    fleet = Simulation(4, serve_in(0.02), "round_robin")
    fleet.behaviours["s3"] = serve_in(0.2)
    fleet.clients(24)
    fleet.run(20.0)
    assert set(fleet.told("ejected")) == {"s3"}
    [reason] = {t.reason.split(",")[0] for t in fleet["s3"].tallies.values()}
    assert reason.startswith("half of its answers took more than")


@pytest.mark.parametrize(
    ("slices", "slow_s", "settings"),
    [
        (2, 0.5, EjectionSettings()),  # with two, who is the odd one?
        (4, 0.06, EjectionSettings()),  # three times as slow is no outlier
        (4, 0.5, EjectionSettings(latency_factor=0)),
        (4, 0.015, EjectionSettings(latency_min_s=0.02)),
    ],
)
def test_slowness_that_ejects_nobody(
    slices: int, slow_s: float, settings: EjectionSettings
) -> None:
    quick_s = 0.001 if slow_s < 0.02 else 0.02
    fleet = Simulation(slices, serve_in(quick_s), "round_robin", settings)
    fleet.behaviours["s1"] = serve_in(slow_s)
    fleet.clients(6 * slices)
    fleet.run(30.0)
    assert fleet.told("ejected") == []


def test_slices_that_were_busy_while_others_were_out_are_not_slow() -> None:
    """
    Three slices work on a slow model, beyond what they can, while four are out; then all are asked
    for a quick one. What the three did in the window before says nothing against them.
    """
    takes_s = {"slow": 0.1, "quick": 0.002}
    fleet = Simulation(7, serve_in(0.0), settings=AT_ONCE, models=("slow", "quick"))
    fleet.serves = lambda member, now_s: (takes_s[fleet.key.split("/")[1]], OK)
    for name in ("s3", "s4", "s5", "s6"):
        fleet.registry.order(fleet[name], Order.DRAINED, "test")
    fleet.key = "infer/slow"
    fleet.clients(60)
    fleet.run(8.0)
    fleet.key, fleet.pause_s = "infer/quick", 1.0
    for name in ("s3", "s4", "s5", "s6"):
        fleet.registry.order(fleet[name], Order.ENABLED, "test")
    fleet.run(30.0)
    assert fleet.told("ejected") == []


def test_slices_that_were_busy_with_the_same_model_while_others_were_out_are_not_slow() -> None:
    fleet = Simulation(7, serve_in(0.1), settings=AT_ONCE)
    for name in ("s3", "s4", "s5", "s6"):
        fleet.registry.order(fleet[name], Order.DISABLED, "test")
    fleet.clients(60)
    fleet.run(8.0)
    fleet.serves, fleet.pause_s = serve_in(0.001), 1.0
    for name in ("s3", "s4", "s5", "s6"):
        fleet.registry.order(fleet[name], Order.ENABLED, "test")
        fleet.registry.record(fleet[name], live("m"))
    fleet.run(30.0)
    assert fleet.told("ejected") == []


def test_a_slice_that_is_asked_for_a_slower_model_is_not_slow() -> None:
    """As where sequences stay on their slices: the models take what they take."""
    fleet = Simulation(4, serve_in(0.0), models=("slow", "quick"))
    for _ in range(3000):
        for name, member in fleet.registry.slices.items():
            key, took_s = ("infer/slow", 0.2) if name == "s0" else ("infer/quick", 0.002)
            member.answered_http(took_s, key)
        fleet.run(0.01)
    assert fleet.told("ejected") == []


def test_where_all_are_slow_at_once_nobody_is_ejected() -> None:
    fleet = Simulation(7, serve_in(0.01))
    fleet.clients(30)
    fleet.run(20.0)
    fleet.serves = serve_in(2.0)
    fleet.run(40.0)
    assert fleet.told("ejected") == []


def one_by_one(service_s: float, patience_s: float, seed: int) -> Behaviour:
    """
    A slice works on one request after the other, also on those nobody waits for any more.

    Time-outs are found by a sweep every tenth of a second: in the worst case those of one slice
    before those of the next.
    """
    free_s: dict[Slice, float] = {}
    chance = random.Random(seed)

    def serves(member: Slice, now_s: float) -> tuple[float, int]:
        begin_s = max(now_s, free_s.get(member, 0.0))
        free_s[member] = done_s = begin_s + chance.expovariate(1 / service_s)
        if done_s - now_s < patience_s:
            return done_s - now_s, OK
        in_turn_s = 1e-4 * int(member.name[1:])
        return ceil((now_s + patience_s) * 10) / 10 - now_s + in_turn_s, TIMEOUT

    return serves


@pytest.mark.parametrize("clients", [21, 30])
@pytest.mark.parametrize("slices", [2, 4, 7])
def test_more_work_than_can_be_done_in_time_ejects_nobody(slices: int, clients: int) -> None:
    for seed in range(20):
        fleet = Simulation(slices, one_by_one(0.1, 2.0, seed))
        fleet.clients(slices * clients)
        fleet.run(30.0)
        assert fleet.told("ejected") == [], seed
        assert fleet.outcomes[TIMEOUT] > 100


def test_a_slice_that_answers_nothing_in_time_is_ejected_where_others_do() -> None:
    fleet = Simulation(4, serve_in(0.05))
    fleet.behaviours["s1"] = lambda member, now_s: (2.0, TIMEOUT)
    fleet.clients(40)
    fleet.run(2.0 + 0.5 * EjectionSettings().window_s + 1.0)
    assert fleet.told("ejected") == ["s1"]


def test_half_of_the_slices_are_no_outliers() -> None:
    """By turns a short and a long request: of four slices two get all of the long ones."""
    fleet = Simulation(4, serve_in(0.01), "round_robin")
    fleet.behaviours["s1"] = fleet.behaviours["s3"] = serve_in(0.2)
    fleet.clients(20)
    fleet.run(30.0)
    assert fleet.told("ejected") == []


def test_a_model_that_is_slow_on_one_slice_is_ejected_there_alone() -> None:
    takes_s = {"one": 0.02, "two": 0.02}
    fleet = Simulation(4, serve_in(0.0), "round_robin", models=("one", "two"))
    fleet.serves = lambda member, now_s: (
        0.5 if member.name == "s2" and fleet.key == "infer/two" else takes_s[fleet.key[6:]], OK
    )  # fmt: skip
    fleet.clients(24)
    for turn in range(60):
        fleet.key = ("infer/one", "infer/two")[turn % 2]
        fleet.run(0.7)
    assert {(name, model) for _, name, event, model in fleet.events if event == "ejected"} == {
        ("s2", "two")
    }


def test_a_small_slice_may_be_slower_than_the_large_ones() -> None:
    fleet = Simulation(4, serve_in(0.02), "round_robin")
    for name in ("s0", "s1", "s2"):
        fleet[name].weight = 3.0
    fleet.behaviours["s3"] = serve_in(0.25)
    fleet.clients(24)
    fleet.run(30.0)
    assert fleet.told("ejected") == []


def test_the_operators_word_stands_whatever_the_panic() -> None:
    fleet = Simulation(3, serve_in(0.02))
    fleet.clients(6)
    fleet.behaviours["s0"] = fail_at_once(LOST)
    while not fleet.told("ejected"):
        fleet.run(0.05)
    fleet.registry.order(fleet["s1"], Order.DRAINED, "test")
    fleet.registry.order(fleet["s2"], Order.DISABLED, "test")
    fleet.run(1.0)  # the simulation asserts that nothing goes to those two
    assert fleet.registry.panicking
    assert fleet.told("panic") == [""]
    fleet.registry.order(fleet["s1"], Order.ENABLED, "test")
    fleet.run(0.1)
    assert not fleet.registry.panicking
    assert fleet.refused == 0
