"""A slice is lent by a lock, which ends with whoever holds it."""

import os
import signal
import subprocess
import sys

import pytest

from launcher import reservation
from launcher.errors import BusyError


def test_what_is_lent_is_seen_and_cannot_be_lent_twice(tmp_path):
    assert not reservation.is_held(tmp_path, "s0")
    with reservation.hold(tmp_path, "s0", "job-1_") as left:
        assert left == ""
        assert reservation.is_held(tmp_path, "s0")
        assert reservation.left_behind(tmp_path, "s0") == ""
        assert not reservation.is_held(tmp_path, "s1")
        with (
            pytest.raises(BusyError, match="s0 runs another job"),
            reservation.hold(tmp_path, "s0", "job-2_"),
        ):
            pass
    assert not reservation.is_held(tmp_path, "s0")
    assert reservation.left_behind(tmp_path, "s0") == ""


def test_a_killed_job_leaves_its_marker(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from launcher import reservation\n"
        "with reservation.hold(Path(sys.argv[1]), 's0', 'job-1_'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert reservation.is_held(tmp_path, "s0")
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert not reservation.is_held(tmp_path, "s0")
    assert reservation.left_behind(tmp_path, "s0") == "job-1_"
    reservation.forget(tmp_path, "s0", "job-0_")
    assert reservation.left_behind(tmp_path, "s0") == "job-1_"
    with reservation.hold(tmp_path, "s0", "job-2_") as left:
        assert left == "job-1_"
    assert reservation.left_behind(tmp_path, "s0") == ""


def test_what_is_cleaned_up_is_forgotten(tmp_path):
    path = reservation.path_of(tmp_path, "s0")
    path.parent.mkdir()
    path.write_text("job-1_")
    reservation.forget(tmp_path, "s0", "job-1_")
    assert reservation.left_behind(tmp_path, "s0") == ""
