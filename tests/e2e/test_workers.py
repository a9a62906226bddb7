"""Several worker processes in front of real Tritons are one gateway to both protocols' clients."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from tests.e2e.beside import Beside
from tests.e2e.stack import SLICES, Stack, wait_until
from tests.support.load import Load, plain
from tests.support.tensors import tensor

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(180)]

CLIENTS = [pytest.param(http_client, id="http"), pytest.param(grpc_client, id="grpc")]


@pytest.fixture
def beside(stack: Stack, tmp_path: Path) -> Iterator[Beside]:
    made = Beside(stack, tmp_path, workers=3)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("module", CLIENTS)
@pytest.mark.parametrize("size", [512, 602_112, 20 * 1024 * 1024])
def test_bodies_of_any_size_come_back_unchanged(beside: Beside, module: Any, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    with module.InferenceServerClient(beside.address) as client:
        for _ in range(4):
            back = client.infer("identity", [tensor(module, data)]).as_numpy("OUTPUT0")
            assert np.array_equal(back, data)


def test_totals_and_the_load_of_all_workers_are_seen_as_one(beside: Beside) -> None:
    with Load(plain(beside.address, 6)) as load:
        load.wait_for(300)
        assert sum(bool(worker["connections"]) for worker in beside.workers()) > 1
    assert load.errors == []
    served = beside.served()
    assert sum(served.values()) == load.answered
    assert set(served) == set(SLICES)
    assert all(served.values())


@pytest.mark.parametrize("module", CLIENTS)
def test_calls_about_all_slices_are_answered_by_every_worker(beside: Beside, module: Any) -> None:
    for _ in range(6):  # each on a connection, and so perhaps a worker, of its own
        with module.InferenceServerClient(beside.address) as client:
            assert client.is_server_ready()
            assert client.is_model_ready("flower")
            client.get_server_metadata()
            client.get_model_repository_index()
            client.get_inference_statistics("identity")
            client.update_log_settings({"log_verbose_level": 0})
    assert len({worker["pid"] for worker in beside.workers()}) == 3


def test_a_toggle_storm_fails_nothing(beside: Beside) -> None:
    with Load(plain(beside.address, 4)) as load:
        for name in SLICES:
            status, view = beside.ask("POST", f"/v1/slices/{name}/disable?wait=10s")
            assert (status, view["in_flight"]) == (200, 0)
            before = beside.served()[name]
            load.wait_for(30)
            assert beside.served()[name] == before
            beside.ask("POST", f"/v1/slices/{name}/enable")
    assert load.errors == []


def test_a_killed_triton_is_out_for_all_workers(beside: Beside, stack: Stack) -> None:
    pid = stack.triton_pid("s4")
    with Load(plain(beside.address, 4)) as load:
        load.wait_for(50)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: beside.states()["s4"] == "unready", "s4 is out")
        load.wait_for(100)
        wait_until(lambda: beside.states()["s4"] == "ready", "s4 is back", 60)
        before = beside.served()["s4"]
        wait_until(lambda: beside.served()["s4"] > before, "s4 serves again")
    assert load.errors == []


def test_a_killed_worker_costs_its_own_clients_one_request_at_most(beside: Beside) -> None:
    with Load(plain(beside.address, 6)) as load:
        load.wait_for(100)
        victim = max(beside.workers(), key=lambda worker: worker["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        wait_until(
            lambda: (
                beside.workers()[victim["index"]]["restarts"] == 1
                and beside.workers()[victim["index"]]["state"] == "serving"
            ),
            "it is replaced",
        )
        answered = load.answered
        wait_until(lambda: load.answered > answered + 200, "the load goes on")
    assert len(load.errors) <= victim["connections"]
    assert [view["in_flight"] for view in beside.slices().values()] == [0] * len(SLICES)
