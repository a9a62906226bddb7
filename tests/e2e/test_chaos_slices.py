"""Slices break in every way there is, under load; clients notice nothing that is not written down."""

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.chaos import (
    DETECTION_S,
    LENGTHS,
    LONG,
    LONG_S,
    MODEL,
    SHORT_S,
    SLACK_S,
    WORKERS,
    Chaos,
    ChaosSlice,
    Trial,
)
from tests.support.asking import Client
from tests.support.forwarder import Forwarder
from tests.support.gateway import Gateway
from tests.support.load import Failure, Load, every_kind, grpc_only, too_large
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(150)]

IMPATIENT = {"stream_idle": "2s"}
"""An answer that has begun cannot be had elsewhere: it waits for its slice, for so long."""
EJECTION = {"window": "2s", "duration": "500ms", "duration_max": "2s", "slow_start": "1s"}


def out(gateway: Gateway, one: ChaosSlice, state: str = "unready") -> None:
    wait_until(lambda: gateway.states()[one.name] == state, f"{one.name} is {state}")


def broken_off(failure: Failure) -> bool:
    """Say whether an answer began and did not come to its end."""
    return any(
        word in failure.text
        for word in ("IncompleteRead", "broke off within its answer", "RemoteDisconnected")
    )


def stood_still(failure: Failure) -> bool:
    """Say whether an answer that had begun was waited for in vain; see IMPATIENT."""
    return broken_off(failure) or "did not answer in time" in failure.text


def told(gateway: Gateway, one: ChaosSlice, event: str) -> int:
    """Return how often the log tells of `event` of the slice."""
    return sum(line["slice"] == one.name for line in gateway.logged(event))


def told_again(gateway: Gateway, one: ChaosSlice, event: str, times: int) -> None:
    wait_until(lambda: told(gateway, one, event) > times, f"{one.name}: {event}")


@pytest.mark.parametrize("seconds", LENGTHS)
def test_toggling_all_slices_in_turn_fails_nothing(chaos: Chaos, seconds: float) -> None:
    gateway = chaos.start(chaos.direct)
    trial = Trial(gateway, seconds, messages=5)
    with trial.running() as load:
        for turn in trial.turns():
            name = chaos.slices[turn % len(chaos.slices)].name
            assert gateway.ask("POST", f"/v1/slices/{name}/disable")[0] == 200
            time.sleep(0.5)  # the rate is the scenario
            assert gateway.ask("POST", f"/v1/slices/{name}/enable")[0] == 200
            time.sleep(0.5)
        load.go_on()
    trial.verify()


@WORKERS
def test_a_killed_triton_costs_nothing(chaos: Chaos, seconds: float, workers: int) -> None:
    gateway = chaos.start(chaos.direct, workers=workers)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.triton.kill()
            out(gateway, one)
            load.go_on()
            one.triton.start()
            trial.settle()
    trial.verify(forgiven=broken_off, forgiven_max=2 * (turn + 1))


@WORKERS
def test_a_stopped_triton_delays_for_as_long_as_it_takes_to_find_out(
    chaos: Chaos, seconds: float, workers: int
) -> None:
    gateway = chaos.start(chaos.direct, timeouts=IMPATIENT, workers=workers)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.triton.signal(signal.SIGSTOP)
            out(gateway, one)
            load.go_on()
            one.triton.signal(signal.SIGCONT)
            trial.settle()
    trial.verify(DETECTION_S + SLACK_S, stood_still, 2 * (turn + 1))


@pytest.mark.parametrize("seconds", LONG)
def test_a_triton_that_stands_still_for_a_moment_loses_no_large_request(
    chaos: Chaos, seconds: float
) -> None:
    """What is too large to be sent a second time waits until the slice goes on."""
    gateway = chaos.start(chaos.direct)
    trial = Trial(gateway, seconds, too_large(gateway.address, MODEL))
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.triton.signal(signal.SIGSTOP)
            out(gateway, one)
            one.triton.signal(signal.SIGCONT)
            trial.settle()
            load.go_on()
    trial.verify(2 * DETECTION_S + SLACK_S)


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        pytest.param(Forwarder.freeze, SHORT_S, id="short-freeze"),
        pytest.param(Forwarder.freeze, LONG_S, id="long-freeze", marks=LONG[0].marks),
        pytest.param(Forwarder.drop, LONG_S, id="long-drop", marks=LONG[0].marks),
    ],
)
def test_a_black_hole_delays_for_as_long_as_it_takes_to_find_out(
    chaos: Chaos, seconds: float, how: Callable[[Forwarder], None]
) -> None:
    gateway = chaos.start(chaos.forwarded, timeouts=IMPATIENT)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.each(how)
            out(gateway, one)
            load.go_on()
            one.each(Forwarder.thaw)
            trial.settle()
    trial.verify(DETECTION_S + SLACK_S, stood_still, 2 * (turn + 1))


@pytest.mark.parametrize("seconds", LONG)
def test_cut_connections_cost_nothing(chaos: Chaos, seconds: float) -> None:
    gateway = chaos.start(chaos.forwarded)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            chaos.slices[turn % len(chaos.slices)].each(Forwarder.cut)
            load.wait_for(40)
    trial.verify(forgiven=broken_off, forgiven_max=10 * (turn + 1))


@pytest.mark.parametrize("seconds", LONG)
def test_a_slow_slice_is_set_aside(chaos: Chaos, seconds: float) -> None:
    gateway = chaos.start(chaos.direct, ejection=EJECTION)
    trial = Trial(gateway, seconds)
    with trial.running():
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.mood("0.1")
            out(gateway, one, "ejected")
            one.mood("")
            trial.settle()
    trial.verify(0.2 + SLACK_S)


def bad_moods_of(load: Load) -> int:
    return sum("bad mood" in failure.text for failure in load.failures)


@pytest.mark.parametrize("seconds", LONG)
def test_a_slice_that_fails_at_once_is_seen_by_few(chaos: Chaos, seconds: float) -> None:
    """An answer is an answer, and 500 is passed on; but only until the slice is ejected."""
    gateway = chaos.start(chaos.direct, ejection=EJECTION)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            times = told(gateway, one, "slice.ejected")
            one.mood("fail")
            told_again(gateway, one, "slice.ejected", times)
            load.go_on()
            times = told(gateway, one, "slice.returned")
            one.mood("")
            told_again(gateway, one, "slice.returned", times)  # its model was out, not itself
    ejected = len(gateway.logged("slice.ejected"))
    trial.verify(forgiven=lambda one: "bad mood" in one.text, forgiven_max=ejected * (5 + 10))


@pytest.mark.parametrize("seconds", LONG)
def test_a_slice_that_breaks_off_its_answers_is_seen_by_few(chaos: Chaos, seconds: float) -> None:
    """An answer that has begun cannot be taken back; the client must see that it is not whole."""
    gateway = chaos.start(chaos.forwarded, ejection=EJECTION)
    trial = Trial(gateway, seconds)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            times = told(gateway, one, "slice.ejected")
            one.each(lambda forwarder: forwarder.truncate(True))
            one.each(Forwarder.cut)
            told_again(gateway, one, "slice.ejected", times)
            load.go_on()
            one.each(lambda forwarder: forwarder.truncate(False))
            trial.settle()
    ejected = len(gateway.logged("slice.ejected"))
    trial.verify(forgiven=broken_off, forgiven_max=ejected * (5 + 10))


@pytest.mark.parametrize("seconds", LONG)
def test_a_rolling_restart_with_drain_fails_nothing(chaos: Chaos, seconds: float) -> None:
    gateway = chaos.start(chaos.direct)
    trial = Trial(gateway, seconds, messages=5)
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            status, view = gateway.ask("POST", f"/v1/slices/{one.name}/disable?wait=30s")
            assert (status, view["in_flight"]) == (200, 0)
            one.triton.stop()
            one.triton.start()
            assert gateway.ask("POST", f"/v1/slices/{one.name}/enable")[0] == 200
            trial.settle()
            load.go_on()
    trial.verify()


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize("clients", [every_kind, grpc_only], ids=["both", "grpc"])
def test_a_rolling_restart_that_nobody_was_told_of_fails_nothing(
    chaos: Chaos, seconds: float, clients: Callable[..., list[Client]]
) -> None:
    """
    SIGTERM to a Triton, as `docker stop` sends it, without a word to the gateway.

    One with connections of HTTP serves on until they are closed, one without stops at once.
    """
    gateway = chaos.start(chaos.direct)
    trial = Trial(gateway, seconds, clients(gateway.address, model=MODEL))
    with trial.running() as load:
        for turn in trial.turns():
            one = chaos.slices[turn % len(chaos.slices)]
            one.triton.stop()
            out(gateway, one)
            load.go_on()
            one.triton.start()
            trial.settle()
    # The error is a message of a stream whose status is OK.
    trial.verify(
        forgiven=lambda one: "stream" in one.kind and "no available versions" in one.text,
        forgiven_max=4 * (turn + 1),
    )


@pytest.mark.parametrize("seconds", LONG)
def test_nothing_happens(chaos: Chaos, seconds: float) -> None:
    """The load alone, for comparison."""
    trial = Trial(chaos.start(chaos.direct), seconds)
    with trial.running():
        time.sleep(seconds)
    trial.verify()
