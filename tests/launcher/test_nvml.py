"""
RealNvml against a stand-in for NVIDIA's library that crashes or refuses where that would.

What both implementations of MigDriver must have in common runs on both.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pynvml
import pytest

from launcher.cures import CURES, sentence
from launcher.drivers import open_host
from launcher.errors import GpuError
from launcher.mig import GpuEvent, GpuProcess, Memory, MigCode, MigError, Placement, words
from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from tests.launcher.helpers import MIG_LAUNCHER, REPOSITORY


@pytest.fixture(params=["simulated", "real"])
def driver(request, tmp_path):
    """An A100-40GB with MIG mode off."""
    if request.param == "simulated":
        return Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"], holders=lambda _: ())
    (gpu,) = request.getfixturevalue("nvml")(1).gpus()
    return gpu


def refused(call, *arguments):
    with pytest.raises(MigError) as caught:
        call(*arguments)
    return caught.value.code


# --- what is true of every driver ---------------------------------------------------------------


def test_the_gpu_tells_its_grid(driver):
    gpu = driver.gpu()
    assert (gpu.compute_slices, gpu.memory_slices, gpu.has_mig, gpu.index) == (7, 8, True, 0)
    assert gpu.uuid.startswith("GPU-")


def test_profiles_are_those_of_the_board(driver):
    board = BOARDS["a100-40gb"]
    assert driver.profiles() == tuple(entry.profile for entry in board.profiles)
    for entry in board.profiles:
        assert driver.possible_placements(entry.profile.id) == entry.placements
        assert driver.remaining_capacity(entry.profile.id) == entry.profile.instances_max


def test_the_whole_life_of_a_slice(driver):
    assert driver.mig_mode() == (False, False)
    assert driver.gpu_instances() == ()
    driver.set_mig_mode(True)
    assert driver.mig_mode() == (True, True)
    instance = driver.create_gpu_instance(9, Placement(4, 4))
    assert (instance.profile_id, instance.placement) == (9, Placement(4, 4))
    assert driver.gpu_instances() == (instance,)
    assert driver.mig_devices() == ()  # a GPU instance alone is no device
    compute = driver.create_compute_instance(instance.id, 2)
    assert driver.compute_instances(instance.id) == (compute,)
    (device,) = driver.mig_devices()
    assert device.uuid.startswith("MIG-")
    assert (device.gpu_instance_id, device.compute_instance_id) == (instance.id, compute.id)
    assert (device.memory_mib, device.multiprocessors) == (19968, 42)
    assert refused(driver.destroy_gpu_instance, instance.id) is MigCode.IN_USE
    driver.destroy_compute_instance(instance.id, compute.id)
    driver.destroy_gpu_instance(instance.id)
    assert driver.gpu_instances() == ()
    driver.set_mig_mode(False)
    assert driver.mig_mode() == (False, False)


def test_without_a_placement_the_driver_picks_one(driver):
    driver.set_mig_mode(True)
    assert driver.create_gpu_instance(19).placement == Placement(6, 1)


def test_seven_slices_are_seven_devices_by_instance(driver):
    driver.set_mig_mode(True)
    for start in (3, 0, 6, 1, 5, 2, 4):
        instance = driver.create_gpu_instance(19, Placement(start, 1))
        driver.create_compute_instance(instance.id, 0)
    assert [gi.placement.start for gi in driver.gpu_instances()] == list(range(7))
    devices = driver.mig_devices()
    assert [device.gpu_instance_id for device in devices] == [
        gi.id for gi in driver.gpu_instances()
    ]
    driver.destroy_compute_instance(devices[2].gpu_instance_id, 0)
    assert driver.mig_devices() == (*devices[:2], *devices[3:])  # the others' UUIDs stay
    assert driver.remaining_capacity(19) == 0


def test_a_double_memory_instance_has_one_compute_profile_of_its_own(driver):
    driver.set_mig_mode(True)
    instance = driver.create_gpu_instance(15, Placement(2, 2))
    assert [profile.id for profile in driver.compute_profiles(instance.id)] == [7]
    assert refused(driver.create_compute_instance, instance.id, 0) is MigCode.NOT_SUPPORTED
    assert driver.create_compute_instance(instance.id, 7).profile_id == 7


def test_what_cannot_be_is_refused_by_its_code(driver):
    assert refused(driver.create_gpu_instance, 19) is MigCode.NOT_SUPPORTED  # the mode is off
    driver.set_mig_mode(True)
    assert refused(driver.create_gpu_instance, 77) is MigCode.INVALID_ARGUMENT
    at = Placement(6, 2)
    assert refused(driver.create_gpu_instance, 14, at) is MigCode.INVALID_ARGUMENT
    four = driver.create_gpu_instance(5, Placement(0, 4))
    over = Placement(0, 4)
    assert refused(driver.create_gpu_instance, 9, over) is MigCode.INSUFFICIENT_RESOURCES
    assert refused(driver.create_gpu_instance, 5) is MigCode.INSUFFICIENT_RESOURCES
    assert refused(driver.destroy_gpu_instance, 99) is MigCode.NOT_FOUND
    assert refused(driver.destroy_compute_instance, four.id, 0) is MigCode.NOT_FOUND
    assert refused(driver.set_mig_mode, False) is MigCode.IN_USE


# --- RealNvml's own -----------------------------------------------------------------------------


def calls(tmp_path):
    lines = (tmp_path / "calls").read_text().split()
    noise = ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID")
    return [line for line in lines if line not in noise]


def test_a_slice_is_made_by_the_documented_calls_and_no_others(nvml, tmp_path):
    (gpu,) = nvml(1).gpus()
    (tmp_path / "calls").unlink()
    gpu.set_mig_mode(True)
    instance = gpu.create_gpu_instance(19, Placement(0, 1))
    gpu.create_compute_instance(instance.id, 0)
    assert calls(tmp_path) == [
        "nvmlDeviceSetMigMode",
        "nvmlShutdown",
        "nvmlInitWithFlags",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceCreateGpuInstanceWithPlacement",
        "nvmlGpuInstanceGetInfo",
        "nvmlDeviceGetGpuInstanceById",
        "nvmlGpuInstanceCreateComputeInstance",
        "nvmlComputeInstanceGetInfo_v2",
    ]


def test_a_count_that_is_too_large_is_given_its_room(nvml, monkeypatch):
    """An A30 has told of more instances than it holds; the library may write as many handles."""
    monkeypatch.setenv("NVML_STAND_IN_COUNT", "9")
    (gpu,) = nvml(1).gpus()
    gpu.set_mig_mode(True)
    made = gpu.create_gpu_instance(9, Placement(4, 4))
    assert gpu.gpu_instances() == (made,)
    assert [profile.instances_max for profile in gpu.profiles()] == [7, 3, 2, 1, 1, 7, 4]


@pytest.mark.parametrize(
    "function", ["nvmlGpuInstanceGetInfo", "nvmlComputeInstanceGetInfo_v2"], ids=["GPU", "compute"]
)
def test_an_instance_that_cannot_be_told_of_is_not_left(nvml, monkeypatch, function):
    (gpu,) = nvml(1).gpus()
    gpu.set_mig_mode(True)
    instance = gpu.create_gpu_instance(19, Placement(0, 1))
    with monkeypatch.context() as refusing:
        refusing.setenv("NVML_STAND_IN_REFUSE", f"{function}:999")
        if function == "nvmlGpuInstanceGetInfo":
            assert refused(gpu.create_gpu_instance, 19, Placement(1, 1)) is MigCode.UNKNOWN
        else:
            assert refused(gpu.create_compute_instance, instance.id, 0) is MigCode.UNKNOWN
    assert gpu.gpu_instances() == (instance,)
    assert gpu.mig_devices() == ()


def test_a_mode_that_is_as_wanted_is_so_whatever_the_status_says(nvml, monkeypatch):
    """Taking back a pending mode succeeds while clients have the GPU, and says that it did not."""
    (gpu,) = nvml(1).gpus()
    monkeypatch.setattr(pynvml, "nvmlDeviceSetMigMode", lambda device, mode: 19)
    gpu.set_mig_mode(False)
    assert refused(gpu.set_mig_mode, True) is MigCode.IN_USE


def test_a_gpu_that_is_lost_is_not_one_without_mig(nvml, monkeypatch):
    host = nvml(2)
    first, _ = host.gpus()
    real = pynvml.nvmlDeviceGetMigMode

    def lost(device):
        if pynvml.nvmlDeviceGetUUID(device).startswith("GPU-00000000"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return real(device)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lost)
    assert refused(first.gpu) is MigCode.GPU_IS_LOST
    (second,) = host.gpus()
    assert second.index == 1
    assert [error.code for error in host.unusable.values()] == [MigCode.GPU_IS_LOST]


# --- what GPUs tell on their own ----------------------------------------------------------------


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Adds an event: GPU, XID, GPU instance, compute instance."""
    path = tmp_path / "events"
    path.write_text("0 31 7 0\n")  # before anybody listens
    monkeypatch.setenv("NVML_STAND_IN_EVENTS", str(path))

    def tell(*numbers):
        with path.open("a") as file:
            print(*numbers, file=file)

    return tell


NOWHERE = 0xFFFFFFFF


def test_errors_are_heard_with_their_place(nvml, events):
    host = nvml(2)
    first, second = [gpu.gpu().uuid for gpu in host.gpus()]
    assert host.wait_event([first], 0.0) is None  # nothing of before
    events(1, 31, 7, 0)  # of a GPU that nobody listens to
    assert host.wait_event([first], 0.0) is None
    with host.undisturbed():
        pass
    assert host.wait_event([first, second], 0.0) is None
    events(1, 31, 7, 0)
    events(0, 79, NOWHERE, NOWHERE)
    assert host.wait_event([first, second], 0.0) == GpuEvent(second, 31, 7, 0)
    assert host.wait_event([first, second], 0.0) == GpuEvent(first, 79, None, None)


def test_events_are_registered_as_documented_and_let_go_of_before_a_change_of_mode(
    nvml, events, tmp_path
):
    """The stand-in aborts when the library is shut down under an event set."""
    host = nvml(1)
    (gpu,) = host.gpus()
    uuid = gpu.gpu().uuid
    (tmp_path / "calls").unlink()
    assert host.wait_event([uuid], 0.0) is None
    gpu.set_mig_mode(True)
    assert host.wait_event([uuid], 0.0) is None
    listening = [
        "nvmlEventSetCreate",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetWait_v2",
    ]
    assert calls(tmp_path) == [
        *listening,
        "nvmlEventSetFree",
        "nvmlDeviceSetMigMode",
        "nvmlShutdown",
        "nvmlInitWithFlags",
        "nvmlDeviceGetMigMode",
        *listening,
    ]


@pytest.mark.parametrize(
    "function",
    ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"],
)
@pytest.mark.parametrize("code", [MigCode.NOT_SUPPORTED, MigCode.FUNCTION_NOT_FOUND])
def test_a_driver_without_events_says_so(nvml, monkeypatch, function, code):
    host = nvml(1)
    uuid = host.gpus()[0].gpu().uuid
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", f"{function}:{int(code)}")
    caught = refused(host.wait_event, [uuid], 0.0)
    assert caught in (code, MigCode.NOT_SUPPORTED)
    monkeypatch.delenv("NVML_STAND_IN_REFUSE")
    assert host.wait_event([uuid], 0.0) is None


def test_one_who_has_looked_at_a_device_is_not_in_his_own_way(nvml, tmp_path, monkeypatch):
    """A library that has looked at a MIG device may count as its client, until it is shut down."""
    monkeypatch.setenv("NVML_STAND_IN_CLIENTS", "1")
    (gpu,) = nvml(1).gpus()
    gpu.set_mig_mode(True)
    instance = gpu.create_gpu_instance(9, Placement(0, 4))
    compute = gpu.create_compute_instance(instance.id, 2)
    assert len(gpu.mig_devices()) == 1
    (tmp_path / "calls").unlink()
    gpu.destroy_compute_instance(instance.id, compute.id)
    gpu.destroy_gpu_instance(instance.id)
    made = calls(tmp_path)
    assert made.count("nvmlShutdown") == made.count("nvmlInitWithFlags") == 1
    assert gpu.gpu_instances() == ()


def test_one_who_waits_is_waited_for_before_the_library_closes(nvml, events):
    host = nvml(1)
    (gpu,) = host.gpus()
    uuid = gpu.gpu().uuid
    with ThreadPoolExecutor() as threads:
        heard = threads.submit(host.wait_event, [uuid], 0.3)
        while not heard.running():
            time.sleep(0.001)
        gpu.set_mig_mode(True)
        events(0, 45, NOWHERE, NOWHERE)
        assert heard.result() in (None, GpuEvent(uuid, 45))
    assert gpu.mig_mode() == (True, True)


def test_a_host_that_cannot_be_used_is_closed_again(nvml, tmp_path, monkeypatch):
    nvml(1)
    (tmp_path / "calls").unlink()
    with pytest.raises(GpuError, match="there is no GPU 7 here"):
        open_host("nvidia:7", tmp_path)
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", "nvmlDeviceGetCount_v2:15")
    with pytest.raises(GpuError, match="cannot count GPUs: GPU is lost; the GPU fell off the bus"):
        open_host("nvidia:all", tmp_path)
    made = (tmp_path / "calls").read_text().split()
    assert made.count("nvmlInitWithFlags") == made.count("nvmlShutdown") == 2


def test_gpus_are_told_apart(nvml):
    first, second = nvml(2).gpus()
    assert first.gpu().uuid != second.gpu().uuid
    second.set_mig_mode(True)
    assert (first.mig_mode()[0], second.mig_mode()[0]) == (False, True)
    assert second.gpu().index == 1


def test_what_a_driver_does_not_tell_is_left_out(nvml):
    """The stand-in has no processes, PCI ids nor fields: as old drivers, or in a container."""
    (gpu,) = nvml(1).gpus()
    assert gpu.processes() == ()
    assert gpu.gpu().pci_id == 0
    assert gpu.memory() == Memory(40536, 512)
    assert gpu.memory("MIG-none") is None


def test_an_older_driver_knows_older_structures_and_no_names(nvml, monkeypatch):
    """Before R515 there is version 1 alone; the names follow from the memory."""
    (gpu,) = nvml(1).gpus()
    gpu.set_mig_mode(True)
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", "nvmlDeviceGetGpuInstanceProfileInfoV:13")
    assert gpu.profiles() == tuple(entry.profile for entry in BOARDS["a100-40gb"].profiles)
    instance = gpu.create_gpu_instance(9, Placement(0, 4))
    function = "nvmlGpuInstanceGetComputeInstanceProfileInfoV"
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", f"{function}:13")
    assert [profile.id for profile in gpu.compute_profiles(instance.id)] == [0, 1, 2]


def test_who_is_in_the_way_is_named(nvml, monkeypatch):
    (gpu,) = nvml(1).gpus()
    gpu.set_mig_mode(True)
    here = GpuProcess(os.getpid(), None, None)
    monkeypatch.setattr(type(gpu), "processes", lambda self: (here, GpuProcess(1 << 30, 7, 0)))
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", "nvmlDeviceCreateGpuInstanceWithPlacement:19")
    with pytest.raises(
        MigError, match=rf"process {os.getpid()} \S*python\S*, process 1073741824 of"
    ):
        gpu.create_gpu_instance(19, Placement(0, 1))


@pytest.mark.parametrize("code", [3, 4, 15, 16, 18, 42, 999])
def test_every_code_of_the_library_is_an_error_with_its_cure(nvml, monkeypatch, code):
    (gpu,) = nvml(1).gpus()
    monkeypatch.setenv("NVML_STAND_IN_REFUSE", f"nvmlDeviceSetMigMode:{code}")
    with pytest.raises(MigError) as caught:
        gpu.set_mig_mode(True)
    assert caught.value.code == (code if code != 42 else MigCode.UNKNOWN)
    assert CURES[caught.value.code] in sentence(caught.value)


def test_every_code_has_words_and_a_cure():
    assert set(CURES) == set(MigCode)
    assert all(words(code)[0].isupper() or words(code).startswith("v") for code in MigCode)


def test_no_driver_is_told_with_what_to_do():
    program = "from launcher.drivers import open_host; open_host('nvidia:all', None)"
    environment = {**os.environ, "LD_LIBRARY_PATH": ""}
    code = f"""
import ctypes
real = ctypes.CDLL
def missing(name, *rest, **more):
    if name == "libnvidia-ml.so.1":
        raise OSError(name)
    return real(name, *rest, **more)
import pynvml
pynvml.CDLL = missing
try:
    {program.replace("; ", chr(10) + "    ")}
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True,
        cwd=REPOSITORY, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("GpuError")
    assert "libnvidia-ml.so.1 is not installed here" in done.stdout


# --- the command line, in processes of its own ---------------------------------------------------


@pytest.fixture
def command(stand_in, tmp_path, monkeypatch, port_base):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stand_in))
    monkeypatch.setenv("NVML_STAND_IN_STATE", str(tmp_path / "gpus"))

    def run(*arguments):
        ports = ["--port-base", str(port_base)] if arguments[0] == "up" else []
        line = [*MIG_LAUNCHER, *arguments, *ports, "--state-dir", str(tmp_path / "run")]
        return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY, check=False)

    return run


def test_profiles_of_the_gpus_that_are_there(command, monkeypatch):
    assert "GPU 0: NVIDIA A100-SXM4-40GB, MIG mode off" in command("profiles").stdout
    monkeypatch.setenv("NVML_STAND_IN_GPUS", "2")
    assert "there is no GPU 7 here; there are 0 (GPU-" in command("profiles", "--gpu", "7").stderr


def test_mig_mode_is_switched_on_only_when_asked(command):
    done = command("up", "--layout", "3g")
    assert done.returncode == 2
    assert "MIG mode is off on GPU 0 (NVIDIA A100-SXM4-40GB); --enable-mig" in done.stderr


def test_no_right_to_cut_is_told_and_leaves_nothing(command, monkeypatch, tmp_path):
    monkeypatch.setenv("NVML_STAND_IN_USER", "nobody")
    done = command("up", "--layout", "3g", "--enable-mig")
    assert done.returncode == 2
    assert "Insufficient Permissions; MIG mode needs root" in done.stderr
    assert not (tmp_path / "run" / "launcher.json").exists()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_up_cuts_through_nvml_and_down_restores(launcher, stand_in, tmp_path, monkeypatch):
    """The whole life cycle over the library, in processes that share its state."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stand_in))
    monkeypatch.setenv("NVML_STAND_IN_STATE", str(tmp_path / "gpus"))
    arguments = launcher.up_arguments("--detach", "--enable-mig", "--layout", "3g,1g.10gb,1g")
    done = launcher.call(*[word if word != "simulated:a100-40gb" else "0" for word in arguments])
    assert done.returncode == 0, done.stderr
    slices = launcher.status()["slices"]
    assert [member["profile"] for member in slices] == ["3g.20gb", "1g.10gb", "1g.5gb"]
    assert len({member["mig_uuid"] for member in slices}) == 3
    assert not any(member["simulated"] for member in slices)
    told = launcher.call("status")
    assert "GPU 0: NVIDIA A100-SXM4-40GB, MIG mode on, 512 of 40536 MiB used" in told.stdout
    shown = launcher.call("plan", "--gpu", "0", "--layout", "3g,1g.10gb,1g")
    assert "keep 3 GPU instances" in shown.stdout
    assert launcher.call("down").returncode == 0
    assert "MIG mode off" in launcher.call("profiles", "--gpu", "0").stdout
    assert launcher.traces() == []
