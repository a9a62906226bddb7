"""MPS: a control daemon of the launcher's own, and servers with their share in the environment."""

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import mps, partitioners, process_table
from launcher.config import LauncherConfig
from launcher.drivers import open_host
from launcher.errors import ConfigError, GpuError, PlanError
from launcher.mig import GpuEvent, Memory
from launcher.mps import MpsPartitioner
from launcher.partition import Affected
from launcher.runtime import Handle, ServerSpec
from launcher.simulator import Simulator
from launcher.state import ServerRecord, State, StateStore
from tests.launcher.helpers import Launcher, wait_until


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder on PATH with the stand-in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / mps.PROGRAM
    shutil.copy(Path(__file__).with_name("mps_stand_in.py"), program)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def store(tmp_path):
    made = StateStore(tmp_path)
    made.begin(State("mps:simulated:t4-16gb", "process", str(tmp_path / "slices.json")))
    return made


@pytest.fixture
def partitioner(programs, store, tmp_path):
    made = MpsPartitioner(open_host("simulated:t4-16gb", tmp_path), tmp_path)
    yield made
    made.uncut(store)


def divide(partitioner, **settings):
    return partitioner.divide(LauncherConfig(**settings), None, False, False)


def cut(partitioner, store, **settings):
    (stage,) = divide(partitioner, **settings).stages
    return partitioner.cut(stage.work, store)


@pytest.mark.parametrize(
    ("shares", "percentages", "weights"),
    [
        ("4", [25, 25, 25, 25], [1, 1, 1, 1]),
        ("3,2,1,1", [42.86, 28.57, 14.29, 14.29], [3, 2, 1, 1]),
        (7, [14.29] * 7, [1] * 7),
        ([2, 1], [66.67, 33.33], [2, 1]),
    ],
)
def test_shares_are_equal_or_weighted(partitioner, shares, percentages, weights):
    plan = divide(partitioner, shares=shares).plan
    assert [share.percentage for share in plan.shares] == percentages
    assert [share.server.weight for share in plan.shares] == weights
    assert [share.server.name for share in plan.shares] == [f"s{i}" for i in range(len(weights))]


def test_several_gpus_are_each_shared_out(programs, tmp_path):
    host = open_host("simulated:t4-16gb,l4-24gb", tmp_path)
    plan = divide(MpsPartitioner(host, tmp_path), shares="2").plan
    assert [(s.server.name, s.gpu.index) for s in plan.shares] == [
        ("s0", 0), ("s1", 0), ("s2", 1), ("s3", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("shares", ["", "0", "-1", "49", "1,x", "0.5", "1,0"])
def test_what_is_no_share_is_refused(shares):
    with pytest.raises(ValueError, match="equal shares"):
        LauncherConfig(shares=shares)


def test_each_server_is_told_its_gpu_its_daemon_and_its_share(partitioner, store):
    devices = cut(partitioner, store, shares="3,1")
    record = store.state.mps
    (uuid,) = record.gpus
    assert dict(devices["s0"].environment) == {
        "CUDA_VISIBLE_DEVICES": uuid,
        "CUDA_MPS_PIPE_DIRECTORY": record.pipe_dir,
        "CUDA_MPS_LOG_DIRECTORY": record.log_dir,
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "75",
    }
    assert devices["s0"].mig_uuid == ""
    assert Path(record.log_dir, "control.log").read_text() == f"Start {uuid}\n"


def test_memory_is_limited_where_asked(partitioner, monkeypatch):
    with pytest.raises(PlanError, match="does not tell how much memory"):
        divide(partitioner, shares="2", mps_memory_limit=True)
    monkeypatch.setattr(Simulator, "memory", lambda self, mig_uuid="": Memory(16000, 0))
    plan = divide(partitioner, shares="3,1", mps_memory_limit=True).plan
    assert [share.memory_mib for share in plan.shares] == [12000, 4000]
    record = mps.MpsRecord("/p", "/l", ("GPU-0",))
    variables = dict(mps.environment(plan.shares[0], record))
    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=12000M"


def test_the_daemon_is_started_once_found_again_and_stopped(partitioner, store, tmp_path):
    cut(partitioner, store, shares="2")
    first = mps.find(store.state.mps)
    assert first is not None
    cut(partitioner, store, shares="3")
    assert mps.find(store.state.mps) == first
    # Another launcher, after a crash of this one, knows it by the state file alone.
    later_store = StateStore(tmp_path)
    later_store.load()
    later = MpsPartitioner(open_host("simulated:t4-16gb", tmp_path), tmp_path)
    record = later_store.state.mps
    later.uncut(later_store)
    assert not process_table.is_running(first)
    assert later_store.state.mps is None
    assert not Path(record.pipe_dir).exists()
    later.uncut(later_store)


def test_one_that_does_not_quit_is_killed(partitioner, store, monkeypatch):
    monkeypatch.setenv("MPS_STAND_IN_STUBBORN", "1")
    monkeypatch.setattr(mps, "QUIT_S", 0.2)
    cut(partitioner, store, shares="2")
    process = mps.find(store.state.mps)
    partitioner.uncut(store)
    wait_until(lambda: not process_table.is_running(process), "death of the daemon")


def test_one_that_does_not_run_is_told_with_its_own_words(partitioner, store, monkeypatch):
    monkeypatch.setenv("MPS_STAND_IN_FAILS", "1")
    with pytest.raises(GpuError, match="An instance of this daemon is already running"):
        cut(partitioner, store, shares="2")


def test_without_the_program_it_is_told_where_it_comes_from(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    partitioner = MpsPartitioner(open_host("simulated:t4-16gb", tmp_path), tmp_path)
    with pytest.raises(GpuError, match="not on PATH: it comes with the NVIDIA driver"):
        cut(partitioner, store, shares="2")


def test_a_gpu_in_mig_mode_is_not_shared_out(programs, tmp_path):
    partitioner = MpsPartitioner(open_host("simulated:a30-24gb", tmp_path), tmp_path)
    with pytest.raises(PlanError, match=r"GPU 0 \(NVIDIA A30 .* is in MIG mode"):
        divide(partitioner)


def test_a_long_state_folder_has_its_pipes_elsewhere():
    """A socket's path has 107 bytes at most."""
    assert mps.pipe_folder(Path("/run/mig")) == Path("/run/mig/mps")
    far = mps.pipe_folder(Path("/" + "x" * 100))
    assert len(str(far)) < mps.SOCKET_PATH_MAX
    assert far == mps.pipe_folder(Path("/" + "x" * 100))


def test_how_it_is_named():
    assert partitioners.resolve("mps") == "mps:nvidia:all"
    assert partitioners.resolve("MPS:0,1") == "mps:nvidia:0,1"
    assert partitioners.resolve("mps:simulated:t4-16gb") == "mps:simulated:t4-16gb"
    with pytest.raises(ConfigError):
        partitioners.resolve("mps:first")


def test_a_daemon_that_has_died_is_missed(partitioner, store):
    cut(partitioner, store, shares="2")
    assert partitioner.missing(store.state) == ()
    process = mps.find(store.state.mps)
    process_table.send(process, signal.SIGKILL)
    wait_until(lambda: not process_table.is_running(process), "death of the daemon")
    member = SliceSpec("s0", Endpoint("h", 1), Endpoint("h", 2))
    store.change(servers=(ServerRecord(ServerSpec(member, "/m", ()), Handle("m_"), "/x"),))
    assert partitioner.missing(store.state) == ("s0",)
    cut(partitioner, store, shares="2")
    assert mps.find(store.state.mps) is not None


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_up_shares_a_gpu_out_and_down_stops_the_daemon(launcher: Launcher, programs):
    arguments = ["--gpu", "mps:simulated:t4-16gb", "--shares", "2,1"]
    done = launcher.call(*launcher.up_arguments("--detach", *arguments))
    assert done.returncode == 0, done.stderr
    slices = launcher.status()["slices"]
    assert [(s["profile"], s["weight"]) for s in slices] == [
        ("mps.66.67pct", 2),
        ("mps.33.33pct", 1),
    ]
    variables = Path(f"/proc/{slices[0]['pid']}/environ").read_bytes().split(b"\0")
    assert b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=66.67" in variables
    daemon = mps.find(StateStore(launcher.state_dir).load().mps)
    assert daemon is not None
    # The shares can be changed while it is up: servers restart, the daemon does not.
    applied = launcher.call("apply", "--shares", "1,1", "--no-drain")
    assert applied.returncode == 0, applied.stderr
    shared = launcher.status()["slices"]
    assert [s["profile"] for s in shared] == ["mps.50pct", "mps.50pct"]
    assert mps.find(StateStore(launcher.state_dir).load().mps) == daemon
    os.kill(launcher.status()["launcher_pid"], signal.SIGKILL)
    assert launcher.call("down").returncode == 0
    wait_until(lambda: not process_table.is_running(daemon), "end of the daemon")
    assert launcher.traces() == []


def test_an_error_of_the_gpu_is_one_of_all_its_shares(tmp_path):
    """One client's error ends the work of all: they share one context."""
    host = open_host("simulated:2xt4-16gb", tmp_path)
    here, there = host.gpus
    servers = tuple(
        ServerRecord(
            ServerSpec(
                SliceSpec(name, Endpoint("h", 1), None, None),
                "/m", (), (("CUDA_VISIBLE_DEVICES", uuid),),
            ),
            Handle("m_"), "/log",
        )
        for name, uuid in (("s0", here), ("s1", here), ("s2", there))
    )  # fmt: skip
    state = State("mps:simulated:2xt4-16gb", "process", "/slices.json", servers=servers)
    found = MpsPartitioner(host, tmp_path).affected(GpuEvent(here, 31), state)
    assert found == Affected(0, ("s0", "s1"), surely=True)
