"""A gateway is replaced by a newer one on the same sockets; clients notice nothing."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.gateway.workers.conftest import Start
from tests.gateway.workers.running import REPOSITORY, Running, clients_of, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(120)]


def upgraded(running: Running) -> int:
    """Upgrade through the admin API, and return the process id of the new gateway."""
    status, answer = running.ask("POST", "/v1/upgrade")
    assert status == 200, answer
    assert answer["pid"] == running.main_pid
    return int(answer["pid"])


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_it_is_replaced_again_and_again(start: Start, workers: int) -> None:
    running = start(workers=workers)
    first = running.main_pid
    with clients_of(running) as clients:
        for _ in range(3):
            clients.wait_for(50)
            upgraded(running)
        clients.wait_for(50)
        pids = set(running.pids())
        wait_until(lambda: not psutil.pid_exists(first), "the first one has ended")
    assert clients.errors == []
    assert running.main_pid in pids
    assert running.infer() == (200, b"ok")
    wait_until(lambda: len(running.pids()) == (1 if workers == 1 else 1 + workers), "one is left")


def test_the_number_of_workers_may_change(start: Start) -> None:
    running = start(workers=1)
    with clients_of(running) as clients:
        for workers in (3, 2, 1):
            clients.wait_for(50)
            running.config["workers"] = workers
            running.write()
            upgraded(running)
            assert [w["state"] for w in running.workers()] == ["serving"] * workers
        clients.wait_for(50)
    assert clients.errors == []


def test_choices_survive_and_are_made_in_one_place(start: Start) -> None:
    running = start()
    assert running.ask("POST", "/v1/slices/s1/disable")[0] == 200
    upgraded(running)
    assert running.slices()["s1"]["state"] == "disabled"
    assert running.ask("POST", "/v1/slices/s1/enable")[0] == 200
    upgraded(running)
    wait_until(lambda: running.slices()["s1"]["state"] == "ready", "s1 is enabled")


def test_sigusr2_upgrades_as_well(start: Start) -> None:
    running = start(workers=2)
    old = running.main_pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.main_pid != old, "another process answers")
    assert running.infer() == (200, b"ok")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [("workers", 0, "workers is 0"), ("nonsense", True, "nonsense"), ("listen", None, None)],
)
def test_one_that_cannot_start_says_why_and_the_old_one_goes_on(
    start: Start, key: str, value: object, why: str | None
) -> None:
    running = start(workers=2)
    if key == "listen":
        taken = start()
        value = [running.config["listen"], taken.config["listen"]]
        why = f"cannot listen on {taken.config['listen']}: another program does"
    old = running.main_pid
    running.config[key] = value
    running.write()
    with clients_of(running) as clients:
        clients.wait_for(20)
        status, answer = running.ask("POST", "/v1/upgrade")
        clients.wait_for(50)
    assert status == 409
    assert why is not None
    assert why in answer["error"]
    assert clients.errors == []
    assert running.main_pid == old
    assert len(running.pids()) == 3
    assert running.ask("POST", "/v1/slices/s1/disable")[0] == 200  # it still makes choices


def test_one_that_is_told_to_stop_meanwhile_leaves_nothing_behind(start: Start) -> None:
    running = start()
    old = running.main_pid
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: running.logged("successor.started"), "its successor starts")
    os.kill(old, signal.SIGTERM)
    running.family.wait(20)


def test_the_command_upgrades(start: Start) -> None:
    running = start()
    old = running.main_pid
    told = subprocess.run(
        [sys.executable, "-m", "gateway", "upgrade", "--config", str(running.path)],
        capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=60,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    assert f"process {running.main_pid} serves" in told.stdout
    assert running.main_pid != old
