"""Jobs as programs of this machine: their exit code outlives the launcher, nothing else outlives them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import bare_job_program, process_table
from launcher.bare_jobs import BareJobs
from launcher.job import Job, new_marker
from launcher.runtime import Handle
from tests.launcher.helpers import wait_until

MEMBER = SliceSpec("s0", Endpoint("h", 8000), Endpoint("h", 8001), mig_uuid="MIG-1")


def job(*command, **more):
    return Job("", tuple(command), **more)


def run(tmp_path, *command):
    """Run what stands between to its end; return its exit code and what it wrote down."""
    exit_file = tmp_path / "exit"
    program = [sys.executable, "-I", bare_job_program.__file__, "mark", str(exit_file), *command]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return done.returncode, exit_file.read_text(), done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["/none/such"], 127),
        (["/"], 126),
    ],
)
def test_the_exit_code_is_written_down(tmp_path, command, code):
    assert run(tmp_path, *command)[:2] == (code, str(code))


def test_what_cannot_be_run_says_so(tmp_path):
    assert (
        run(tmp_path, "/none/such")[2]
        == "error: /none/such cannot be run: No such file or directory\n"
    )


async def test_a_job_is_bound_to_its_slice_and_found_again(tmp_path):
    jobs, log = BareJobs(tmp_path), tmp_path / "log"
    code = "echo $CUDA_VISIBLE_DEVICES $A; exec sleep 600"
    wanted = job("sh", "-c", code, environment=(("A", "b"),))
    marker = new_marker(wanted, "s0")
    begun = jobs.start(wanted, MEMBER, marker, log)
    wait_until(lambda: log.read_text() == "MIG-1 b\n", "it runs")
    found = BareJobs(tmp_path).find(Handle(marker))
    assert found.handle == begun.handle
    assert not found.has_ended()
    found.kill()
    assert await begun.wait_ended() == "SIGKILL"
    jobs.sweep([marker])
    assert jobs.find(Handle(marker)) is None


async def test_a_share_is_bound_by_its_own_variables(tmp_path):
    wanted = job("sh", "-c", "echo $CUDA_MPS_ACTIVE_THREAD_PERCENTAGE.$CUDA_VISIBLE_DEVICES",
                 bound=(("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "14"),))  # fmt: skip
    begun = BareJobs(tmp_path).start(wanted, MEMBER, "mig-bare-s0-1_", tmp_path / "log")
    assert await begun.wait_ended() == "exit code 0"
    assert (tmp_path / "log").read_text().startswith("14.")


async def test_a_signal_is_passed_on(tmp_path):
    wanted = job("sh", "-c", "trap 'exit 9' TERM; echo begun; while :; do sleep 0.02; done")
    begun = BareJobs(tmp_path).start(wanted, MEMBER, "mig-bare-s0-2_", tmp_path / "log")
    wait_until(lambda: (tmp_path / "log").read_text() == "begun\n", "it runs")
    begun.terminate()
    assert (await begun.wait_ended(), begun.exit_code()) == ("exit code 9", 9)


async def test_nothing_outlives_what_stands_between(tmp_path):
    """Nor what the job itself has begun, once the launcher has swept."""
    wanted = job("sh", "-c", "sleep 600 & echo $! $$; wait")
    jobs = BareJobs(tmp_path)
    begun = jobs.start(wanted, MEMBER, "mig-bare-s0-3_", tmp_path / "log")
    wait_until(lambda: len((tmp_path / "log").read_text().split()) == 2, "it runs")
    pids = [int(word) for word in (tmp_path / "log").read_text().split()]
    os.kill(begun.handle.process.pid, signal.SIGKILL)
    assert await begun.wait_ended() == "SIGKILL"
    jobs.sweep(["mig-bare-s0-3_"])
    wait_until(lambda: not any(map(process_table.identify, pids)), "all are gone")


def test_it_needs_neither_the_launcher_nor_its_packages():
    source = Path(bare_job_program.__file__).read_text()
    assert "from launcher" not in source
