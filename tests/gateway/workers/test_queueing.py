"""Requests that wait in several worker processes for the same slices."""

import threading

import pytest

from tests.gateway.workers.conftest import Start
from tests.gateway.workers.running import Running, clients_of, wait_until
from tests.gateway.workers.slices import StandIns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def waiting(running: Running) -> int:
    queues = running.ask("GET", "/v1/queues")[1]["queues"]
    return sum(queue["waiting"] for queue in queues)


def in_flight(running: Running) -> int:
    return sum(view["in_flight"] for view in running.slices().values())


def test_limits_are_kept_by_all_workers_together_and_nobody_waits_for_ever(
    start: Start, slices: StandIns
) -> None:
    running = start(workers=2, queue={"max_in_flight": 1})
    slices.held = True
    got: list[tuple[int, bytes]] = []
    threads = []
    for number in range(1, 11):
        threads.append(threading.Thread(target=lambda: got.append(running.infer())))
        threads[-1].start()
        wait_until(lambda n=number: in_flight(running) + waiting(running) == n, f"{number} came")
    assert (in_flight(running), waiting(running)) == (3, 7)
    metrics = running.metrics()
    assert metrics['queue_waiting{model="m"}'] == 7
    slices.release()
    for thread in threads:
        thread.join(20)
    assert got == [(200, b"ok")] * 10
    wait_until(lambda: waiting(running) == in_flight(running) == 0, "nothing is left")
    wait_until(
        lambda: running.metrics().get('queue_ended_total{model="m",how="served"}') == 7,
        "those that waited are counted",
    )


def test_no_workers_clients_starve(start: Start, slices: StandIns) -> None:
    """The worker that frees a slot sees it first: it must not keep it for its own."""
    running = start(workers=3, queue={"max_in_flight": 1})
    slices.delay_s = 0.01
    clients = [clients_of(running, count=1) for _ in range(24)]
    for client in clients:
        client.__enter__()
    try:
        for client in clients:
            client.wait_for(5)
    finally:
        for client in clients:
            client.__exit__(None, None, None)
    assert [client.errors for client in clients] == [[]] * 24


def test_a_reload_changes_limits_in_all_workers(start: Start, slices: StandIns) -> None:
    running = start(workers=2, queue={"max_in_flight": 1})
    slices.held = True
    threads = [threading.Thread(target=running.infer) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: in_flight(running) + waiting(running) == 8, "all came")
    running.config["queue"] = {"max_in_flight": 2}
    running.write()
    assert running.ask("POST", "/v1/reload")[0] == 200
    wait_until(lambda: in_flight(running) == 6, "as many more have gone as there is room for")
    running.config["queue"] = {"enabled": False}
    running.write()
    assert running.ask("POST", "/v1/reload")[0] == 200
    wait_until(lambda: in_flight(running) == 8, "nobody waits any more")
    slices.release()
    for thread in threads:
        thread.join(20)
