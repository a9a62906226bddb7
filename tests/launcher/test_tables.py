"""Tables show what the JSON has, and say what is simulated."""

import io
import json

import pytest
from rich.console import Console

from launcher import apply, plan, plan_views, tables
from launcher.mig import Placement


def text(table, width=200):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_profiles_have_what_is_free_now(a100):
    a100.create_gpu_instance(9, Placement(0, 4))
    document = tables.profiles_dict(a100)
    json.dumps(document)
    assert {p["name"]: (p["free"], p["max"]) for p in document["profiles"]} == {
        "1g.5gb": (3, 7),
        "2g.10gb": (1, 3),
        "3g.20gb": (1, 2),
        "4g.20gb": (0, 1),
        "7g.40gb": (0, 1),
        "1g.5gb+me": (1, 1),
        "1g.10gb": (2, 4),
    }
    assert document["simulated"]
    shown = text(tables.profiles_table(document))
    assert "(simulated), MIG mode on" in shown
    assert tables.SIMULATED in shown
    assert "19.50 GiB" in shown


@pytest.fixture
def made(a100):
    foreign = a100.create_gpu_instance(9, Placement(0, 4))
    facts = apply.read_facts(a100)
    assert foreign in facts.instances
    layouts = {facts.gpu.uuid: ("4g", "1g")}
    return plan.make([facts], layouts, plan.Addresses("127.0.0.1", 8000), force=True)


def test_a_plan_has_its_steps_in_order(made):
    shown = text(plan_views.table(made))
    assert (
        "destroy GPU instance 1 at 0:4 (not made by mig-launcher), create 2 GPU instances" in shown
    )
    assert "4g.20gb" in shown
    assert "127.0.0.1:8012" in shown
    assert tables.SIMULATED in shown


def test_a_plan_as_json(made):
    document = json.loads(json.dumps(plan_views.as_dict(made)))
    assert document["destroy"] == [
        {"gpu": 0, "gpu_instance": 1, "profile": "3g.20gb", "profile_id": 9, "placement": "0:4",
         "foreign": True}
    ]  # fmt: skip
    assert [(s["name"], s["profile"], s["weight"]) for s in document["slices"]] == [
        ("s0", "4g.20gb", 4.0),
        ("s1", "1g.5gb", 1.0),
    ]


UUID = "MIG-49a37a64-8b5b-5709-bce1-222da46a619f"


def test_status_says_who_watches():
    member = {
        "name": "s0", "profile": "1g.5gb", "mig_uuid": UUID, "http": "h:8000", "grpc": "h:8001",
        "metrics": "h:8002", "pid": None, "container": None, "state": "dead", "restarts": 2, "simulated": True,
        "lent_to": None,
    }  # fmt: skip
    document = {
        "gpu": "simulated:a100-40gb",
        "simulated": True,
        "launcher_pid": None,
        "inventory": "/x",
        "problem": None,
        "slices": [member],
        "jobs": [],
    }
    shown = text(tables.status_table(document))
    assert "no launcher: it was killed" in shown
    assert tables.SIMULATED in shown
    assert "launcher pid 7" in text(tables.status_table({**document, "launcher_pid": 7}))


def test_status_says_who_has_a_slice():
    slices = [
        {
            "name": name, "profile": "1g.5gb", "mig_uuid": UUID, "http": "h:8000", "grpc": "h:8001",
            "metrics": "h:8002", "pid": None, "container": None, "state": "lent", "restarts": 0,
            "simulated": True, "lent_to": to,
        }
        for name, to in (("s0", "train"), ("s1", "mig-job-s1-0123456789ab"))
    ]  # fmt: skip
    train = {
        "name": "train", "slice": "s0", "image": "my/training", "command": [], "restart": "no",
        "state": "running", "container": "mig-job-s0-1", "pid": None, "restarts": 2, "exit_code": 3,
        "reason": "exit code 3", "log": "/l",
    }  # fmt: skip
    document = {
        "gpu": "g", "simulated": True, "launcher_pid": 1, "inventory": "/x", "problem": None,
        "slices": slices, "jobs": [train],
    }  # fmt: skip
    shown = text(tables.status_table(document))
    job = "job train on s0 (my/training): running as mig-job-s0-1, 2 restarts; its log is /l\n"
    assert job in shown
    assert "s1: lent to mig-job-s1-0123456789ab, by `mig-launcher run`" in shown
    document["jobs"] = [{**train, "state": "ended", "container": None}]
    assert "ended, 2 restarts, exit code 3; its log" in text(tables.status_table(document))


def test_in_a_narrow_terminal_ports_pid_and_state_are_still_whole():
    member = {
        "name": "s0", "profile": "1g.5gb", "mig_uuid": UUID, "http": "127.0.0.1:18000",
        "grpc": "127.0.0.1:18001", "metrics": "127.0.0.1:18002", "pid": 123456, "container": None,
        "state": "restarting", "restarts": 2, "simulated": True, "lent_to": None,
    }  # fmt: skip
    document = {
        "gpu": "g", "simulated": True, "launcher_pid": 1, "inventory": "/x", "problem": None,
        "slices": [member], "jobs": [],
    }  # fmt: skip
    shown = text(tables.status_table(document), width=80)
    for word in ("s0", "1g.5gb", "18000 18001 18002", "123456", "restarting", "yes", "simulated"):
        assert word in shown
    assert "…" not in shown
