"""When the gateway, as one server, is ready."""

import pytest

from gateway.fleet.health import Order
from gateway.fleet.readiness import ALL, ANY, is_ready
from tests.gateway.making import REFUSED, Fleet


@pytest.mark.parametrize("choice", [ANY, ALL])
def test_with_every_slice_it_is_and_with_none_it_is_not(choice: str) -> None:
    fleet = Fleet("a", "b")
    fleet.registry.ready_when = choice
    assert is_ready(fleet.registry)
    for name in ("a", "b"):
        fleet.registry.record(fleet[name], REFUSED)
    assert not is_ready(fleet.registry)


def test_any_is_content_with_one_and_all_is_not() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.record(fleet["a"], REFUSED)
    assert is_ready(fleet.registry), "any slice will do unless told otherwise"
    fleet.registry.ready_when = ALL
    assert not is_ready(fleet.registry)


def test_a_slice_that_the_operator_took_out_is_not_waited_for() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.ready_when = ALL
    fleet.registry.order(fleet["a"], Order.DRAINED, "")
    assert is_ready(fleet.registry)
