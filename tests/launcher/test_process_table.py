"""Processes are told apart for certain."""

import os
import signal
import subprocess
import sys

import pytest

from launcher import process_table
from launcher.process_table import ProcessId
from tests.launcher.helpers import wait_until


@pytest.fixture
def child():
    """A process that ends with its standard input, so also when the test run is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "marker-4711"],
        stdin=subprocess.PIPE,
        env={**os.environ, "TEST_DEVICE": "MIG-1"},
    ) as process:
        yield process
        process.kill()


def test_a_process_is_itself_until_it_ends(child):
    found = process_table.identify(child.pid)
    assert found == process_table.identify(child.pid)
    assert process_table.is_running(found)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process_table.is_running(found)  # a zombie is nobody


def test_another_start_with_the_same_pid_is_another_process(child):
    stranger = ProcessId(child.pid, process_table.identify(child.pid).started + "1")
    assert not process_table.is_running(stranger)
    assert not process_table.send(stranger, signal.SIGKILL)
    assert child.poll() is None


def test_a_signal_reaches_exactly_the_process(child):
    assert process_table.send(process_table.identify(child.pid), signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    assert not process_table.send(ProcessId(child.pid, "x"), signal.SIGKILL)


def test_processes_are_found_by_argument_and_by_environment(child):
    # The kernel shows the new arguments a moment after the program has begun.
    wait_until(lambda: "marker-4711" in process_table.command_line(child.pid), "arguments")
    found = process_table.pids_with_argument(["marker-4711", "marker-4712"])
    assert found == {"marker-4711": [child.pid], "marker-4712": []}
    assert child.pid in process_table.pids_with_environment("TEST_DEVICE", "MIG-1")
    assert child.pid not in process_table.pids_with_environment("TEST_DEVICE", "MIG-")


def test_no_process_is_none():
    assert process_table.identify(2**22 + 1) is None
    assert process_table.command_line(2**22 + 1) == ""
    assert not process_table.is_running(None)
