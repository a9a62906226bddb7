"""The gateway is replaced by a newer process under load; no request of either protocol fails."""

import http.client
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from tests.e2e.beside import Beside
from tests.e2e.stack import Stack, wait_until
from tests.support.load import Load, plain
from tests.support.tensors import tensor

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_rolling_upgrade_fails_nothing(stack: Stack, tmp_path: Path, workers: int) -> None:
    beside = Beside(stack, tmp_path, workers=workers)
    try:
        beside.start()
        pids = {beside.main_pid}
        assert beside.ask("POST", "/v1/slices/s2/disable")[0] == 200
        with Load(plain(beside.address, 4)) as load:
            for _ in range(3):
                load.wait_for(100)
                status, answer = beside.ask("POST", "/v1/upgrade")
                assert status == 200, answer
                pids.add(answer["pid"])
                assert beside.states()["s2"] == "disabled"
            load.wait_for(200)
        assert load.errors == []
        assert len(pids) == 4
        assert beside.main_pid == answer["pid"]
    finally:
        beside.stop()


def test_clients_that_come_meanwhile_are_served(stack: Stack, tmp_path: Path) -> None:
    """Each request on a connection of its own, so that many are opened in the critical moments."""
    beside = Beside(stack, tmp_path, workers=2)
    data = np.arange(64, dtype=np.uint8)
    errors: list[str] = []
    answered: list[int] = []
    stop = threading.Event()

    def run(module: Any) -> None:
        while not stop.is_set():
            try:
                with module.InferenceServerClient(beside.address) as client:
                    back = client.infer("identity", [tensor(module, data)]).as_numpy("OUTPUT0")
                    answered.append(len(back))
            except Exception as error:
                errors.append(repr(error))

    try:
        beside.start()
        threads = [threading.Thread(target=run, args=(m,)) for m in (http_client, grpc_client) * 2]
        for thread in threads:
            thread.start()
        for _ in range(3):
            wanted = len(answered) + 50
            wait_until(lambda wanted=wanted: len(answered) >= wanted, "they are answered")
            assert beside.ask("POST", "/v1/upgrade")[0] == 200
        wanted = len(answered) + 50
        wait_until(lambda: len(answered) >= wanted, "they are answered by the last one")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        beside.stop()
    assert errors == []


@pytest.mark.parametrize("module", [http_client, grpc_client], ids=["http", "grpc"])
def test_what_is_in_flight_is_answered_by_the_old_one(
    stack: Stack, tmp_path: Path, module: Any
) -> None:
    beside = Beside(stack, tmp_path)
    got: list[Any] = []

    def infer() -> None:
        sent = tensor(module, np.arange(4, dtype=np.uint8))
        with module.InferenceServerClient(beside.address) as client:
            result = client.infer("slow", [sent], parameters={"delay_ms": 6000})
            got.append(result.as_numpy("OUTPUT0"))

    try:
        beside.start()
        old = beside.main_pid
        thread = threading.Thread(target=infer)
        thread.start()
        wait_until(lambda: any(v["in_flight"] for v in beside.slices().values()), "in flight")
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: beside.main_pid != old, "the new one answers")
        assert not got, "it ended before the upgrade did"
        thread.join(30)
        assert [each.tolist() for each in got] == [[0, 1, 2, 3]]
    finally:
        beside.stop()


def test_changes_made_through_either_gateway_are_kept(stack: Stack, tmp_path: Path) -> None:
    """On a connection that is left to the old one, and on a new one, in the same moments."""
    beside = Beside(stack, tmp_path)
    journal = tmp_path / "gateway-state-journal.json"
    host, _, port = beside.address.partition(":")

    def post(connection: http.client.HTTPConnection, target: str, document: object) -> int:
        connection.request("POST", target, json.dumps(document))
        answer = connection.getresponse()
        answer.read()
        return answer.status

    try:
        beside.start()
        left, fresh = (http.client.HTTPConnection(host, int(port), timeout=30) for _ in range(2))
        assert post(left, "/v2/logging", {"log_verbose_level": 0}) == 200
        assert beside.ask("POST", "/v1/upgrade")[0] == 200
        assert post(fresh, "/v2/trace/setting", {"trace_rate": "77"}) == 200
        assert post(left, "/v2/logging", {"log_verbose_level": 1}) == 200
        assert post(fresh, "/v2/trace/setting", {"trace_count": "5"}) == 200
        kept = json.loads(journal.read_text())
        assert kept["logging"] == {"log_verbose_level": 1}
        assert kept["trace"] == {"": {"trace_rate": "77", "trace_count": "5"}}
        assert post(fresh, "/v2/logging", {"log_verbose_level": 0}) == 200
        taken_back = {"trace_rate": None, "trace_count": None}
        assert post(fresh, "/v2/trace/setting", taken_back) == 200
        left.close()
        fresh.close()
    finally:
        beside.stop()
