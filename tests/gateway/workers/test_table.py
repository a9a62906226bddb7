"""Counts in shared memory: sums over all workers, whoever looks."""

import os

from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.table import COLUMNS, Columns, Table


@given(st.lists(st.lists(st.integers(0, 2**40), min_size=5, max_size=5), min_size=1, max_size=8))
def test_sums_are_over_all_workers(rows: list[list[int]]) -> None:
    table = Table(len(rows))
    try:
        table.widen(5)
        for mine, counts in zip(table.rows, rows, strict=True):
            for column, count in enumerate(counts):
                mine[column] = count
        assert list(table.sums()) == [sum(column) for column in zip(*rows, strict=True)]
        assert [table.in_flight(i) for i in range(len(rows))] == [sum(row) for row in rows]
    finally:
        table.close()


def test_another_process_sees_the_same_memory() -> None:
    table = Table(2)
    other = Table(2, os.dup(table.number))
    table.widen(3)
    other.widen(3)
    table.rows[0][2] += 4
    other.rows[1][2] += 3
    assert table.sums()[2] == other.sums()[2] == 7
    other.close()
    table.close()


def test_clearing_a_row_leaves_the_others() -> None:
    table = Table(2)
    table.widen(2)
    table.rows[0][1] = 5
    table.rows[1][1] = 2
    table.clear(0)
    assert list(table.sums()) == [0, 2]
    table.close()


def test_a_name_keeps_its_column() -> None:
    columns = Columns()
    assert [columns.of(name, (), lambda column: 0) for name in ("a", "b", "a", "c")] == [0, 1, 0, 2]


def test_when_columns_run_out_one_of_an_idle_slice_that_is_gone_is_used_again() -> None:
    columns = Columns()
    names = [f"s{i}" for i in range(COLUMNS)]
    sums = [0] * COLUMNS
    for name in names:
        columns.of(name, (), sums.__getitem__)
    sums[1] = 1  # s1 is gone, and yet has something in flight
    assert columns.of("new", {"s0", "new"}, sums.__getitem__) == 2
    assert columns.of("s0", {"s0", "new"}, sums.__getitem__) == 0
