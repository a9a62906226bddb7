"""Which slices take which requests, and who is told when that changes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.policies import POLICIES, RoundRobin
from gateway.fleet.health import CheckResult, Health, Order
from tests.gateway.making import REFUSED, Fleet, live, make_spec

NAMES = ("a", "b", "c")


def test_a_new_slice_takes_nothing_before_it_was_checked() -> None:
    fleet = Fleet()
    fleet.registry.replace([make_spec("a")])
    assert fleet.members() == []
    fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members() == ["a"]
    assert fleet.told == [("a", "added"), ("a", "health")]


def test_inference_goes_where_the_model_and_version_are_ready() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.record(fleet["a"], live("m", "n", versions=("1", "2")))
    assert fleet.members("infer/m") == ["a", "b"]
    assert fleet.members("infer/m/2") == ["a"]
    assert fleet.members("infer/n") == fleet.members("call/n") == ["a"]


def test_a_model_nobody_knows_goes_to_any_slice() -> None:
    fleet = Fleet("a", "b")
    assert fleet.registry.pool("infer/unknown") is fleet.registry.everywhere
    assert fleet.registry.pool("call/unknown") is fleet.registry.calls
    assert set(fleet.registry.pools) == {"", "call", "infer/m", "infer/m/1", "call/m"}


def test_a_pool_that_is_no_more_sends_to_nobody() -> None:
    """A relay may still hold it; its members may be down by now."""
    fleet = Fleet("a")
    held = fleet.registry.pool("infer/m")
    fleet.registry.record(fleet["a"], live())
    assert held.members == ()
    assert "infer/m" not in fleet.registry.pools


def test_a_check_that_did_not_learn_the_models_leaves_them_as_they_were() -> None:
    fleet = Fleet("a")
    fleet.registry.record(fleet["a"], CheckResult(True, "live; index not answered"))
    assert fleet.members("infer/m") == ["a"]


def test_a_slice_out_of_order_takes_nothing_and_is_checked_anew_when_it_returns() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.order(fleet["a"], Order.DISABLED, "test")
    assert fleet.members() == ["b"]
    fleet.registry.order(fleet["a"], Order.ENABLED, "test")
    assert (fleet.members(), fleet["a"].health.health) == (["b"], Health.UNKNOWN)
    fleet.registry.record(fleet["a"], live("m"))
    assert fleet.members() == ["a", "b"]


def test_a_drained_slice_returns_without_a_check_because_checks_went_on() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.order(fleet["a"], Order.DRAINED, "test")
    assert fleet.members("infer/m") == ["b"]
    fleet.registry.order(fleet["a"], Order.ENABLED, "test")
    assert fleet.members("infer/m") == ["a", "b"]


def test_the_same_order_twice_tells_nobody() -> None:
    fleet = Fleet("a")
    fleet.registry.order(fleet["a"], Order.DRAINED, "test")
    fleet.registry.order(fleet["a"], Order.DRAINED, "test")
    assert fleet.told == [("a", "order")]


def test_evidence_from_traffic_takes_a_slice_out_at_once() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.condemn(fleet["a"], "refused")
    fleet.registry.condemn(fleet["a"], "refused")
    assert fleet.members() == ["b"]
    assert fleet.told == [("a", "health")]


def test_a_slice_that_is_gone_gets_nothing_and_keeps_what_it_has_in_flight() -> None:
    fleet = Fleet("a", "b")
    gone = fleet["a"]
    gone.begin()
    fleet.registry.replace(fleet.specs[1:])
    assert fleet.members() == ["b"]
    assert (gone.in_flight, gone.routable) == (1, False)
    gone.end()
    assert fleet.told == [("a", "removed")]


def test_new_endpoints_under_an_old_name_are_checked_anew_and_keep_order_and_totals() -> None:
    fleet = Fleet("a", "b")
    before = fleet["a"]
    before.http_requests = 7
    fleet.registry.order(before, Order.DRAINED, "test")
    fleet.registry.replace([make_spec("a", port=19000), fleet.specs[1]])
    assert fleet["a"] is before
    assert (before.health.health, before.models) == (Health.UNKNOWN, None)
    assert (before.order, before.http_requests, before.spec.http.port) == (Order.DRAINED, 7, 19000)


def test_a_new_weight_alone_needs_no_new_check() -> None:
    fleet = Fleet("a")
    fleet.registry.replace([make_spec("a", weight=3)])
    assert (fleet["a"].weight, fleet.members()) == (3, ["a"])


def test_slices_stand_in_the_order_they_were_given() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.replace([make_spec("c"), *reversed(fleet.specs)])
    assert list(fleet.registry.slices) == ["c", "b", "a"]


def test_another_policy_holds_from_the_next_pick_in_every_pool() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.set_policy(POLICIES["round_robin"])
    policies = [pool.policy for pool in fleet.registry.pools.values()]
    assert all(isinstance(policy, RoundRobin) for policy in policies)
    assert len({id(policy) for policy in policies}) == len(policies)


def test_a_retry_picks_nobody_who_was_tried() -> None:
    fleet = Fleet("a", "b")
    pool = fleet.registry.everywhere
    assert pool.pick_other([fleet["a"]]) is fleet["b"]
    assert pool.pick_other([fleet["a"], fleet["b"]]) is None


def test_a_charge_is_gone_after_about_ten_seconds() -> None:
    fleet = Fleet("a")
    fleet["a"].failed()
    for _ in range(20):
        fleet.registry.decay_charges(0.5)
    assert fleet["a"].charge < 0.06
    for _ in range(20):
        fleet.registry.decay_charges(0.5)
    assert fleet["a"].charge == 0.0


STEPS = st.lists(
    st.tuples(st.sampled_from(["replace", "order", "check", "condemn"]), st.integers(0, 10**6)),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_pools_hold_exactly_the_routable_slices(
    steps: list[tuple[str, int]],
) -> None:
    """Every pool is derived; after any history it is what its definition says."""
    fleet = Fleet(*NAMES)
    for step, seed in steps:
        chance = random.Random(seed)
        present = list(fleet.registry.slices.values())
        if step == "replace":
            names = chance.sample(NAMES, chance.randint(0, 3))
            fleet.registry.replace([make_spec(name, chance.choice([1, 5])) for name in names])
        elif present and step == "order":
            fleet.registry.order(chance.choice(present), chance.choice(list(Order)), "test")
        elif present and step == "check":
            result = chance.choice([live("m"), live("m", "n"), live(), REFUSED])
            fleet.registry.record(chance.choice(present), result)
        elif present:
            fleet.registry.condemn(chance.choice(present), "test")
        routable = [member for member in fleet.registry.slices.values() if member.routable]
        assert list(fleet.registry.everywhere.members) == routable
        assert fleet.registry.calls.members == fleet.registry.everywhere.members
        for key, pool in fleet.registry.pools.items():
            if "/" in key:
                model = key.split("/")[1]
                assert list(pool.members) == [m for m in routable if model in (m.models or {})]
        assert sum(fleet.registry.health_counts.values()) == len(fleet.registry.slices)
