"""`down` stops exactly what `up` started, whatever became of its launcher."""

import asyncio
import os
import signal
import subprocess

import pytest

from launcher import down as down_module
from launcher.cutting import Found
from launcher.down import down, steps
from launcher.mig import Placement
from launcher.state import InstanceRecord, State
from tests.launcher.helpers import wait_until, write_model


def test_nothing_up_is_said_and_no_error(launcher):
    done = launcher.call("down")
    assert done.returncode == 0
    assert "nothing is up" in done.stdout
    assert not launcher.state_dir.exists()


def test_what_it_would_do_is_told_step_by_step():
    at = Placement(4, 4)
    state = State(
        "nvidia:all", "process", "/slices.json",
        mig_enabled=("GPU-0",),
        instances=(InstanceRecord("s0", "GPU-0", "1g.5gb", 19, Placement(0, 1), 7, 0, "MIG-0"),),
        found=(Found("GPU-0", 9, at),),
    )  # fmt: skip
    assert steps(state, disables_mig=True) == [
        "destroy 1g.5gb at 0:1 of GPU-0",
        "make again the instance of profile 9 at 4:4 of GPU-0, which `up --force` destroyed",
        "switch MIG mode off on GPU-0, which `up` switched on",
        "switch MIG mode off on nvidia:all, whoever switched it on",
    ]
    assert steps(None, disables_mig=True) == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_cleans_up_after_a_launcher_that_was_killed(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    pids = launcher.pids()
    os.kill(launcher.status()["launcher_pid"], signal.SIGKILL)
    wait_until(lambda: launcher.status()["launcher_pid"] is None, "death of the launcher")
    assert launcher.pids() == pids
    done = launcher.call("down")
    assert done.returncode == 0
    assert "stopped s0, s1 on simulated:a100-40gb" in done.stdout
    assert launcher.traces() == []
    assert "nothing is up" in launcher.call("down").stdout


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_launcher_that_is_still_starting_is_stopped_too(launcher, tmp_path):
    slow = write_model(tmp_path / "slow", "slow", "import time\ntime.sleep(600)\n")
    arguments = launcher.up_arguments("--stop-timeout", "1", models=slow)
    process = launcher.popen(*arguments)
    wait_until((launcher.state_dir / "launcher.json").exists, "start")
    assert launcher.call("down").returncode == 0
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert launcher.traces() == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_killed_launcher_that_had_not_written_the_pids_is_cleaned_up(launcher):
    """The marker is on record before the server starts, and on its command line after."""
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    os.kill(launcher.status()["launcher_pid"], signal.SIGKILL)
    path = launcher.state_dir / "launcher.json"
    text = path.read_text()
    for pid in launcher.pids():
        started = text[text.index(f'"pid": {pid}') :].split('"started": "')[1].split('"')[0]
        process = f'{{\n          "pid": {pid},\n          "started": "{started}"\n        }}'
        assert process in text
        text = text.replace(process, "null")
    path.write_text(text)
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_stranger_with_a_recycled_pid_is_left_alone(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    os.kill(launcher.status()["launcher_pid"], signal.SIGKILL)
    path = launcher.state_dir / "launcher.json"
    pids = launcher.pids()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        path.write_text(path.read_text().replace(f'"pid": {pids[0]}', f'"pid": {stranger.pid}'))
        assert launcher.call("down").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert launcher.traces() == []


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_launcher_that_hangs_is_killed_and_its_work_undone(launcher, monkeypatch):
    monkeypatch.setattr(down_module, "LAUNCHER_PATIENCE_S", 1.0)
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    pid = launcher.status()["launcher_pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = asyncio.run(down(launcher.state_dir, stop_timeout_s=0.1))
    assert stopped.launcher_pid == pid
    assert launcher.traces() == []
