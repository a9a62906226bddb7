"""CPU and memory of processes, from /proc."""

import os
import subprocess
import sys

import pytest

from bench import usage


def test_a_stat_line_is_read_although_the_name_has_spaces_and_parentheses():
    line = "42 (a) b (c) S 1 42 42 0 -1 4194304 101 0 1 0 150 50 7 3 20 0 1 0 120523 0 0"
    assert usage.parse_stat(line) == usage.CpuTimes(
        own_s=200 / usage.TICKS_PER_S, ended_children_s=10 / usage.TICKS_PER_S
    )


def test_the_work_of_a_child_counts_for_its_parent():
    """While it lives, and after it was waited for."""
    program = (
        "import sys; sum(i * i for i in range(3_000_000)); print(flush=True); sys.stdin.read()"
    )
    before_s = usage.cpu_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        alive_s = usage.cpu_seconds(child.pid)
        assert alive_s > 0.02
        assert usage.cpu_seconds(os.getpid()) - before_s >= alive_s - 0.01
        assert usage.peak_rss_bytes(child.pid) > 1024 * 1024
        child.stdin.close()
    assert usage.cpu_seconds(os.getpid()) - before_s >= alive_s - 0.01


def test_a_process_that_ended_is_an_error_and_not_zero():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    with pytest.raises(ProcessLookupError):
        usage.cpu_seconds(child.pid)
