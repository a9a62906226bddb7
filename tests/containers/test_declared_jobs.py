"""Jobs of the launcher's configuration in containers, beside slices that serve."""

import socket

import pytest

from tests.containers.marks import CONTAINERS
from tests.containers.system import System
from tests.e2e.stack import free_ports, wait_until
from tests.support.docker import images

pytestmark = CONTAINERS
NOTEBOOK = (
    "import http.server as h; h.HTTPServer(('', 8888), h.SimpleHTTPRequestHandler).serve_forever()"
)
TRAIN = (
    "echo on $CUDA_VISIBLE_DEVICES; until [ -e /data/go ]; do sleep 0.05; done; echo done; exit 7"
)


@pytest.fixture
def mixed(system: System) -> System:
    """A slice that serves, one that trains and then serves, and a notebook on a third."""
    (system.folder / "data").mkdir()
    system.notebook = f"127.0.0.1:{free_ports(1)[0]}"
    system.settings["gateway_admin"] = system.admin
    system.settings["layout"] = ["2g", "1g", "1g"]
    # A Python program that is the first of its container does not end by SIGTERM.
    system.settings["stop_timeout_s"] = 2.5
    system.settings["jobs"] = [
        {
            "name": "train", "profile": "1g", "image": images.TRITON, "command": ["bash", "-c", TRAIN],
            "volumes": [f"{system.folder}/data:/data"],
        },
        {
            "name": "notebook", "slice": "s1", "image": images.TRITON, "restart": "always",
            "command": ["python3", "-c", NOTEBOOK], "ports": [f"{system.notebook}:8888"],
        },
    ]  # fmt: skip
    return system


def test_jobs_are_started_found_again_and_end_where_the_slice_serves(mixed: System):
    mixed.start_gateway()
    mixed.up()

    def running() -> bool:
        return {job["state"] for job in mixed.jobs().values()} == {"running"}

    wait_until(running, "both jobs run")
    wait_until(lambda: mixed.answers(mixed.notebook), "the notebook answers")
    assert {name: view["lent_to"] for name, view in mixed.slices().items()} == {
        "s0": None, "s1": "notebook", "s2": "train",
    }  # fmt: skip
    wait_until(lambda: mixed.states().get("s0") == "ready", "s0 serves")
    assert mixed.infer() == [7, 8, 9]
    refused = mixed.call("run", "--slice", "s1", "--", images.TRITON, "true")
    assert (refused.returncode, "s1 runs another job" in refused.stderr) == (125, True)

    before = mixed.containers()
    mixed.kill_launcher()
    mixed.up()
    assert mixed.containers() == before

    notebook = mixed.jobs()["notebook"]["container"]
    mixed.engine.client.containers.get(notebook).kill()
    wait_until(lambda: mixed.jobs()["notebook"]["restarts"] == 1, "the notebook starts again")
    wait_until(lambda: mixed.answers(mixed.notebook), "the notebook answers")

    mixed.kill_launcher()
    (mixed.folder / "data" / "go").touch()
    trained = mixed.engine.client.containers.get(mixed.jobs()["train"]["container"])
    assert trained.wait()["StatusCode"] == 7
    mixed.up()
    wait_until(lambda: mixed.jobs()["train"]["state"] == "ended", "its end is known")
    wait_until(lambda: mixed.slices()["s2"]["state"] == "ready", "s2 serves", 60)
    wait_until(lambda: mixed.states().get("s2") == "ready", "the gateway knows")
    train = mixed.jobs()["train"]
    assert (train["exit_code"], train["reason"]) == (7, "exit code 7")
    uuid = mixed.slices()["s2"]["mig_uuid"]
    # What was said as a launcher was killed may be there twice; nothing is lost.
    said = mixed.log("run/logs/job-train").splitlines()
    assert (set(said), said[-1]) == ({f"on {uuid}", "done"}, "done")
    assert len(mixed.containers()) == 3

    assert mixed.call("down").returncode == 0
    assert mixed.containers() == []


def test_a_job_that_cannot_be_started_says_why_and_the_slice_serves(mixed: System):
    del mixed.settings["jobs"][0]
    host, _, port = mixed.notebook.partition(":")
    mixed.settings["jobs"][0]["restart"] = "no"
    with socket.create_server((host, int(port))):
        mixed.up()
        wait_until(lambda: mixed.jobs()["notebook"]["state"] == "ended", "it has ended")
    notebook = mixed.jobs()["notebook"]
    assert notebook["exit_code"] == 125
    assert f"{mixed.notebook} is taken by another program; free it" in notebook["reason"]
    wait_until(lambda: mixed.slices()["s1"]["state"] == "ready", "s1 serves", 60)
    assert len(mixed.containers()) == 3


def test_an_image_that_is_not_there_is_told_before_anything_changes(mixed: System):
    mixed.settings["jobs"][0]["image"] = "none/such:1"
    failed = mixed.call("up")
    assert failed.returncode == 2
    assert "jobs.train: the engine has no image none/such:1" in failed.stderr
    assert mixed.containers() == []
