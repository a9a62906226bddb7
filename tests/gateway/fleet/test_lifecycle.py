"""The tables are whole, and the document shows them as they are."""

from itertools import product

import pytest

from gateway.fleet.health import Health, Order, State
from gateway.fleet.lifecycle import (
    ALL,
    FREE,
    MODEL,
    NEXT_EJECTION,
    NONE,
    ROWS,
    WHOLE,
    Ejection,
    Step,
    Traffic,
    _expanded,
    least,
)
from gateway.fleet.tally import Tally
from tools import draw_lifecycle


def test_every_combination_has_exactly_one_row() -> None:
    assert set(WHOLE) == set(product(Order, Health, Ejection))
    assert set(MODEL) == set(Ejection)
    with pytest.raises(AssertionError, match="two rows"):
        _expanded([*ROWS, ROWS[0]])
    with pytest.raises(AssertionError, match="no row"):
        _expanded(ROWS[1:])


def test_only_an_enabled_slice_that_is_up_and_free_takes_all() -> None:
    takes_all = [key for key, (_, traffic) in WHOLE.items() if traffic is ALL]
    assert takes_all == [(Order.ENABLED, Health.UP, FREE)]


def test_a_slice_that_the_operator_took_out_takes_nothing() -> None:
    for (order, _, _), (_, traffic) in WHOLE.items():
        assert order is Order.ENABLED or traffic is NONE


def test_every_state_can_come_about() -> None:
    assert {state for state, _ in WHOLE.values()} == set(State)


def test_from_every_ejection_a_way_leads_back() -> None:
    reached = {FREE}
    for _ in Ejection:
        reached |= {before for (before, _), after in NEXT_EJECTION.items() if after in reached}
    assert reached == set(Ejection)


def test_a_step_that_is_not_in_the_table_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        Tally("", 10.0, 0.0).move(Step.TRY, 0.0)


def test_the_least_of_two_is_the_stricter() -> None:
    order = [Traffic.NONE, Traffic.RESERVE, Traffic.ONE, Traffic.ALL]
    for (i, one), (j, other) in product(enumerate(order), repeat=2):
        assert least(one, other) is order[min(i, j)]


def test_the_document_shows_the_tables_as_they_are() -> None:
    """Run `python -m tools.draw_lifecycle` after a change of the tables."""
    text = draw_lifecycle.DOCUMENT.read_text()
    assert draw_lifecycle.drawn(text) == text
    assert all(f"<!-- drawn: {name} -->" in text for name in draw_lifecycle.DRAWINGS)
