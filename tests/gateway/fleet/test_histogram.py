"""The histogram's promise: constant memory, and quantiles within a bucket's width."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.histogram import BUCKETS, Histogram, bucket_of, lower_bound

MICROSECONDS = st.integers(0, 2**32)


@given(MICROSECONDS)
def test_a_duration_lies_within_its_bucket(us: int) -> None:
    index = bucket_of(us)
    assert lower_bound(index) <= us < lower_bound(index + 1)


def test_buckets_join_without_gap_or_overlap() -> None:
    for index in range(BUCKETS - 1):
        assert lower_bound(index) < lower_bound(index + 1)
        assert bucket_of(lower_bound(index)) == index


def test_a_bucket_is_at_most_an_eighth_wide() -> None:
    for index in range(8, BUCKETS):
        low, high = lower_bound(index), lower_bound(index + 1)
        assert (high - low) / low <= 0.125


def test_what_is_longer_than_the_last_bucket_counts_as_that() -> None:
    assert bucket_of(2**60) == BUCKETS - 1
    assert bucket_of(-5) == 0


@given(
    st.lists(st.floats(1e-5, 3000.0), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_a_quantile_is_within_an_eighth_of_the_true_one(seconds: list[float], q: float) -> None:
    """A bucket is an eighth wide, and microseconds are whole: that is all the error there is."""
    latency = Histogram()
    for value in seconds:
        latency.add(value)
    true_s = sorted(seconds)[math.ceil(q * len(seconds)) - 1]
    assert abs(latency.quantile_s(q) - true_s) <= 0.125 * true_s + 1e-6


def test_of_no_requests_every_quantile_is_zero() -> None:
    assert Histogram().quantile_s(0.99) == 0.0


@given(st.lists(st.floats(0, 200.0), max_size=100))
def test_cumulative_counts_rise_to_the_total_and_keep_the_sum(seconds: list[float]) -> None:
    latency = Histogram()
    for value in seconds:
        latency.add(value)
    counts = latency.cumulative((0.001, 0.1, 10.0, 1000.0))
    assert counts == sorted(counts)
    assert counts[-1] == latency.count == len(seconds)
    assert abs(latency.total_us / 1e6 - sum(seconds)) <= 1e-6 * (len(seconds) + 1)


@given(st.lists(st.floats(0.0, 20.0), max_size=100), st.sampled_from([0.001, 0.1, 1.0]))
def test_a_bound_takes_in_what_is_below_it_and_nothing_an_eighth_above(
    seconds: list[float], bound_s: float
) -> None:
    latency = Histogram()
    for value in seconds:
        latency.add(value)
    [below] = latency.cumulative((bound_s,))
    assert sum(value <= bound_s for value in seconds) <= below
    assert below <= sum(value <= bound_s * 1.13 for value in seconds)


@given(st.lists(st.floats(0, 100.0), max_size=50), st.lists(st.floats(0, 100.0), max_size=50))
def test_the_sum_of_two_is_what_one_would_have_counted(a: list[float], b: list[float]) -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for value in a:
        one.add(value)
        both.add(value)
    for value in b:
        other.add(value)
        both.add(value)
    assert ((one + other).counts, (one + other).total_us) == (both.counts, both.total_us)


@given(st.lists(st.floats(0, 100), max_size=50), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_several_quantiles_in_one_pass_are_those_one_by_one(
    seconds: list[float], shares: list[float]
) -> None:
    histogram = Histogram()
    for value in seconds:
        histogram.add(value)
    wanted = tuple(sorted(shares))
    assert histogram.quantiles_s(wanted) == [histogram.quantile_s(share) for share in wanted]
