"""Properties of every policy in the table, and of each by itself."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.policies import POLICIES, LeastLoad, RoundRobin
from gateway.fleet.registry import Policy
from gateway.fleet.slices import Slice
from tests.gateway.making import make_slice

WEIGHTS = st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 7.0]), min_size=1, max_size=9)


def fleet(weights: Sequence[float]) -> tuple[Slice, ...]:
    return tuple(make_slice(f"s{i}", weight) for i, weight in enumerate(weights))


def picks(policy: Policy, members: Sequence[Slice], n: int) -> Counter[Slice]:
    """Pick `n` times, each request over before the next; return who was picked how often."""
    found: Counter[Slice] = Counter()
    for _ in range(n):
        member = policy.pick(members)
        assert member is not None
        found[member] += 1
    return found


def assert_within_one(found: Counter[Slice], members: Sequence[Slice]) -> None:
    even = found.total() / len(members)
    assert all(abs(found[member] - even) <= 1 for member in members), found


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]()


def test_of_nobody_nobody_is_picked(policy: Policy) -> None:
    assert policy.pick(()) is None


def test_of_one_that_one_is_picked(policy: Policy) -> None:
    [only] = members = fleet([2.0])
    assert picks(policy, members, 5) == {only: 5}


def test_equal_idle_slices_are_picked_within_one_of_even(policy: Policy) -> None:
    members = fleet([1.0] * 7)
    for _ in range(50):
        found = picks(policy, members, 3)
        assert max(found.values()) == 1
    assert_within_one(picks(policy, members, 701), members)


# --- round robin ------------------------------------------------------------------------------


@given(n=st.integers(1, 12), count=st.integers(0, 200), warm_up=st.integers(0, 30))
def test_round_robin_is_even_within_one_from_any_point_on(n: int, count: int, warm_up: int) -> None:
    members = fleet([1.0] * n)
    policy = RoundRobin()
    picks(policy, members, warm_up)
    assert_within_one(picks(policy, members, count), members)


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 40)),
        min_size=1,
        max_size=8,
    )
)
def test_round_robin_is_even_within_one_through_every_change_of_membership(
    periods: list[tuple[set[int], int]],
) -> None:
    """Slices are toggled at any point of a round, and nobody gets a burst for it."""
    everyone = fleet([1.0] * 8)
    policy = RoundRobin()
    for present, count in periods:
        members = tuple(everyone[i] for i in sorted(present))
        assert_within_one(picks(policy, members, count), members)


def test_round_robin_goes_on_where_it_was_when_a_slice_leaves_and_returns() -> None:
    a, b, c = everyone = fleet([1.0] * 3)
    policy = RoundRobin()
    order = [policy.pick(everyone), policy.pick((b, c)), policy.pick((a, b, c))]
    assert order == [a, b, c]


@given(n=st.integers(2, 8), steps=st.lists(st.booleans(), max_size=60))
def test_retries_do_not_upset_the_rounds_for_long(n: int, steps: list[bool]) -> None:
    """A retry picks among the others; the sums carry it, so the rest of the round makes up for it."""
    members = fleet([1.0] * n)
    policy = RoundRobin()
    found: Counter[Slice] = Counter()
    for is_retry in steps:
        first = policy.pick(members)
        assert first is not None
        found[first] += 1
        if is_retry:
            other = policy.pick([member for member in members if member is not first])
            assert other is not None
            assert other is not first
            found[other] += 1
    assert max(found.values(), default=0) - min(found[m] for m in members) <= 3


@given(weights=WEIGHTS, rounds=st.integers(1, 4))
def test_round_robin_gives_each_its_share_by_weight_exactly(
    weights: list[float], rounds: int
) -> None:
    members = fleet(weights)
    found = picks(RoundRobin(), members, rounds * int(sum(weights)))
    assert all(found[member] == rounds * member.weight for member in members)


@given(weights=WEIGHTS, count=st.integers(1, 60))
def test_round_robin_spreads_a_heavy_slices_turns_out(weights: list[float], count: int) -> None:
    """At no point has anybody had more than one request beyond its share, or lacked two."""
    members = fleet(weights)
    found = picks(RoundRobin(), members, count)
    for member in members:
        due = count * member.weight / sum(weights)
        assert due - 2 < found[member] < due + 1.5


def test_round_robin_forgets_slices_that_are_gone_for_good() -> None:
    policy = RoundRobin()
    for _ in range(100):
        picks(policy, fleet([1.0, 1.0]), 2)
    assert len(policy._picked) <= 2 * 2 + 16 + 2


# --- least load -------------------------------------------------------------------------------


def cost(member: Slice) -> float:
    return (member.in_flight + member.charge + 1.0) / member.weight


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.floats(0, 20), st.sampled_from([0.5, 1.0, 2.0, 7.0])),
        min_size=1,
        max_size=12,
    )
)
def test_least_load_never_picks_a_costlier_slice(loads: list[tuple[int, float, float]]) -> None:
    members = fleet([weight for _, _, weight in loads])
    for member, (in_flight, charge, _) in zip(members, loads, strict=True):
        member.in_flight, member.charge = in_flight, charge
    picked = LeastLoad().pick(members)
    assert picked is not None
    assert cost(picked) == min(map(cost, members))


@given(n=st.integers(1, 12), rounds=st.integers(1, 5))
def test_least_load_lets_ties_rotate(n: int, rounds: int) -> None:
    members = fleet([1.0] * n)
    found = picks(LeastLoad(), members, n * rounds)
    assert set(found.values()) == {rounds}


def test_least_load_fills_slices_in_proportion_to_weight() -> None:
    members = fleet([1.0, 2.0, 4.0])
    for _ in range(70):
        picked = LeastLoad().pick(members)
        assert picked is not None
        picked.begin()
    assert [member.in_flight for member in members] == [10, 20, 40]


def test_a_slice_that_comes_back_takes_its_turn_and_no_herd() -> None:
    """Its empty queue would draw everything; idle, it is warmed by one request after the other."""
    back, *others = members = fleet([1.0] * 4)
    back.drag = 10.0
    assert picks(LeastLoad(), members, 40)[back] == 10
    for member in others:
        for _ in range(5):
            member.begin()
    assert LeastLoad().pick(members) is back
    back.begin()
    assert LeastLoad().pick(members) in others


def test_a_slice_that_fails_fast_draws_no_traffic() -> None:
    """Without the charge its empty queue would make it everyone's first choice."""
    bad, *others = members = fleet([1.0] * 4)
    for _ in range(3):
        bad.failed()
    for member in others:
        member.begin()
        member.begin()
    assert LeastLoad().pick(members) in others
