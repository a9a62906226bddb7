"""The sliding window counts exactly what its definition says."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.tally import BUCKETS, Tally


@given(
    st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=60),
    st.floats(0, 15),
)
def test_the_window_holds_the_last_ten_buckets(
    steps: list[tuple[float, bool]], later: float
) -> None:
    tally = Tally("m", 10.0, 1000.0)
    now_s, seen = 1000.0, []
    for gap_s, failed in steps:
        now_s += gap_s
        (tally.failed if failed else tally.succeeded)(now_s)
        seen.append((int(now_s), failed))
    now_s += later
    within = [failed for at, failed in seen if at > int(now_s) - BUCKETS]
    assert tally.totals(now_s) == (len(within), sum(within))
    assert tally.share(now_s) == (sum(within) / len(within) if within else 0.0)


def test_a_clock_that_stands_still_or_steps_back_loses_nothing() -> None:
    tally = Tally("", 10.0, 50.0)
    tally.failed(50.0)
    tally.failed(49.0)
    assert tally.totals(50.0) == (2, 2)


def test_a_row_ends_with_a_success() -> None:
    tally = Tally("", 10.0, 0.0)
    for at_s in (0.0, 20.0, 40.0):
        tally.failed(at_s)
    assert tally.streak == 3
    tally.succeeded(41.0)
    assert tally.streak == 0
