"""`mig-launcher run`: a slice is lent to a job and serves again, whatever becomes of the job."""

import signal
import subprocess

import pytest

from tests.containers.marks import CONTAINERS
from tests.containers.system import System
from tests.e2e.stack import REPOSITORY, wait_until
from tests.support.docker import images

pytestmark = CONTAINERS
LONG = ["bash", "-c", "echo begun; trap 'echo told; exit 9' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def serving(system: System) -> System:
    """Slices s0 (2g) and s1 (1g) behind the gateway."""
    system.settings["gateway_admin"] = system.admin
    system.start_gateway()
    system.up()
    system.wait_whole(2)
    return system


def begin(system: System, *arguments: str) -> "subprocess.Popen[str]":
    command = system.command("run", *arguments, "--", images.TRITON, *LONG)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


def wait_lent(system: System) -> None:
    wait_until(lambda: system.slices()["s1"]["state"] == "lent", "s1 is lent")
    wait_until(lambda: any("job" in name for name in system.containers()), "the job runs")


def test_a_job_has_the_slice_and_its_exit_code_is_kept(serving: System):
    uuid = serving.slices()["s1"]["mig_uuid"]
    before = serving.slices()["s1"]["container"]
    done = serving.call(
        "run", "--profile", "1g", "-e", "COLOUR=blue", "-v", f"{serving.folder}:/data", "--",
        images.TRITON, "bash", "-c", "echo $COLOUR $CUDA_VISIBLE_DEVICES; ls /data; exit 7",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"blue {uuid}\n")
    assert "launcher.yaml" in done.stdout
    after = serving.slices()["s1"]
    assert (after["state"], after["restarts"]) == ("ready", 0)
    assert after["container"] != before
    serving.wait_whole(2)
    assert len(serving.containers()) == 2


@pytest.mark.chaos
def test_while_it_runs_the_rest_serves_and_ctrl_c_ends_it(serving: System):
    running = begin(serving, "--slice", "s1")
    wait_lent(serving)
    wait_until(lambda: serving.states()["s1"] != "ready", "the gateway does without s1")
    for _ in range(5):
        assert serving.infer() == [7, 8, 9]
    again = serving.call("run", "--slice", "s1", "--", images.TRITON, "true")
    assert (again.returncode, "s1 runs another job" in again.stderr) == (125, True)
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=120)
    assert (out, running.returncode) == ("told\n", 9)
    serving.wait_whole(2)


def test_a_killed_run_gives_the_slice_back(serving: System):
    running = begin(serving, "--slice", "s1")
    wait_lent(serving)
    running.kill()
    running.communicate()
    serving.wait_ready()
    serving.wait_whole(2)
    wait_until(lambda: len(serving.containers()) == 2, "the job's container is gone")


@pytest.mark.chaos
def test_down_ends_the_job_too(serving: System):
    running = begin(serving, "--slice", "s1")
    wait_lent(serving)
    assert serving.call("down").returncode == 0
    _, told = running.communicate(timeout=120)
    assert (running.returncode, "the launcher was stopped meanwhile" in told) == (125, True), told
    assert serving.containers() == []


@pytest.mark.chaos
def test_a_job_goes_on_without_its_launcher_and_holds_the_next_one_off(serving: System):
    running = begin(serving, "--slice", "s1")
    wait_lent(serving)
    serving.kill_launcher()
    serving.up()
    assert serving.slices()["s1"]["state"] == "lent"
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 9, told
    serving.wait_whole(2)


def test_what_cannot_be_run_changes_nothing(serving: System):
    before = serving.containers()
    for arguments, told in (
        (
            ["--slice", "s9", "--", images.TRITON],
            "there is no slice s9; there are s0 (2g.10gb), s1",
        ),
        (["--profile", "7g", "--", images.TRITON], "there is no slice of profile 7g"),
        (["--slice", "s1", "--", "none/such:1"], "the engine has no image none/such:1"),
    ):
        failed = serving.call("run", *arguments)
        assert (failed.returncode, told in failed.stderr) == (125, True), failed.stderr
    assert serving.containers() == before
    serving.settings["docker"]["binding"] = "gpus"  # of a device that the toolkit does not know
    failed = serving.call("run", "--slice", "s1", "--", images.TRITON, "true")
    assert failed.returncode == 125
    assert "the NVIDIA Container Toolkit does not know MIG-" in failed.stderr
    serving.wait_whole(2)
