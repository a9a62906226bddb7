"""When an answer is late: a quantile of what the model's answers took of late, on whatever slice."""

import pytest

from gateway.fleet.lateness import COUNT_S, NEVER_S, SAMPLES_MIN, WINDOW_S, Lateness
from gateway.fleet.slices import Slice
from tests.gateway.making import make_slice


@pytest.fixture
def two() -> list[Slice]:
    members = [make_slice("a"), make_slice("b")]
    for member in members:
        member.models = {"m": ("1",), "slow": ("1",)}
    return members


def answers(members: list[Slice], key: str, seconds: float, times: int = 50) -> None:
    for _ in range(times):
        for member in members:
            member.answered_http(seconds, key)


def test_each_model_has_its_own(two: list[Slice]) -> None:
    lateness = Lateness(0.95, 0.0)
    answers(two, "infer/m", 0.01)
    answers(two, "infer/slow", 0.5)
    lateness.tick(two, COUNT_S)
    assert 0.009 < lateness.after_s("infer/m") < 0.012
    assert 0.45 < lateness.after_s("infer/slow") < 0.6
    assert lateness.least_s == lateness.after_s("infer/m")


def test_the_quantile_is_of_all_slices_answers_of_both_protocols(two: list[Slice]) -> None:
    """Else what a slow slice answers would never be late."""
    lateness = Lateness(0.9, 0.0)
    answers(two[:1], "infer/m", 0.01, times=95)
    answers(two[1:], "infer/m", 1.0, times=5)
    lateness.tick(two, COUNT_S)
    assert lateness.after_s("infer/m") < 0.02
    for _ in range(15):
        two[1].answered_grpc(1.0, "infer/m")
    lateness.tick(two, 2 * COUNT_S)
    assert lateness.after_s("infer/m") > 0.9


def test_nothing_is_late_while_little_is_known(two: list[Slice]) -> None:
    lateness = Lateness(0.95, 0.0)
    answers(two[:1], "infer/m", 0.01, times=SAMPLES_MIN - 1)
    lateness.tick(two, COUNT_S)
    assert lateness.after_s("infer/m") == lateness.least_s == NEVER_S
    answers(two[:1], "infer/m", 0.01, times=1)
    lateness.tick(two, 2 * COUNT_S)
    assert lateness.least_s < 0.02


def test_old_answers_are_forgotten(two: list[Slice]) -> None:
    lateness = Lateness(0.95, 0.0)
    answers(two, "infer/m", 1.0)
    lateness.tick(two, WINDOW_S)
    answers(two, "infer/m", 0.01)
    lateness.tick(two, WINDOW_S + COUNT_S)
    assert lateness.after_s("infer/m") > 0.9
    lateness.tick(two, 2 * WINDOW_S)
    lateness.tick(two, 2 * WINDOW_S + COUNT_S)
    assert lateness.after_s("infer/m") < 0.02
    lateness.tick(two, 3 * WINDOW_S)
    lateness.tick(two, 3 * WINDOW_S + COUNT_S)
    assert lateness.after_s("infer/m") == NEVER_S


def test_a_count_that_begins_anew_is_no_negative_one(two: list[Slice]) -> None:
    """A model that was unloaded and loaded again, a slice that has gone."""
    lateness = Lateness(0.95, 0.0)
    answers(two, "infer/m", 1.0, times=200)
    lateness.tick(two, WINDOW_S)
    lateness.tick(two, 2 * WINDOW_S)
    two[0].paces = {}
    answers(two[:1], "infer/m", 0.01, times=60)
    lateness.tick(two[:1], 2 * WINDOW_S + COUNT_S)
    assert lateness.after_s("infer/m") < 0.02
