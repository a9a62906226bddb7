"""Which slice has which sequence, at every turn of a sequence's and a slice's life."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.fleet.health import CheckResult, Order, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.sequences import (
    MARGIN_S,
    NO_SEQUENCE,
    LiveSequence,
    SequenceFields,
    SequenceTable,
    TableFullError,
)
from gateway.fleet.slices import Slice

IDLE_S = 1.0
NAMES = ("a", "b", "c")


def make_slices() -> tuple[Slice, ...]:
    return tuple(
        Slice(SliceSpec(name, Endpoint("h", 1), Endpoint("h", 2)), Thresholds(), 0.0)
        for name in NAMES
    )


def start(sequence_id: int | str, ends: bool = False) -> SequenceFields:
    return SequenceFields(sequence_id, True, ends)


def goes_on(sequence_id: int | str, ends: bool = False) -> SequenceFields:
    return SequenceFields(sequence_id, False, ends)


def begun(table: SequenceTable, fields: SequenceFields, members: tuple[Slice, ...], now_s: float):
    """Return the sequence of a request that must belong to one."""
    sequence = table.begin(fields, members, now_s)
    assert sequence is not None
    return sequence


def test_a_sequence_stays_where_it_began_until_its_end_is_answered():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    first = begun(table, start(7), members, 0.0)
    table.finish(first, 0.1)
    second = begun(table, goes_on(7), members, 0.2)
    last = begun(table, goes_on(7, ends=True), members, 0.2)
    assert first is second is last
    table.finish(second, 0.3)
    assert table.live, "the END is not answered"
    table.finish(last, 0.3)
    assert not table.live
    assert not table.counts
    assert table.begin(goes_on(7), members, 0.4) is None


def test_a_start_goes_to_the_slice_with_the_fewest_sequences_then_the_least_in_flight():
    members = make_slices()
    members[0].begin()
    table = SequenceTable(IDLE_S)
    assert begun(table, start(1), members, 0.0).member is members[1]
    assert begun(table, start(2), members, 0.0).member is members[2]
    assert begun(table, start(3), members, 0.0).member is members[0]


def test_a_number_and_its_text_are_two_sequences():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    number, text = (begun(table, start(each), members, 0.0) for each in (1000, "1000"))
    assert number.member is not text.member


@pytest.mark.parametrize("fields", [NO_SEQUENCE, start(0), start(""), start("x" * 129), goes_on(5)])
def test_what_belongs_to_no_sequence_here_goes_anywhere(fields):
    assert SequenceTable(IDLE_S).begin(fields, make_slices(), 0.0) is None


def test_a_sequence_that_is_idle_for_too_long_is_over_but_not_while_a_request_is_under_way():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    sequence = begun(table, start(1), members, 0.0)
    table.sweep(1000.0)
    assert table.live
    table.finish(sequence, 1000.0)
    table.sweep(1000.0 + IDLE_S + MARGIN_S)
    assert table.live
    assert table.begin(goes_on(1), members, 1000.0 + IDLE_S + MARGIN_S + 0.01) is None
    assert not table.live


def test_a_start_before_the_answer_to_the_end_keeps_the_sequence():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    ending = begun(table, start(1, ends=True), members, 0.0)
    again = begun(table, start(1), members, 0.0)
    assert again is ending
    table.finish(ending, 0.1)
    table.finish(again, 0.1)
    assert table.live


def test_running_sequences_stay_on_a_slice_that_takes_no_new_ones():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    sequence = begun(table, start(1), members, 0.0)
    table.finish(sequence, 0.0)
    others = tuple(member for member in members if member is not sequence.member)
    assert begun(table, goes_on(1), others, 0.1) is sequence
    table.finish(sequence, 0.1)
    assert begun(table, start(1), others, 0.2).member in others, "a new beginning is new work"


def test_a_full_table_refuses_new_sequences_until_old_ones_are_over():
    members = make_slices()
    table = SequenceTable(IDLE_S, live_max=2)
    for each in (1, 2):
        table.finish(begun(table, start(each), members, 10.0), 10.0)
    with pytest.raises(TableFullError):
        table.begin(start(3), members, 10.0)
    assert begun(table, goes_on(1), members, 10.0)
    assert begun(table, start(3), members, 13.0)


def test_a_stream_takes_its_sequences_with_it():
    members = make_slices()
    table = SequenceTable(IDLE_S)
    table.adopt(start(1), members[2], 0.0)
    assert begun(table, goes_on(1), members, 0.1).member is members[2]
    table.adopt(goes_on(9), members[2], 0.1)
    assert len(table.live) == 1, "a sequence that never began here"
    table.adopt(start(2), members[0], 0.1)
    table.adopt(goes_on(2, ends=True), members[0], 0.2)
    assert len(table.live) == 1


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, "1"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([0.0, 0.5, 5.0]),
        st.sampled_from(["finish", "keep", "lose a", "out b"]),
    ),
    max_size=40,
)


@given(REQUESTS)
def test_counts_hold_and_a_sequence_never_changes_its_slice(requests):
    members = make_slices()
    table = SequenceTable(IDLE_S)
    open_requests: list[LiveSequence] = []
    now_s = 0.0
    for sequence_id, starts, ends, wait_s, then in requests:
        now_s += wait_s
        taking = members[:1] + members[2:] if then == "out b" else members
        before = table.find(goes_on(sequence_id), now_s)
        sequence = table.begin(SequenceFields(sequence_id, starts, ends), taking, now_s)
        if sequence is None:
            assert before is None
            assert not starts
        else:
            open_requests.append(sequence)
            if before is not None and not starts:
                assert sequence is before
        if then == "finish" and open_requests:
            table.finish(open_requests.pop(0), now_s)
        if then == "lose a":
            table.drop_slice(members[0])
            assert all(live.member is not members[0] for live in table.live.values())
        counted: dict[Slice, int] = {}
        for live in table.live.values():
            counted[live.member] = counted.get(live.member, 0) + 1
        assert counted == table.counts
        assert {m: m.sequences for m in members if m.sequences} == counted
    for sequence in open_requests:
        table.finish(sequence, now_s)
        assert sequence.in_flight >= 0
    table.sweep(now_s + 100.0)
    assert not table.live
    assert not table.counts
    assert not any(member.sequences for member in members)


class Fleet:
    """Three slices of one model that batches sequences."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.registry = SliceRegistry(LeastLoad, Thresholds(), lambda: self.now_s)
        self.registry.replace(
            [
                SliceSpec(name, Endpoint("h", 10 * i), Endpoint("h", 10 * i + 1))
                for i, name in enumerate(NAMES)
            ]
        )
        for member in self.registry.slices.values():
            self.registry.record(member, CheckResult(True, "up", models={"m": ("1",), "n": ()}))
        self.registry.sequences.follow("m", IDLE_S)

    def starts(self) -> list[LiveSequence]:
        """Begin one sequence on each slice."""
        pool = self.registry.pool("infer/m")
        assert pool.sequences is not None
        return [begun(pool.sequences, start(i + 1), pool.members, self.now_s) for i in range(3)]


def test_only_inference_for_such_a_model_has_a_table():
    registry = Fleet().registry
    tables = {key: pool.sequences is not None for key, pool in registry.pools.items()}
    assert tables == {
        "": False, "call": False, "call/m": False, "call/n": False,
        "infer/m": True, "infer/m/1": True, "infer/n": False,
    }  # fmt: skip
    assert registry.pool("infer/m").sequences is registry.pool("infer/m/1").sequences
    registry.sequences.follow("m", None)
    assert registry.pool("infer/m").sequences is None


def test_a_slice_that_is_lost_loses_its_sequences_and_no_others():
    fleet = Fleet()
    lost, *kept = fleet.starts()
    fleet.registry.condemn(lost.member, "killed")
    table = fleet.registry.pool("infer/m").sequences
    assert list(table.live.values()) == kept


def test_a_slice_that_unloads_the_model_or_is_removed_loses_them():
    fleet = Fleet()
    first, second, third = fleet.starts()
    fleet.registry.record(first.member, CheckResult(True, "up", models={"n": ()}))
    table = fleet.registry.pool("infer/m").sequences
    assert list(table.live.values()) == [second, third]
    specs = [member.spec for member in fleet.registry.slices.values()]
    fleet.registry.replace([spec for spec in specs if spec.name != second.member.name])
    assert list(table.live.values()) == [third]


def test_sequences_of_disabled_slices_go_on_even_when_nobody_else_takes_the_model():
    fleet = Fleet()
    sequences = fleet.starts()
    for member in list(fleet.registry.slices.values()):
        fleet.registry.order(member, Order.DISABLED, "test")
    pool = fleet.registry.pool("infer/m")
    assert not pool.members
    for i, sequence in enumerate(sequences):
        assert begun(pool.sequences, goes_on(i + 1), pool.members, 0.0) is sequence
    assert pool.sequences.begin(start(9), pool.members, 0.0) is None
    assert all(a.member is not b.member for a, b in pairwise(sequences))


def test_time_ends_idle_sequences_without_anybody_asking():
    fleet = Fleet()
    table = fleet.registry.pool("infer/m").sequences
    for sequence in fleet.starts():
        table.finish(sequence, 0.0)
    fleet.now_s = 5.0
    fleet.registry.tick(0.25)
    assert not table.live
