"""Slices that hang: what they were given goes to others, as soon as there are any."""

from dataclasses import replace

import pytest

from contract.slice_spec import Endpoint
from gateway.fleet.health import CheckResult
from gateway.fleet.outcomes import SERVER_ERROR
from gateway.relay.core import AGAIN_S
from tests.gateway.making import live
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status

TIMED_OUT = CheckResult(False, "not answered in time")


@pytest.fixture
def stage() -> Stage:
    made = Stage("a", "b")
    made.core.relays.append(made.stocks)
    return made


def check(stage: Stage, name: str, result: CheckResult, times: int) -> None:
    for _ in range(times):
        stage.fleet.registry.record(stage.fleet[name], result)
    stage.run()


def test_what_waits_for_a_slice_that_hangs_goes_to_another(stage: Stage) -> None:
    client = stage.client()
    client.sends(INFER)
    assert stage.opened("a") == 1
    check(stage, "a", TIMED_OUT, 3)
    stage.slice("b").sends(OK)
    assert status(client) == 200
    assert stage.idle


def test_how_long_a_slice_hung_is_not_the_latency_of_the_one_that_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who helps out would look slow, and be ejected for it."""
    now_s = 100.0
    for module in ("downstream", "exchange", "replaying"):
        monkeypatch.setattr(f"gateway.relay.http1.{module}.monotonic", lambda: now_s)
    client = stage.client()
    client.sends(INFER)
    assert stage.opened("a") == 1
    now_s += 3.0
    check(stage, "a", TIMED_OUT, 3)
    now_s += 0.01
    stage.slice("b").sends(OK)
    assert status(client) == 200
    for latency in (stage.fleet["b"].http_latency, stage.fleet["b"].paces["infer/m"]):
        assert latency.total_us == pytest.approx(10_000, abs=1)


def test_it_goes_to_an_ejected_slice_rather_than_wait(stage: Stage) -> None:
    """Who fails answers at least; and it may well be that he does not fail any more."""
    for _ in range(5):
        stage.fleet.registry.attempt_ended(stage.fleet["b"], "infer/m", SERVER_ERROR)
    assert stage.fleet.members("infer/m") == ["a"]
    client = stage.client()
    client.sends(INFER)
    assert stage.opened("a") == 1
    check(stage, "a", TIMED_OUT, 3)
    stage.slice("b").sends(OK)
    assert status(client) == 200


def test_where_all_hang_it_goes_to_the_first_that_comes_to_itself(stage: Stage) -> None:
    client = stage.client()
    client.sends(INFER)
    assert stage.opened("a") == 1
    check(stage, "b", TIMED_OUT, 3)
    check(stage, "a", TIMED_OUT, 3)
    stage.pass_time(5)
    assert stage.opened("b") == 0
    check(stage, "b", live("m"), 2)
    stage.pass_time(AGAIN_S + 0.2)
    stage.slice("b").sends(OK)
    assert status(client) == 200
    assert stage.idle


def test_nobody_is_asked_again_once_no_slice_hangs(stage: Stage) -> None:
    check(stage, "a", TIMED_OUT, 3)
    assert stage.core.deadline_s > 0
    check(stage, "a", live("m"), 2)
    stage.pass_time(AGAIN_S + 0.2)
    assert stage.core.deadline_s == 0.0


def test_only_a_slice_that_is_another_server_now_loses_its_connections(stage: Stage) -> None:
    """Another weight is no reason to send elsewhere who waits for a connection."""
    client = stage.client()
    client.sends(INFER)
    stage.slice("a").sends(OK)
    assert status(client) == 200
    member = stage.fleet["a"]
    member.spec = replace(member.spec, weight=2.0)
    stage.stocks.close_moved(member)
    stage.run()
    assert not stage.slice("a").closing
    member.spec = replace(member.spec, http=Endpoint("127.0.0.1", 1))
    stage.stocks.close_moved(member)
    stage.run()
    assert stage.slice("a").closing
    assert member not in stage.stocks.by_slice
