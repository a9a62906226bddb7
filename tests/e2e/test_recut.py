"""The GPU is cut anew while clients send: no request fails, whatever interrupts it."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import REPOSITORY, Stack, wait_until
from tests.support.load import Load, every_kind, plain
from tests.support.watchdog import taken_down_after

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MIXED = {"s0": "2g.10gb", "s2": "1g.5gb", "s3": "1g.5gb", "s4": "3g.20gb"}
STEPS = (2, 5, 9, 13, 17)
"""At which writings of its state a launcher dies, of the twenty and more that a re-cut takes."""
SEVEN = {f"s{i}": "1g.5gb" for i in range(7)}


def apply(stack: Stack, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            sys.executable, "-m", "launcher", "apply", "--state-dir", str(stack.folder),
            "--gateway-admin", stack.admin, *arguments,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip


def applied(stack: Stack, *arguments: str) -> str:
    with apply(stack, *arguments) as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err + stack.log("launcher")
    return out


def profiles(stack: Stack) -> dict[str, str]:
    return {name: view["profile"] for name, view in stack.slices().items()}


def pids(stack: Stack) -> dict[str, int]:
    shown = subprocess.run(
        [sys.executable, "-m", "launcher", "status", "--json", "--state-dir", str(stack.folder)],
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    return {member["name"]: member["pid"] for member in json.loads(shown.stdout)["slices"]}


@pytest.fixture
def recut_stack(stack: Stack) -> Iterator[Stack]:
    """The system in seven slices, before and after."""
    try:
        yield stack
    finally:
        applied(stack, "all-1g")


@pytest.mark.slow
def test_from_seven_to_a_mixed_layout_and_back_under_load(recut_stack: Stack) -> None:
    stack, before = recut_stack, pids(recut_stack)
    with Load(plain(stack.address)) as load:
        load.wait_for(50)
        out = applied(stack, "3g,2g,1g,1g")
        assert "draining s4, s5, s6" in out
        assert profiles(stack) == MIXED
        assert {view["weight"] for view in stack.slices().values()} == {1, 2, 3}
        load.wait_for(50)
        # What could stay has not even been restarted.
        assert {name: pid for name, pid in pids(stack).items() if before[name] == pid}.keys() == {
            "s2", "s3",
        }  # fmt: skip
        # What an operator takes out stays out, although it is cut anew.
        assert stack.ask("POST", "/v1/slices/s0/disable?wait=10s")[0] == 200
        applied(stack, "all-1g")
        load.wait_for(50)
    assert load.errors == []
    assert profiles(stack) == SEVEN
    assert stack.states() == dict.fromkeys(SEVEN, "ready") | {"s0": "disabled"}


@pytest.mark.chaos
@pytest.mark.slow
def test_an_interrupted_recut_is_completed_by_the_next(recut_stack: Stack) -> None:
    stack = recut_stack
    with Load(plain(stack.address)) as load:
        load.wait_for(20)
        process = apply(stack, "3g,2g,1g,1g")
        wait_until(lambda: len(stack.slices()) < 7, "the first slices have left", 60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        applied(stack, "3g,2g,1g,1g")
        load.wait_for(20)
    assert load.errors == []
    assert profiles(stack) == MIXED


def test_what_does_not_fit_changes_nothing(stack: Stack) -> None:
    with apply(stack, "4g,4g") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the nearest that fits: 3g.20gb, 4g.20gb" in err
    assert profiles(stack) == SEVEN


def test_a_gateway_that_does_not_answer_is_told_before_anything_stops(stack: Stack) -> None:
    with apply(stack, "3g,2g,1g,1g", "--gateway-admin", "127.0.0.1:9") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "127.0.0.1:9 does not answer" in err
    assert "--no-drain" in err
    assert profiles(stack) == SEVEN


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A system of the test's own, whose launcher may end."""
    folder = tmp_path / "stack"
    folder.mkdir()
    stack = Stack(folder)
    with taken_down_after(stack.folder):
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


@pytest.mark.chaos
@pytest.mark.slow
def test_a_launcher_that_is_killed_in_the_middle_is_replaced_by_apply(own_stack: Stack) -> None:
    stack = own_stack
    assert stack.launcher is not None
    with Load(plain(stack.address)) as load:
        load.wait_for(20)
        process = apply(stack, "3g,2g,1g,1g")
        wait_until(lambda: len(stack.slices()) < 7, "the first slices have left", 60)
        os.killpg(stack.launcher.pid, signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == 2
        applied(stack, "3g,2g,1g,1g")
        load.wait_for(20)
    assert load.errors == []
    assert profiles(stack) == MIXED


@pytest.mark.chaos
@pytest.mark.slow
def test_killed_at_any_step_it_is_completed_by_the_next(own_stack: Stack, tmp_path: Path) -> None:
    """There and back again; each launcher dies while it cuts, the next takes over what it left."""
    stack, journal = own_stack, tmp_path / "journal"
    targets = itertools.cycle([("3g,2g,1g,1g", MIXED.values()), ("all-1g", SEVEN.values())])

    def ask(layout: str, dies_at: int) -> int:
        command = (
            sys.executable, "-m", "tests.containers.killing", str(dies_at), str(journal),
            "apply", layout, "--state-dir", str(stack.folder), "--gateway-admin", stack.admin,
        )  # fmt: skip
        return subprocess.run(command, capture_output=True, cwd=REPOSITORY, check=False).returncode

    assert stack.launcher is not None
    os.killpg(stack.launcher.pid, signal.SIGKILL)
    stack.launcher.wait(30)
    with Load(every_kind(stack.address), pause_s=0.02) as load:
        assert ask("all-1g", dies_at=STEPS[0]) == 0
        for this, following in itertools.pairwise((*STEPS, 1)):
            layout, wanted = next(targets)
            journal.touch()
            assert ask(layout, dies_at=following) == 2, f"nothing died at step {this}"
            assert journal.read_text() == "before a state"
            journal.unlink()
            assert ask(layout, dies_at=following) == 0
            load.wait_for(20)
            assert sorted(profiles(stack).values()) == sorted(wanted)
    assert load.errors == []
