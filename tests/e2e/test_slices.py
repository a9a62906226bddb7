"""Slices are balanced, toggled, killed and brought back; clients notice nothing."""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from tests.e2e.stack import HEALTH_INTERVAL_S, SLICES, Stack, wait_until
from tests.support.load import Load, plain
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def infer_many(module: Any, address: str, count: int) -> None:
    sent = tensor(module, np.zeros(16, np.uint8))
    with module.InferenceServerClient(address) as client:
        for _ in range(count):
            client.infer("identity", [sent])


def served_since(before: dict[str, int], stack: Stack) -> dict[str, int]:
    return {name: count - before[name] for name, count in stack.served().items()}


def test_round_robin_is_within_one_request_of_even_over_both_protocols(stack: Stack) -> None:
    stack.policy("round_robin")
    before = stack.served()
    infer_many(http_client, stack.address, 40)
    infer_many(grpc_client, stack.address, 33)
    counts = served_since(before, stack).values()
    assert sum(counts) == 73
    assert max(counts) - min(counts) <= 1


def test_least_load_uses_every_slice(stack: Stack) -> None:
    before = stack.served()
    infer_many(http_client, stack.address, 70)
    infer_many(grpc_client, stack.address, 70)
    assert all(served_since(before, stack).values())


def test_slices_say_that_they_are_simulated(stack: Stack) -> None:
    for view in stack.slices().values():
        assert view["simulated"] is True
        assert view["mig_uuid"].startswith("MIG-")
        assert view["profile"] == "1g.5gb"


def test_a_disabled_slice_gets_nothing_new_and_nothing_fails(stack: Stack) -> None:
    with Load(plain(stack.address)) as load:
        load.wait_for(50)
        status, view = stack.ask("POST", "/v1/slices/s3/disable?wait=10s")
        assert (status, view["in_flight"]) == (200, 0)
        before = stack.served()
        load.wait_for(100)
        assert served_since(before, stack)["s3"] == 0
        assert stack.states()["s3"] == "disabled"
        assert stack.ask("POST", "/v1/slices/s3/enable")[0] == 200
        wait_until(lambda: stack.served()["s3"] > before["s3"], "s3 serves again")
    assert load.errors == []
    assert load.answered > 150


def test_a_toggle_storm_fails_nothing(stack: Stack) -> None:
    with Load(plain(stack.address)) as load:
        for _ in range(3):
            for name in SLICES:
                stack.ask("POST", f"/v1/slices/{name}/disable")
                load.wait_for(5)
                stack.ask("POST", f"/v1/slices/{name}/enable")
    assert load.errors == []


def test_disable_waits_for_what_is_in_flight(stack: Stack) -> None:
    sent = tensor(grpc_client, np.zeros(4, np.uint8))
    done: list[Any] = []
    with grpc_client.InferenceServerClient(stack.address) as client:
        client.async_infer(
            "slow", [sent], parameters={"delay_ms": 1500},
            callback=lambda result, error: done.append((result, error)),
        )  # fmt: skip
        busy = wait_until(
            lambda: [n for n, v in stack.slices().items() if v["in_flight"]], "one slice is busy"
        )[0]
        status, view = stack.ask("POST", f"/v1/slices/{busy}/disable?wait=50ms")
        assert (status, view["state"], view["in_flight"]) == (202, "draining", 1)
        status, view = stack.ask("POST", f"/v1/slices/{busy}/disable?wait=20s")
        assert (status, view["state"], view["in_flight"]) == (200, "disabled", 0)
        wait_until(lambda: done, "the answer")
    assert done[0][1] is None


def test_the_last_ready_slice_is_not_disabled_without_force(stack: Stack) -> None:
    for name in SLICES[1:]:
        assert stack.ask("POST", f"/v1/slices/{name}/disable")[0] == 200
    status, body = stack.ask("POST", "/v1/slices/s0/disable")
    assert status == 409
    assert "force" in body["error"]
    infer_many(http_client, stack.address, 3)


def test_an_unknown_slice_is_404(stack: Stack) -> None:
    assert stack.ask("POST", "/v1/slices/nobody/disable")[0] == 404
    assert stack.ask("GET", "/v1/slices/nobody")[0] == 404


def test_choices_survive_a_restart_of_the_gateway(stack: Stack) -> None:
    stack.ask("POST", "/v1/slices/s2/disable")
    stack.ask("POST", "/v1/slices/s4/drain")
    assert stack.stop_gateway() == 0
    stack.start_gateway()
    wait_until(lambda: list(stack.states().values()).count("ready") == 5, "five slices are ready")
    states = stack.states()
    assert (states["s2"], states["s4"]) == ("disabled", "draining")
    before = stack.served()
    infer_many(http_client, stack.address, 30)
    served = served_since(before, stack)
    assert (served["s2"], served["s4"]) == (0, 0)
    stack.ask("POST", "/v1/slices/s2/enable")
    assert stack.stop_gateway() == 0
    stack.start_gateway()
    wait_until(lambda: stack.states()["s2"] == "ready", "s2 is ready after the second restart")


def test_a_killed_triton_is_out_within_two_intervals_and_back_when_restarted(stack: Stack) -> None:
    pid = stack.triton_pid("s5")
    with Load(plain(stack.address)) as load:
        load.wait_for(30)
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        wait_until(lambda: stack.states()["s5"] == "unready", "s5 is out")
        assert time.monotonic() - killed_s < 2 * HEALTH_INTERVAL_S
        assert set(stack.states().values()) == {"ready", "unready"}
        load.wait_for(50)
        wait_until(lambda: stack.states()["s5"] == "ready", "s5 is back")
        before = stack.served()["s5"]
        wait_until(lambda: stack.served()["s5"] > before, "s5 serves again")
    assert load.errors == []
    assert stack.triton_pid("s5") != pid
