"""
A command that is killed at any step whatever leaves nothing twice, and nothing behind.

Each test kills at the first step, at the second, and so on until there are no more: see killing.py.
Several at a time, each with a launcher of its own, as they mostly wait. One is run with the other
container tests, all of them by `make chaos`.
"""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.containers.marks import CONTAINERS
from tests.containers.system import System
from tests.e2e.stack import wait_until
from tests.support.docker import images
from tests.support.docker.engine import Engine

pytestmark = CONTAINERS
AT_A_TIME = 4
STEPS_MAX = 60
SAYS = ["bash", "-c", "echo begun; exec sleep 600"]
JOB = ["run", "--slice", "s0", "--no-drain", "--", images.TRITON, "true"]


class Doomed(System):
    """
    A system of one slice, of which one command is killed at a step.

    Attributes:
        died_at: Where it was; empty when it came to its end before.
    """

    def __init__(self, engine: Engine, folder: Path, step: int) -> None:
        super().__init__(engine, folder)
        self.settings.update(layout=["7g"], stop_timeout_s=0.5)
        self.journal = folder / "journal"
        self.step = step
        self.died_at = ""
        self.doomed: subprocess.Popen[bytes] | None = None

    def begin(self, *command: str) -> None:
        """Start the command that is to be killed."""
        program = [sys.executable, "-m", "tests.containers.killing"]
        at = [str(self.step), str(self.journal)]
        self.doomed = self.spawn("doomed", [*program, *at, *self.command(*command)[3:]])

    def count(self) -> None:
        """From now on its steps are counted."""
        self.journal.touch()

    def wait_dead(self, done: Callable[[], bool] = lambda: False) -> None:
        """Wait until it was killed, or has done what it was to do."""
        doomed = self.doomed
        assert doomed is not None
        wait_until(lambda: doomed.poll() is not None or done(), "it is dead or done", 60)
        self.died_at = self.journal.read_text()
        if doomed.poll() is None:
            doomed.kill()
        doomed.wait()

    def says_up(self) -> bool:
        return "up until Ctrl-C" in self.log("doomed")

    def assert_whole(self) -> None:
        """The launcher that is up knows one container, and there is no other."""

        def whole() -> bool:
            (entry,) = self.slices().values()
            return entry["state"] == "ready" and self.own_containers() == [entry["container"]]

        wait_until(whole, "its server's container is ready, and there is no other", 60)

    def vanish(self) -> None:
        if self.doomed is not None:
            self.doomed.kill()
            self.doomed.wait()
        super().vanish()

    def assert_nothing_left(self) -> None:
        assert self.own_containers() == []
        assert self.slices() == {}


@pytest.fixture
def at_every_step(engine: Engine, tmp_path: Path):
    """Run a scenario for step 1, 2, … until its command is not killed any more."""

    def run(scenario: Callable[[Doomed], None]) -> list[str]:
        numbers, died_at, failed = itertools.count(1), {}, threading.Event()

        def work() -> None:
            while not failed.is_set() and "" not in died_at.values():
                step = next(numbers)
                assert step < STEPS_MAX, "there is no end of steps"
                folder = tmp_path / str(step)
                folder.mkdir()
                made = Doomed(engine, folder, step)
                try:
                    scenario(made)
                    died_at[step] = made.died_at
                except Exception as error:
                    failed.set()
                    error.add_note(f"after a kill at step {step}: {made.died_at}")
                    raise
                finally:
                    made.vanish()

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            workers = [pool.submit(work) for _ in range(AT_A_TIME)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                failed.set()  # where it is this that was interrupted
        return [died_at[step] for step in sorted(died_at) if died_at[step]]

    return run


def calls(steps: list[str]) -> set[str]:
    """Return what was asked of the engine at which moment: `during POST start`."""
    return {
        " ".join([moment, method, url.rpartition("/")[2] if method == "POST" else "container"])
        for moment, method, url in (step.split() for step in steps if "/" in step)
    }


def test_up_that_makes_a_container(at_every_step):
    def scenario(system: Doomed) -> None:
        system.count()
        system.begin("up")
        system.wait_dead(done=system.says_up)
        system.up()
        system.assert_whole()

    seen = calls(at_every_step(scenario))
    assert seen >= {
        f"{at} POST {what}" for at in ("before", "during", "after") for what in ("create", "start")
    }


@pytest.mark.chaos
def test_up_that_replaces_a_container(at_every_step):
    def scenario(system: Doomed) -> None:
        system.begin("up")
        wait_until(system.says_up, "it is up")
        system.count()
        system.engine.client.containers.get(system.slices()["s0"]["container"]).kill()
        system.wait_dead(done=lambda: "server.restarted" in system.log("doomed"))
        system.up()
        system.assert_whole()

    seen = calls(at_every_step(scenario))
    assert seen >= {f"{at} DELETE container" for at in ("before", "during", "after")}
    assert seen >= {
        f"{at} POST {what}" for at in ("before", "during", "after") for what in ("create", "start")
    }


@pytest.mark.chaos
def test_down(at_every_step):
    def scenario(system: Doomed) -> None:
        system.up()
        system.kill_launcher()
        system.count()
        system.begin("down")
        system.wait_dead()
        assert system.call("down").returncode == 0
        system.assert_nothing_left()

    seen = calls(at_every_step(scenario))
    assert seen >= {f"{at} POST kill" for at in ("before", "during", "after")}
    assert seen >= {f"{at} DELETE container" for at in ("before", "during", "after")}


@pytest.mark.chaos
def test_run(at_every_step):
    def scenario(system: Doomed) -> None:
        system.up()
        system.count()
        system.begin(*JOB)
        system.wait_dead()
        system.assert_whole()

    seen = calls(at_every_step(scenario))
    assert seen >= {
        f"{at} POST {what}" for at in ("before", "during", "after") for what in ("create", "start")
    }


@pytest.mark.chaos
def test_up_that_starts_a_job(at_every_step):
    def scenario(system: Doomed) -> None:
        job = {"name": "job", "slice": "s0", "image": images.TRITON, "command": SAYS}
        system.settings["jobs"] = [job]
        system.count()
        system.begin("up")
        system.wait_dead(done=lambda: "begun" in system.log("run/logs/job-job"))
        system.up()

        def whole() -> bool:
            job = system.jobs()["job"]
            return job["state"] == "running" and system.own_containers() == [job["container"]]

        wait_until(whole, "the job runs, once", 60)

    seen = calls(at_every_step(scenario))
    assert seen >= {
        f"{at} POST {what}" for at in ("before", "during", "after") for what in ("create", "start")
    }
