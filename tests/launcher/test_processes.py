"""The bare-process runtime, with a small program in Triton's place."""

import os
import signal
import sys
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import process_table, processes
from launcher.errors import StartError
from launcher.process_table import ProcessId
from launcher.processes import ProcessRuntime
from launcher.runtime import Handle, ServerSpec
from launcher.triton_install import Installation
from tests.launcher.helpers import wait_until

# Ends with the test run even when that is killed: its alarm rings after a minute.
PROGRAM = """#!{python}
import os, signal, subprocess, sys
signal.alarm(60)
if "--exit" in sys.argv:
    sys.exit("error: told to")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--with-stub" in sys.argv:
    subprocess.Popen([sys.executable, "-c", "import signal; signal.alarm(60); signal.pause()"]
                     + [word for word in sys.argv if "shm-region" in word])
print("running on", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
signal.pause()
"""
MARKER = "mig-test-4d1f2c_"


@pytest.fixture
async def runtime(tmp_path):
    binary = tmp_path / "tritonserver"
    binary.write_text(PROGRAM.format(python=sys.executable))
    binary.chmod(0o755)
    made = ProcessRuntime(binary)
    await made.check(print)
    yield made
    for server in list(made._servers.values()):
        server.kill()
        server._child.wait()
    made.sweep([MARKER])


def spec(*arguments):
    member = SliceSpec(
        name="s0",
        http=Endpoint("127.0.0.1", 8000),
        grpc=Endpoint("127.0.0.1", 8001),
        metrics=Endpoint("127.0.0.1", 8002),
        mig_uuid="MIG-4711",
    )
    return ServerSpec(member, "/models", arguments)


def is_running(log):
    return lambda: log.exists() and b"running" in log.read_bytes()


def test_the_command_line_has_ports_addresses_and_the_marker():
    found = Installation(Path("/t/tritonserver"), ("--backend-directory=/b",))
    assert processes.command(found, spec("--log-verbose=1"), MARKER) == [
        "/t/tritonserver",
        "--model-repository=/models",
        "--backend-directory=/b",
        f"--backend-config=python,shm-region-prefix-name={MARKER}",
        "--http-address=127.0.0.1",
        "--http-port=8000",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--allow-gpu-metrics=false",
        "--metrics-address=127.0.0.1",
        "--metrics-port=8002",
        "--log-verbose=1",
    ]


def test_a_server_is_bound_to_its_device_and_to_no_other_python(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = processes.environment(Installation(Path("/t"), environment={"A": "b"}), spec())
    assert made["CUDA_VISIBLE_DEVICES"] == "MIG-4711"
    assert made["A"] == "b"
    assert "PYTHONHOME" not in made


async def test_a_server_leads_its_session_and_logs_into_its_file(runtime, tmp_path):
    log = tmp_path / "logs" / "s0.log"
    server = runtime.start(spec(), MARKER, log)
    wait_until(is_running(log), "start")
    assert log.read_text() == "running on MIG-4711\n"
    pid = server.handle.process.pid
    assert os.getsid(pid) == pid
    assert not server.has_ended()
    server.terminate()
    assert await server.wait_ended() == "SIGTERM"
    assert server.has_ended()
    assert runtime.find(server.handle) is None
    runtime.sweep([MARKER])
    assert runtime.start(spec(), MARKER, log).handle.process.pid != pid
    assert log.with_name("s0.log.1").read_text() == "running on MIG-4711\n"


async def test_how_a_server_ended_is_told(runtime, tmp_path):
    server = runtime.start(spec("--exit"), MARKER, tmp_path / "log")
    assert await server.wait_ended() == "exit code 1"
    server.terminate()
    server.kill()


async def test_a_stubborn_server_can_be_killed(runtime, tmp_path):
    server = runtime.start(spec("--stubborn"), MARKER, tmp_path / "log")
    wait_until(is_running(tmp_path / "log"), "start")
    server.terminate()
    assert not server.has_ended()
    server.kill()
    assert await server.wait_ended() == "SIGKILL"


async def test_another_launcher_finds_the_server_and_watches_its_end(runtime, tmp_path):
    started = runtime.start(spec(), MARKER, tmp_path / "log")
    wait_until(is_running(tmp_path / "log"), "start")
    later = ProcessRuntime()
    found = later.find(started.handle)
    assert found.handle == started.handle
    found.terminate()
    assert "not started by this launcher" in await found.wait_ended()
    assert later.find(started.handle) is None


def test_a_server_whose_pid_was_never_written_down_is_found_by_its_marker(runtime, tmp_path):
    started = runtime.start(spec("--with-stub"), MARKER, tmp_path / "log")
    wait_until(is_running(tmp_path / "log"), "start")
    assert ProcessRuntime().find(Handle(MARKER)).handle == started.handle
    assert ProcessRuntime().find(Handle(MARKER + "other")) is None


def test_pid_start_time_and_marker_must_all_fit(runtime, tmp_path):
    process = runtime.start(spec(), MARKER, tmp_path / "log").handle.process
    wait_until(is_running(tmp_path / "log"), "start")
    later = ProcessRuntime()
    assert later.find(Handle("mig-other_", process)) is None
    assert later.find(Handle(MARKER, ProcessId(process.pid, process.started + "1"))) is None
    assert later.find(Handle(MARKER, process)) is not None


def carriers():
    return process_table.pids_with_argument([MARKER])[MARKER]


async def test_what_a_server_started_ends_with_it(runtime, tmp_path):
    server = runtime.start(spec("--with-stub"), MARKER, tmp_path / "log")
    wait_until(is_running(tmp_path / "log"), "start")
    wait_until(lambda: len(carriers()) == 2, "stub")
    process_table.send(server.handle.process, signal.SIGKILL)  # alone, not its group
    await server.wait_ended()
    wait_until(lambda: carriers() == [], "end of stub")


async def test_what_a_server_of_an_earlier_launcher_leaves_is_swept(runtime, tmp_path):
    started = runtime.start(spec("--with-stub"), MARKER, tmp_path / "log")
    wait_until(is_running(tmp_path / "log"), "start")
    later = ProcessRuntime()
    server = later.find(started.handle)
    wait_until(lambda: len(carriers()) == 2, "stub")
    region = processes.SHARED_MEMORY / f"{MARKER}region"
    others = processes.SHARED_MEMORY / f"x{MARKER}region"
    try:
        region.write_text("")
        others.write_text("")
        process_table.send(started.handle.process, signal.SIGKILL)
        await server.wait_ended()
        assert len(carriers()) == 1
        later.sweep([MARKER])
        wait_until(lambda: carriers() == [], "end of stub")
        assert not region.exists()
        assert others.exists()
    finally:
        others.unlink(missing_ok=True)


async def test_a_program_that_cannot_be_run_is_told(tmp_path):
    broken = tmp_path / "tritonserver"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    runtime = ProcessRuntime(broken)
    await runtime.check(print)
    with pytest.raises(StartError, match="cannot be run: No such file"):
        runtime.start(spec(), MARKER, tmp_path / "log")
