"""Status says what the file says where somebody keeps it true, and what can be seen elsewhere."""

import os
import socket

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import process_table, state, status
from launcher.process_table import ProcessId
from launcher.runtime import Handle, ServerSpec
from launcher.state import ServerRecord, State, StateStore

MEMBER = SliceSpec(
    "s0",
    Endpoint("127.0.0.1", 8000),
    Endpoint("127.0.0.1", 8001),
    Endpoint("127.0.0.1", 8002),
    weight=2.0,
    mig_uuid="MIG-1",
    profile="2g.10gb",
    simulated=True,
)
HERE = process_table.identify(os.getpid())
GONE = ProcessId(os.getpid(), "another-boot/1")


def write(tmp_path, process, word="ready", runtime="process"):
    record = ServerRecord(ServerSpec(MEMBER, "/m", ()), Handle("m_", process), "/x.log", word, 4)
    path = str(tmp_path / "slices.json")
    StateStore(tmp_path).begin(State("simulated:a100-40gb", runtime, path, servers=(record,)))


def read(tmp_path):
    return status.as_dict(status.read(tmp_path))


def test_nothing_is_up(tmp_path):
    found = read(tmp_path / "none")
    assert (found["up"], found["slices"], found["launcher_pid"]) == (False, [], None)


def test_everything_that_is_known_of_a_slice(tmp_path):
    write(tmp_path, HERE)
    with state.hold(tmp_path, "up"):
        found = read(tmp_path)
    assert (found["up"], found["simulated"], found["launcher_pid"]) == (True, True, os.getpid())
    assert found["slices"] == [
        {
            "name": "s0",
            "profile": "2g.10gb",
            "mig_uuid": "MIG-1",
            "simulated": True,
            "http": "127.0.0.1:8000",
            "grpc": "127.0.0.1:8001",
            "metrics": "127.0.0.1:8002",
            "weight": 2.0,
            "state": "ready",
            "pid": os.getpid(),
            "container": None,
            "restarts": 4,
            "reason": "",
            "warning": "",
            "log": "/x.log",
            "lent_to": None,
        }
    ]


@pytest.mark.parametrize(
    ("supervised", "process", "recorded", "shown"),
    [
        (True, HERE, "ready", "ready"),
        (True, GONE, "ready", "restarting"),
        (True, None, "starting", "starting"),
        (True, None, "restarting", "restarting"),
        (False, HERE, "ready", "unsupervised"),
        (False, GONE, "ready", "dead"),
        (False, None, "starting", "dead"),
        (False, None, "lent", "lent"),
    ],
)
def test_the_state_that_is_shown(tmp_path, supervised, process, recorded, shown):
    write(tmp_path, process, recorded)
    if supervised:
        with state.hold(tmp_path, "up"):
            found = read(tmp_path)
    else:
        found = read(tmp_path)
    assert found["slices"][0]["state"] == shown
    assert found["slices"][0]["pid"] == (os.getpid() if process == HERE else None)


def test_an_engine_that_hangs_is_told_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "LOOK_S", 1)
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    write(tmp_path, None, "ready", runtime="docker")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen()  # and never answers
        found = read(tmp_path)
    assert "it takes too long" in found["problem"]
    assert found["slices"][0]["state"] == "unknown"
