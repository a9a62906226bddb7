"""Hosts on paper tell events, and have GPUs that fail."""

import pytest

from launcher import drivers
from launcher.errors import GpuError
from launcher.mig import GpuEvent, MigCode, MigError
from launcher.simulator import events_path


@pytest.fixture
def host(tmp_path):
    return drivers.open_host("simulated:2xa30-24gb", tmp_path)


def test_errors_are_heard_from_the_first_wait_on(host):
    first, second = host.gpus.values()
    uuids = list(host.gpus)
    nvml = host.nvml
    second.tell(31, 7, 0)
    second.tell(79)
    assert nvml.wait_event(uuids, 0.0) == GpuEvent(uuids[1], 31, 7, 0)
    assert nvml.wait_event(uuids[:1], 0.0) is None  # of a GPU that nobody listens to
    first.tell(48)
    assert nvml.wait_event(uuids, 1.0) == GpuEvent(uuids[0], 48)


def test_what_was_told_before_is_not_heard(host, tmp_path):
    next(iter(host.gpus.values())).tell(31)
    later = drivers.open_host(host.name, tmp_path)
    assert later.nvml.wait_event(list(later.gpus), 0.0) is None


def test_a_cut_is_heard(host):
    first, _ = host.gpus.values()
    assert host.nvml.wait_event(list(host.gpus), 0.0) is None
    first.create_gpu_instance(14)
    assert host.nvml.wait_event(list(host.gpus), 0.0) == GpuEvent(first.gpu().uuid)
    assert host.nvml.wait_event(list(host.gpus), 0.0) is None


def test_a_line_that_nobody_understands_is_passed_over(host):
    first, _ = host.gpus.values()
    events_path(first.path).write_text("XID 31\n")
    assert host.nvml.wait_event(list(host.gpus), 0.0) is None
    first.tell(31)
    assert host.nvml.wait_event(list(host.gpus), 0.0) == GpuEvent(first.gpu().uuid, 31)


def test_a_lost_gpu_is_passed_over_and_named_when_it_is_the_only_one(host, tmp_path):
    first, second = host.gpus.values()
    first.fail(MigCode.GPU_IS_LOST)
    with pytest.raises(MigError, match="find GPU 0: GPU is lost"):
        first.gpu_instances()
    assert list(drivers.open_host(host.name, tmp_path).gpus) == [second.gpu().uuid]
    second.fail(MigCode.RESET_REQUIRED)
    with pytest.raises(GpuError, match="cannot find GPU 0: GPU is lost; the GPU fell off the bus"):
        drivers.open_host(host.name, tmp_path)
    first.reset()
    second.reset()
    assert len(drivers.open_host(host.name, tmp_path).gpus) == 2
