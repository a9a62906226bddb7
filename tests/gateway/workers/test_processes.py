"""Several worker processes on one port look like one gateway, whatever happens to any of them."""

import http.client
import os
import signal
import threading
import time
from typing import Any

import psutil
import pytest

from tests.gateway.workers.conftest import Start
from tests.gateway.workers.running import Running, clients_of, wait_until
from tests.gateway.workers.slices import StandIns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Waiting:
    """One inference in a thread of its own."""

    def __init__(self, running: Running) -> None:
        self.got: list[Any] = []
        self._thread = threading.Thread(target=lambda: self.got.append(self._infer(running)))
        self._thread.start()

    def _infer(self, running: Running) -> object:
        try:
            return running.infer()
        except (OSError, http.client.HTTPException) as error:
            return error

    def answer(self) -> Any:
        self._thread.join(20)
        return self.got[0]


def busy_worker(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = wait_until(
        lambda: next((w for w in running.workers() if w["in_flight"]), None), "a worker is busy"
    )
    return found


def test_a_single_worker_is_the_main_process_itself(start: Start) -> None:
    running = start()
    workers = running.workers()
    assert [worker["pid"] for worker in workers] == [running.main_pid]
    assert len(running.pids()) == 1


def test_totals_of_all_workers_are_one_sum(start: Start) -> None:
    running = start(workers=3)
    for _ in range(30):
        assert running.infer() == (200, b"ok")
    assert len({worker["pid"] for worker in running.workers()}) == 3
    assert sum(view["requests"] for view in running.slices().values()) == 30
    metrics = running.metrics()
    assert metrics["http_requests_total"] == 30
    assert metrics["connections_accepted_total"] == 30
    assert all(view["latency_ms"]["http"]["p99"] > 0 for view in running.slices().values())
    wait_until(lambda: running.metrics()["connections"] == 0, "all connections are closed")


def test_least_load_sees_what_other_workers_have_given(start: Start, slices: StandIns) -> None:
    """Nine requests at once over 4 workers: three for each of three slices, exactly."""
    running = start(workers=4)
    slices.held = True
    waiting = []
    for i in range(9):
        waiting.append(Waiting(running))
        wait_until(
            lambda i=i: sum(v["in_flight"] for v in running.slices().values()) == i + 1,
            "it is in flight",
        )
    assert sum(bool(worker["in_flight"]) for worker in running.workers()) > 1
    slices.release()
    assert [each.answer() for each in waiting] == [(200, b"ok")] * 9
    assert set(slices.served.values()) == {3}


def test_a_killed_worker_is_replaced_and_nobody_else_notices(start: Start) -> None:
    running = start(workers=3)
    with clients_of(running, 9) as clients:
        clients.wait_for(100)
        victim = max(running.workers(), key=lambda worker: worker["connections"])
        others = sum(w["connections"] for w in running.workers()) - victim["connections"]
        before = running.metrics()["http_requests_total"]
        os.kill(victim["pid"], signal.SIGKILL)
        clients.wait_for(200)
        after = wait_until(
            lambda: (w := running.workers()[victim["index"]])["state"] == "serving" and w,
            "it is replaced",
        )
        clients.wait_for(100)
    assert after["pid"] != victim["pid"]
    assert after["restarts"] == 1
    assert others > 0
    assert len(clients.errors) <= victim["connections"]
    assert running.metrics()["http_requests_total"] > before
    wait_until(lambda: running.metrics()["connections"] == 0, "its connections are not counted")
    assert [view["in_flight"] for view in running.slices().values()] == [0, 0, 0]


def test_what_a_killed_worker_had_in_flight_is_not_counted_any_more(
    start: Start, slices: StandIns
) -> None:
    running = start(workers=2)
    slices.held = True
    waiting = Waiting(running)
    os.kill(busy_worker(running)["pid"], signal.SIGKILL)
    wait_until(lambda: running.logged("worker.ended"), "its end is noticed")
    assert [view["in_flight"] for view in running.slices().values()] == [0, 0, 0]
    assert isinstance(waiting.answer(), (OSError, http.client.HTTPException))


def test_a_worker_that_is_asked_to_leave_finishes_and_is_replaced(
    start: Start, slices: StandIns
) -> None:
    running = start(workers=2)
    slices.held = True
    waiting = Waiting(running)
    old = busy_worker(running)
    os.kill(old["pid"], signal.SIGTERM)
    wait_until(lambda: running.workers()[old["index"]]["state"] == "leaving", "it leaves")
    more = [Waiting(running) for _ in range(10)]  # the other has its door
    wait_until(
        lambda: sum(v["in_flight"] for v in running.slices().values()) == 11, "all in flight"
    )
    slices.release()
    assert [each.answer() for each in more] == [(200, b"ok")] * 10
    assert waiting.answer() == (200, b"ok")
    wait_until(lambda: running.workers()[old["index"]]["pid"] not in (0, old["pid"]), "replaced")


def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    running = start(workers=2)
    victim = running.workers()[0]
    os.kill(victim["pid"], signal.SIGSTOP)
    wait_until(lambda: running.logged("worker.hung"), "it is found out", 30)
    wait_until(lambda: running.workers()[0]["state"] == "serving", "it is replaced")
    assert running.workers()[0]["pid"] != victim["pid"]


def test_new_clients_do_not_wait_for_a_worker_that_is_stopped(start: Start) -> None:
    """Soon another accepts at its door, before it is known whether it will go on."""
    running = start(workers=2)
    victim = running.workers()[0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    try:
        answers = [Waiting(running) for _ in range(12)]
        assert [answer.answer() for answer in answers] == [(200, b"ok")] * 12
    finally:
        os.kill(victim, signal.SIGCONT)
    assert [running.infer() for _ in range(6)] == [(200, b"ok")] * 6


def test_disable_waits_for_the_work_of_all_workers(start: Start, slices: StandIns) -> None:
    running = start(workers=3)
    slices.held = True
    waiting = [Waiting(running) for _ in range(6)]
    wait_until(lambda: sum(v["in_flight"] for v in running.slices().values()) == 6, "all in flight")
    status, view = running.ask("POST", "/v1/slices/s1/disable?wait=50ms")
    assert (status, view["state"], view["in_flight"]) == (202, "draining", 2)
    slices.release()
    status, view = running.ask("POST", "/v1/slices/s1/disable?wait=20s")
    assert (status, view["state"], view["in_flight"]) == (200, "disabled", 0)
    assert [each.answer() for each in waiting] == [(200, b"ok")] * 6


def test_a_disabled_slice_gets_nothing_from_any_worker_once_that_is_answered(start: Start) -> None:
    running = start(workers=3)
    with clients_of(running) as clients:
        for _ in range(5):
            clients.wait_for(20)
            assert running.ask("POST", "/v1/slices/s1/disable?wait=10s")[0] == 200
            before = running.slices()["s1"]["requests"]
            clients.wait_for(100)
            assert running.slices()["s1"]["requests"] == before
            assert running.ask("POST", "/v1/slices/s1/enable")[0] == 200
    assert clients.errors == []


def test_sigterm_lets_every_worker_finish(start: Start, slices: StandIns) -> None:
    running = start(workers=3)
    slices.held = True
    waiting = [Waiting(running) for _ in range(6)]
    wait_until(lambda: sum(v["in_flight"] for v in running.slices().values()) == 6, "all in flight")
    os.kill(running.main_pid, signal.SIGTERM)
    wait_until(lambda: running.logged("gateway.stopping"), "it is stopping")
    slices.release()
    assert [each.answer() for each in waiting] == [(200, b"ok")] * 6
    assert running.family.wait(20) == 0


def test_a_second_sigterm_cuts_off(start: Start, slices: StandIns) -> None:
    running = start(workers=2)
    slices.held = True
    waiting = Waiting(running)
    busy_worker(running)
    pid = running.main_pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: running.logged("gateway.stopping"), "it is stopping")
    os.kill(pid, signal.SIGTERM)
    begun_s = time.monotonic()
    assert running.family.wait(20) == 0
    assert time.monotonic() - begun_s < 5
    assert isinstance(waiting.answer(), (OSError, http.client.HTTPException))


def test_workers_end_with_their_main_process(start: Start, slices: StandIns) -> None:
    running = start(workers=2)
    slices.held = True
    waiting = Waiting(running)
    busy_worker(running)
    pids = running.pids()
    os.kill(running.main_pid, signal.SIGKILL)
    wait_until(lambda: running.logged("worker.orphaned"), "the workers notice")
    slices.release()
    assert waiting.answer() == (200, b"ok")
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "all processes have ended")


def test_a_taken_port_is_refused_also_with_workers(start: Start) -> None:
    """With SO_REUSEPORT alone the second gateway would take half of the first one's clients."""
    first = start(workers=2)
    second = start(False, workers=2, listen=f"127.0.0.1:{first.port}")
    assert second.family.wait(20) == 2
    assert f"cannot listen on 127.0.0.1:{first.port}: another program does" in second.log
    assert first.infer() == (200, b"ok")


def test_a_slice_that_is_gone_is_out_for_all_workers(start: Start, slices: StandIns) -> None:
    running = start(workers=3)
    running.config["slices"][0]["http"] = "127.0.0.1:1"
    running.write()
    with clients_of(running) as clients:
        clients.wait_for(50)
        assert running.ask("POST", "/v1/reload")[0] == 200
        wait_until(lambda: running.slices()["s0"]["state"] == "unready", "s0 is out")
        before = running.slices()["s0"]["requests"]
        clients.wait_for(100)
        assert running.slices()["s0"]["requests"] == before
    assert clients.errors == []


def test_the_policy_is_changed_for_all_workers(start: Start) -> None:
    running = start(workers=2)
    running.config["balancing"] = {"policy": "round_robin"}
    running.write()
    assert running.ask("POST", "/v1/reload")[0] == 200
    before = {name: view["requests"] for name, view in running.slices().items()}
    for _ in range(60):
        assert running.infer() == (200, b"ok")
    counts = [v["requests"] - before[name] for name, v in running.slices().items()]
    assert sum(counts) == 60
    assert max(counts) - min(counts) <= 2  # a turn of its own for each worker
