"""The status tells what the driver says, and that it does not answer."""

import pytest

from launcher import drivers, usage
from launcher.drivers import Host
from launcher.errors import GpuError
from launcher.mig import Gpu, GpuProcess, Memory, MigCode, MigError


class Driver:
    def gpu(self):
        return Gpu("NVIDIA H200", "GPU-0", 7, 8, False)

    def mig_mode(self):
        return True, True

    def memory(self, mig_uuid=""):
        known = {"": Memory(143771, 900), "MIG-1": Memory(16384, 300)}
        return known.get(mig_uuid)

    def processes(self):
        return (GpuProcess(77, None, None, 1234), GpuProcess(78, None, None, None))


class Nvml:
    closed = 0

    def close(self):
        Nvml.closed += 1


def document(**member):
    known = {"simulated": False, "mig_uuid": "", "pid": None} | member
    return {"up": True, "gpu": "nvidia:all", "slices": [known]}


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    host = Host("nvidia:all", Nvml(), {"GPU-0": made})
    monkeypatch.setattr(drivers, "open_host", lambda name, folder: host)
    return made


def added(found, tmp_path):
    usage.add(found, tmp_path)
    return found["slices"][0]["memory_mib"]


def test_a_slices_memory_is_its_devices(driver, tmp_path):
    found = document(mig_uuid="MIG-1")
    assert added(found, tmp_path) == {"used": 300, "total": 16384}
    assert found["gpus"][0]["memory_mib"] == {"used": 900, "total": 143771}
    assert Nvml.closed


def test_a_share_uses_what_its_process_uses(driver, tmp_path):
    assert added(document(pid=77), tmp_path) == {"used": 1234, "total": None}
    assert added(document(pid=78), tmp_path) is None


def test_a_simulated_device_has_none(driver, tmp_path):
    assert added(document(mig_uuid="MIG-1", simulated=True), tmp_path) is None


def test_a_driver_that_does_not_answer_is_told(driver, tmp_path, monkeypatch):
    def lost(mig_uuid=""):
        raise MigError("ask the memory", MigCode.GPU_IS_LOST)

    driver.memory = lost
    found = document()
    usage.add(found, tmp_path)
    assert "GPU is lost" in found["gpu_error"]

    def none(name, folder):
        raise GpuError("no driver")

    monkeypatch.setattr(drivers, "open_host", none)
    usage.add(found, tmp_path)
    assert (found["gpus"], found["gpu_error"]) == ([], "no driver")


def test_nothing_up_asks_nobody(tmp_path):
    found = {"up": False, "gpu": None, "slices": []}
    usage.add(found, tmp_path)
    assert found["gpus"] == []
