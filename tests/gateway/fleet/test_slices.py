"""One slice: counts begun and ended, and the state users are told."""

import pytest

from gateway.fleet.health import CheckResult, Order
from gateway.fleet.slices import CHARGE_MAX
from tests.gateway.making import live, make_slice

FAILED = CheckResult(False, "no answer", conclusive=True)


def test_the_last_request_out_tells_whoever_waits_for_that_once() -> None:
    member = make_slice()
    told = []
    member.begin()
    member.begin()
    member.on_idle.append(lambda: told.append("idle"))
    member.end()
    assert told == []
    member.end()
    member.begin()
    member.end()
    assert told == ["idle"]


def test_an_end_without_a_beginning_is_loud() -> None:
    with pytest.raises(AssertionError, match="end\\(\\) without begin"):
        make_slice().end()


@pytest.mark.parametrize(
    ("order", "check", "in_flight", "state"),
    [
        (Order.ENABLED, None, 0, "starting"),
        (Order.ENABLED, live(), 0, "ready"),
        (Order.ENABLED, FAILED, 0, "unready"),
        (Order.DRAINED, live(), 0, "draining"),
        (Order.DRAINED, live(), 2, "draining"),
        (Order.DRAINED, FAILED, 0, "draining"),
        (Order.DISABLED, live(), 2, "draining"),
        (Order.DISABLED, live(), 0, "disabled"),
        (Order.DISABLED, None, 0, "disabled"),
    ],
)
def test_the_state_follows_from_order_health_and_what_is_in_flight(
    order: Order, check: CheckResult | None, in_flight: int, state: str
) -> None:
    member = make_slice()
    if check:
        member.health.record(check, 1.0)
    member.order = order
    for _ in range(in_flight):
        member.begin()
    assert member.state.value == state
    assert member.routable == (state == "ready")


def test_a_slice_of_weight_zero_takes_nothing() -> None:
    member = make_slice(weight=0)
    member.health.record(live(), 1.0)
    assert not member.routable


def test_failures_charge_the_slice_within_a_bound() -> None:
    member = make_slice()
    for _ in range(int(CHARGE_MAX) + 5):
        member.failed()
    assert (member.failures, member.charge) == (CHARGE_MAX + 5, CHARGE_MAX)


def test_answers_are_counted_by_protocol() -> None:
    member = make_slice()
    member.answered_http(0.010)
    member.answered_grpc(0.020)
    member.answered_grpc(0.020)
    assert (member.http_latency.count, member.grpc_latency.count) == (1, 2)
    assert member.grpc_latency.total_us == 40_000


def test_paces_are_of_models_that_the_slice_has_and_no_others() -> None:
    """What clients name is not remembered, nor what the slice no longer has."""
    member = make_slice()
    member.models = {"m": ("1",), "n": ("1",)}
    for key in ("infer/m", "infer/m", "infer/m/1", "infer/n", "infer/x", "infer/m/9", "call/m", ""):
        member.answered_http(0.010, key)
        member.answered_grpc(0.020, key)
    assert {key: pace.count for key, pace in member.paces.items()} == {
        "infer/m": 4, "infer/m/1": 2, "infer/n": 2,
    }  # fmt: skip
    assert member.paces["infer/m"].total_us == 60_000
    member.models = {"o": ("1",)}
    member.answered_http(0.010, "infer/o")
    assert list(member.paces) == ["infer/o"]
