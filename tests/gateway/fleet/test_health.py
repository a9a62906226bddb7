"""What flips a slice's health, and what does not."""

import pytest

from gateway.fleet.health import CheckResult, Health, HealthRecord, Thresholds

PASS = CheckResult(True, "live")
FAIL = CheckResult(False, "no answer in time")
REFUSED = CheckResult(False, "refused", conclusive=True)


@pytest.fixture
def record() -> HealthRecord:
    return HealthRecord(Thresholds(rise=2, fall=3), now_s=0.0)


def test_at_start_one_look_suffices_both_ways(record: HealthRecord) -> None:
    assert record.record(PASS, 1.0)
    assert record.health is Health.UP
    record.forget(2.0)
    assert record.record(FAIL, 3.0)
    assert record.health is Health.DOWN


def test_a_slice_that_was_up_falls_at_the_third_failure_in_a_row(record: HealthRecord) -> None:
    record.record(PASS, 0.0)
    assert not record.record(FAIL, 1.0)
    assert not record.record(FAIL, 2.0)
    assert record.health is Health.UP
    assert record.record(FAIL, 3.0)
    assert (record.health, record.reason, record.since_s) == (Health.DOWN, FAIL.reason, 3.0)


def test_a_pass_in_between_starts_the_count_anew(record: HealthRecord) -> None:
    record.record(PASS, 0.0)
    for result in (FAIL, FAIL, PASS, FAIL, FAIL):
        assert not record.record(result, 1.0)
    assert record.health is Health.UP


def test_a_refused_connection_needs_no_second_look(record: HealthRecord) -> None:
    record.record(PASS, 0.0)
    assert record.record(REFUSED, 1.0)
    assert record.health is Health.DOWN


def test_a_slice_that_was_down_rises_at_the_second_pass_in_a_row(record: HealthRecord) -> None:
    record.record(REFUSED, 0.0)
    assert not record.record(PASS, 1.0)
    assert not record.record(FAIL, 2.0)
    assert not record.record(PASS, 3.0)
    assert record.record(PASS, 4.0)
    assert record.health is Health.UP


def test_evidence_from_traffic_is_news_once(record: HealthRecord) -> None:
    record.record(PASS, 0.0)
    assert record.condemn("connection refused", 1.0)
    assert not record.condemn("connection refused", 2.0)
    assert (record.health, record.since_s) == (Health.DOWN, 1.0)


def test_every_result_is_kept_for_people_to_read(record: HealthRecord) -> None:
    record.record(FAIL, 7.0)
    assert (record.last, record.checked_at_s) == (FAIL, 7.0)
