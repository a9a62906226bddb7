"""Sums of counters: right, and never falling, whatever slices do between two readings."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.triton.statistics import Ledger, ModelStatistics

KEY = ("m", "1")
COUNT = ("inference_count",)
NS = ("inference_stats", "queue", "ns")


def reading(count: int, last: int = 0, memory: int = 0) -> ModelStatistics:
    return ModelStatistics(
        KEY, last, {COUNT: count, NS: 10 * count}, {("CPU", 0): memory} if memory else {}
    )


def total(ledger: Ledger, *answered: str) -> ModelStatistics:
    [found] = ledger.total([KEY], answered)
    return found


def test_counters_are_added_and_the_last_inference_is_the_latest() -> None:
    ledger = Ledger()
    ledger.take("a", [reading(3, last=100, memory=5)])
    ledger.take("b", [reading(4, last=90, memory=6)])
    found = total(ledger, "a", "b")
    assert (found.counters[COUNT], found.counters[NS], found.last_inference) == (7, 70, 100)
    assert found.memory == {("CPU", 0): 11}


def test_a_restart_keeps_what_was_counted_before() -> None:
    ledger = Ledger()
    ledger.take("a", [reading(100)])
    ledger.take("a", [reading(2)])
    ledger.take("a", [reading(5)])
    assert total(ledger).counters[COUNT] == 105


def test_a_silent_slice_counts_as_it_last_was_and_its_memory_does_not() -> None:
    ledger = Ledger()
    ledger.take("a", [reading(3, memory=5)])
    ledger.take("b", [reading(4, memory=6)])
    found = total(ledger, "a")
    assert found.counters[COUNT] == 7
    assert found.memory == {("CPU", 0): 5}


def test_models_that_were_not_asked_about_are_left_out() -> None:
    ledger = Ledger()
    ledger.take("a", [reading(3), ModelStatistics(("other", "1"), 0, {COUNT: 9})])
    assert [found.key for found in ledger.total([KEY], ["a"])] == [KEY]


def test_versions_come_in_the_order_of_their_numbers() -> None:
    ledger = Ledger()
    keys = [("m", "10"), ("m", "9"), ("a", "1")]
    assert [found.key for found in ledger.total(keys, [])] == [("a", "1"), ("m", "9"), ("m", "10")]


slices = st.sampled_from("abc")
events = st.lists(
    st.tuples(slices, st.sampled_from(["work", "restart", "read", "silent"]), st.integers(1, 50)),
    max_size=60,
)


@given(events)
def test_sums_never_fall_and_end_at_what_was_seen(happened: list[tuple[str, str, int]]) -> None:
    """Work between the last reading and a restart is lost; nothing is ever counted twice."""
    ledger, counts, done = Ledger(), dict.fromkeys("abc", 0), 0
    before = 0
    for name, event, amount in happened:
        if event == "work":
            counts[name] += amount
            done += amount
        elif event == "restart":
            counts[name] = 0
        elif event == "read":
            ledger.take(name, [reading(counts[name])])
        found = total(ledger, *counts).counters.get(COUNT, 0)
        assert before <= found <= done
        before = found


@given(st.lists(st.tuples(slices, st.integers(0, 9)), min_size=1, max_size=40))
def test_without_restarts_the_sum_is_exact(work: list[tuple[str, int]]) -> None:
    ledger, counts = Ledger(), dict.fromkeys("abc", 0)
    for name, amount in work:
        counts[name] += amount
        for each in counts:
            ledger.take(each, [reading(counts[each])])
        assert total(ledger).counters[COUNT] == sum(counts.values())
