"""Whatever a benchmark starts is stopped, however the benchmark ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.processes import BenchError, Programs, wait_for

ROOT = Path(__file__).resolve().parents[2]
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
FORKS = [sys.executable, "-c", "import os, time; os.fork(); time.sleep(600)"]


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        time.sleep(0.01)


def test_programs_and_their_children_end_with_the_block_also_on_ctrl_c(tmp_path):
    programs = Programs(tmp_path)
    running = programs.start("forks", FORKS, ())
    try:
        until(lambda: psutil.Process(running.process.pid).children())
        (child,) = psutil.Process(running.process.pid).children()
        assert not gone(child.pid)
    finally:
        programs.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert running.process.returncode == -signal.SIGTERM
    until(lambda: gone(child.pid))


def test_a_program_ends_when_the_benchmark_is_killed(tmp_path):
    """SIGKILL leaves us no time to stop anything: the kernel does."""
    script = (
        "import sys, time; from pathlib import Path; from bench.processes import Programs\n"
        f"running = Programs(Path({str(tmp_path)!r})).start('sleeps', {SLEEPS!r}, ())\n"
        "print(running.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as bench:
        pid = int(bench.stdout.readline())
        assert not gone(pid)
        bench.kill()
    until(lambda: gone(pid))


def test_a_program_that_ends_too_early_is_shown_with_its_last_words(tmp_path):
    with Programs(tmp_path) as programs:
        running = programs.start(
            "fails", [sys.executable, "-c", "raise SystemExit('no such key')"], ()
        )
        with pytest.raises(BenchError, match=r"fails ended with status 1(.|\n)*no such key"):
            wait_for(lambda: False, running, "answering")


def test_programs_run_on_the_cores_they_are_given(tmp_path):
    core = min(os.sched_getaffinity(0))
    with Programs(tmp_path) as programs:
        running = programs.start("sleeps", SLEEPS, (core,))
        assert os.sched_getaffinity(running.process.pid) == {core}


def test_ports_are_free_and_never_handed_out_twice(tmp_path):
    programs = Programs(tmp_path)
    ports = [programs.take_port() for _ in range(50)]
    assert len(set(ports)) == 50
