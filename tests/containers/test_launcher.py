"""mig-launcher with servers in containers: it makes them, keeps them, finds them, removes them."""

import os
import signal

import pytest

from tests.containers.marks import CONTAINERS
from tests.containers.system import System
from tests.e2e.stack import wait_until
from tests.support.docker import images

pytestmark = CONTAINERS


def names(system: System) -> list[str]:
    return sorted(entry["container"] for entry in system.slices().values())


def test_what_up_makes_down_removes_and_nothing_else(system: System):
    client = system.engine.client
    other = client.containers.run(images.TRITON, ["sleep", "100"], name="others", detach=True)
    system.up()
    made = names(system)
    assert system.containers() == sorted([*made, "others"])
    down = system.call("down")
    assert (down.returncode, down.stdout) == (0, "stopped s0, s1 on simulated:a100-40gb\n")
    assert system.containers() == ["others"]
    other.remove(force=True)


def test_containers_outlive_their_launcher_and_are_adopted(system: System):
    system.up()
    made = names(system)
    system.kill_launcher()
    assert {entry["state"] for entry in system.slices().values()} == {"unsupervised"}
    system.up()
    assert names(system) == made == system.containers()
    # The new launcher watches them as if they were its own.
    system.engine.client.containers.get(made[0]).kill()
    wait_until(lambda: system.slices()["s0"]["restarts"] == 1, "s0 is started again")
    system.wait_ready()
    assert made[0] not in names(system) == system.containers()


@pytest.mark.parametrize(
    "after", [pytest.param(0, marks=pytest.mark.chaos), 1, pytest.param(2, marks=pytest.mark.chaos)]
)
def test_a_launcher_killed_while_it_starts_them_leaves_nothing_twice(system: System, after: int):
    system.begin_up()
    wait_until(lambda: len(system.containers()) >= after, f"{after} containers", 60)
    system.kill_launcher()
    system.up()
    assert len(system.containers()) == 2
    assert names(system) == system.containers()
    assert system.call("down").returncode == 0
    assert system.containers() == []


def test_what_died_while_nobody_watched_is_started_by_the_engine(system: System):
    system.up()
    made = names(system)
    system.kill_launcher()
    pid = system.slices()["s1"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.slices()["s1"]["pid"] not in (pid, None), "s1 runs again")
    system.up()
    assert names(system) == made == system.containers()


@pytest.mark.chaos
def test_other_settings_replace_the_containers(system: System):
    system.up()
    made = names(system)
    system.kill_launcher()
    system.settings["docker"]["shm_size"] = "128m"
    system.up()
    assert not set(made) & set(names(system))
    assert names(system) == system.containers()
    found = system.engine.client.containers.get(names(system)[0])
    assert found.attrs["HostConfig"]["ShmSize"] == 128 * 1024 * 1024


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_is_restarted_is_waited_for(system: System, number: signal.Signals):
    """Its containers end with it, or as it comes again; the launcher sees to it that all run."""
    system.up()
    system.engine.restart(number)
    system.wait_ready()
    assert "Traceback" not in system.log("launcher")
    assert len(system.containers()) == 2 == len(system.wait_ready())
    system.engine.client.containers.get(names(system)[1]).kill()
    wait_until(lambda: system.slices()["s1"]["restarts"], "s1 is started again")
    system.wait_ready()
    assert names(system) == system.containers()


def test_a_slice_that_cannot_be_bound_undoes_everything(system: System):
    system.settings["docker"]["binding"] = "gpus"
    failed = system.call("up")
    assert failed.returncode == 2
    told = [line for line in failed.stderr.splitlines() if line.startswith("mig-launcher: ")]
    assert len(told) == 1
    assert "did not start: the NVIDIA Container Toolkit does not know MIG-" in told[0]
    assert system.containers() == []
    assert system.slices() == {}


def test_a_model_that_does_not_load_is_told_in_tritons_words(system: System):
    (system.models / "echo" / "1" / "model.py").write_text("import nothing_of_that_name\n")
    failed = system.call("up")
    assert failed.returncode == 2
    assert "No module named 'nothing_of_that_name'" in failed.stderr
    assert system.containers() == []


def test_without_an_engine_status_says_so_and_up_changes_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
):
    system.up()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("DOCKER_HOST", f"unix://{system.folder}/none.sock")
        shown = system.call("status")
        assert shown.returncode == 0
        assert "no Docker Engine answers" in shown.stdout
        assert "unknown" in shown.stdout
        system.settings["state_dir"] = str(system.folder / "other")
        failed = system.call("up")
    assert failed.returncode == 2
    assert "no Docker Engine answers" in failed.stderr
    assert failed.stderr.count("mig-launcher: ") == 1
