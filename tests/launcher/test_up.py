"""`up` with real Tritons on a simulated GPU."""

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from contract import inventory
from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from tests.launcher.helpers import Launcher, wait_until, write_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]


def infer(endpoint: str, numbers: list[int]) -> list[int]:
    body = {
        "inputs": [{"name": "INPUT", "shape": [len(numbers)], "datatype": "INT32", "data": numbers}]
    }
    request = urllib.request.Request(
        f"http://{endpoint}/v2/models/echo/infer", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["outputs"][0]["data"]


def interrupt(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> str:
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    return out


def is_up(launcher: Launcher) -> bool:
    return (launcher.state_dir / "slices.json").exists()


def test_in_the_foreground_it_serves_until_ctrl_c_and_leaves_nothing(launcher):
    process = launcher.popen(*launcher.up_arguments())
    wait_until(lambda: is_up(launcher) or process.poll() is not None, "inventory")
    slices = inventory.load(launcher.state_dir / "slices.json")
    assert [(s.name, s.profile, s.weight, s.simulated) for s in slices] == [
        ("s0", "2g.10gb", 2.0, True),
        ("s1", "1g.5gb", 1.0, True),
    ]
    base = launcher.port_base
    assert [s.http.port for s in slices] == [base, base + 10]
    assert [s.grpc.port for s in slices] == [base + 1, base + 11]
    assert [s.metrics.port for s in slices] == [base + 2, base + 12]
    for member in slices:
        assert infer(str(member.http), [1, 2, 3]) == [1, 2, 3]
        pid = launcher.status()["slices"][slices.index(member)]["pid"]
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert f"CUDA_VISIBLE_DEVICES={member.mig_uuid}".encode() in variables
    out = interrupt(process)
    assert process.returncode == 0
    assert "s0 ready after" in out
    assert "simulated" in out
    assert launcher.traces() == []


def test_a_server_that_is_killed_is_started_again(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    victim, other = launcher.pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: (
            launcher.status()["slices"][0] | {"pid": 0}
            == launcher.status()["slices"][0] | {"pid": 0, "state": "ready", "restarts": 1}
        ),
        "restart",
    )
    assert launcher.pids()[0] not in (victim, None)
    assert launcher.pids()[1] == other
    assert len(inventory.load(launcher.state_dir / "slices.json")) == 2
    assert infer(f"127.0.0.1:{launcher.port_base}", [7]) == [7]
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []


def test_the_next_up_adopts_what_a_killed_launcher_left(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    before = launcher.status()
    os.kill(before["launcher_pid"], signal.SIGKILL)
    os.kill(before["slices"][1]["pid"], signal.SIGKILL)
    wait_until(lambda: launcher.pids()[1] is None, "death of a server")
    wait_until(lambda: launcher.status()["launcher_pid"] is None, "death of the launcher")
    orphaned = launcher.status()
    assert [s["state"] for s in orphaned["slices"]] == ["unsupervised", "dead"]
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    after = launcher.status()
    assert [s["state"] for s in after["slices"]] == ["ready", "ready"]
    assert after["slices"][0]["pid"] == before["slices"][0]["pid"]
    assert [s["mig_uuid"] for s in after["slices"]] == [s["mig_uuid"] for s in before["slices"]]
    # An adopted server is nobody's child, and is watched all the same.
    os.kill(after["slices"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: launcher.status()["slices"][0]["restarts"] == 1, "restart")
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []


def test_another_layout_after_a_crash_recuts_and_keeps_what_fits(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    before = launcher.status()
    os.kill(before["launcher_pid"], signal.SIGKILL)
    up = launcher.up_arguments("--detach", "--layout", "2g,2g,1g")
    done = launcher.call(*up)
    assert done.returncode == 0, done.stderr
    after = launcher.status()
    assert [s["profile"] for s in after["slices"]] == ["2g.10gb", "1g.5gb", "2g.10gb"]
    assert [s["pid"] for s in after["slices"][:2]] == [s["pid"] for s in before["slices"]]
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []


def test_a_second_up_is_refused_and_harms_nothing(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    before = launcher.status()
    second = launcher.call(*launcher.up_arguments())
    assert second.returncode == 2
    assert f"another mig-launcher (pid {before['launcher_pid']}) is at work" in second.stderr
    assert launcher.status() == before


def test_a_taken_port_is_told_before_anything_is_made(launcher):
    with socket.create_server(("127.0.0.1", launcher.port_base + 11)):
        done = launcher.call(*launcher.up_arguments())
    assert done.returncode == 2
    assert f"port {launcher.port_base + 11} (gRPC of s1) is taken by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr
    assert launcher.traces() == []


def test_a_model_that_does_not_load_is_named_with_tritons_reason(launcher, tmp_path):
    models = write_model(tmp_path / "bad", "broken", "raise ValueError('no weights here')")
    done = launcher.call(*launcher.up_arguments(models=models))
    assert done.returncode == 2
    assert "model 'broken' does not load: ValueError: no weights here" in done.stderr
    assert "Traceback" not in done.stderr
    assert launcher.traces() == []


def test_a_server_that_would_hang_for_ever_is_given_up(launcher, tmp_path):
    """Triton waits without end for a Python model whose file is missing."""
    models = write_model(tmp_path / "bad", "empty")
    (models / "empty" / "1" / "model.py").unlink()
    done = launcher.call(*launcher.up_arguments("--detach", models=models))
    assert done.returncode == 2
    assert "Python model file not found" in done.stderr
    assert launcher.traces() == []


def test_ctrl_c_while_starting_undoes_everything(launcher):
    process = launcher.popen(*launcher.up_arguments())
    wait_until((launcher.state_dir / "launcher.json").exists, "start")
    interrupt(process, signal.SIGTERM)
    assert process.returncode == 130
    assert launcher.traces() == []


def test_instances_of_others_stay_and_their_place_is_respected(launcher):
    gpu = Simulator(launcher.state_dir / "simulated-a100-40gb.json", BOARDS["a100-40gb"])
    gpu.set_mig_mode(True)
    foreign = gpu.create_gpu_instance(9)  # a 3g, at 4:4
    refused = launcher.call(*launcher.up_arguments("--layout", "all-1g"))
    assert refused.returncode == 2
    assert "3g.20gb at 4:4" in refused.stderr
    done = launcher.call(*launcher.up_arguments("--detach"))
    assert done.returncode == 0, done.stderr
    assert foreign in gpu.gpu_instances()
    assert len(gpu.gpu_instances()) == 3
    assert launcher.call("down").returncode == 0
    assert gpu.gpu_instances() == (foreign,)
    assert gpu.mig_mode() == (True, True)


def test_an_inventory_that_cannot_be_written_undoes_everything(launcher, tmp_path):
    (tmp_path / "file").write_text("")
    inventory_file = str(tmp_path / "file" / "slices.json")
    done = launcher.call(*launcher.up_arguments("--inventory", inventory_file))
    assert done.returncode == 2
    assert inventory_file.removesuffix("/slices.json") in done.stderr
    assert "Traceback" not in done.stderr
    assert launcher.traces() == []


def test_arguments_after_dashes_reach_triton(launcher):
    arguments = launcher.up_arguments("--detach", "--", "--model-control-mode=explicit")
    assert launcher.call(*arguments).returncode == 0
    with pytest.raises(urllib.error.HTTPError):
        infer(f"127.0.0.1:{launcher.port_base}", [1])  # no model is loaded unasked


def test_a_closed_terminal_does_not_keep_it_from_cleaning_up(launcher):
    process = launcher.popen(*launcher.up_arguments())
    wait_until(lambda: is_up(launcher) or process.poll() is not None, "inventory")
    process.stdout.close()
    process.stderr.close()
    os.kill(launcher.pids()[0], signal.SIGKILL)
    wait_until(lambda: launcher.status()["slices"][0]["restarts"] == 1, "restart")
    process.send_signal(signal.SIGHUP)
    process.wait(30)
    assert launcher.traces() == []


def test_slices_that_vanish_are_made_again(launcher):
    """The GPU was reset, or somebody used nvidia-smi."""
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    gpu = Simulator(launcher.state_dir / "simulated-a100-40gb.json", BOARDS["a100-40gb"])
    before = gpu.gpu_instances()
    gpu.reset()
    gpu.set_mig_mode(True)
    wait_until(lambda: gpu.gpu_instances() == before, "the instances are made again")
    wait_until(lambda: len(gpu.mig_devices()) == 2, "so are the devices")
    assert "slices.vanished" in (launcher.state_dir / "launcher.log").read_text()
    wait_until(
        lambda: [s["state"] for s in launcher.status()["slices"]] == ["ready", "ready"], "servers"
    )
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []


def test_an_error_of_the_gpu_has_the_server_of_just_that_slice_started_again(launcher):
    assert launcher.call(*launcher.up_arguments("--detach")).returncode == 0
    gpu = Simulator(launcher.state_dir / "simulated-a100-40gb.json", BOARDS["a100-40gb"])
    victim, other = launcher.pids()
    uuid = launcher.status()["slices"][0]["mig_uuid"]
    (place,) = [device for device in gpu.mig_devices() if device.uuid == uuid]
    gpu.tell(31, place.gpu_instance_id, place.compute_instance_id)
    wait_until(lambda: launcher.status()["slices"][0]["restarts"] == 1, "restart")
    wait_until(lambda: launcher.status()["slices"][0]["state"] == "ready", "server")
    assert launcher.pids()[0] not in (victim, None)
    assert launcher.pids()[1] == other
    assert "XID 31 (memory page fault" in (launcher.state_dir / "launcher.log").read_text()
    gpu.tell(48)
    wait_until(lambda: launcher.status()["slices"][1]["warning"], "warning")
    told = launcher.call("status").stdout
    assert "s0, s1: XID 48 (double bit memory error): the GPU must be reset" in told
    assert launcher.call("down").returncode == 0
    assert launcher.traces() == []
