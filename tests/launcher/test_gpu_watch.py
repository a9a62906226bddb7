"""What GPUs tell, and what is seen of them, has the right consequences and is said once."""

import asyncio
import contextlib
import queue

import pytest
import structlog

from launcher import gpu_watch
from launcher.errors import GpuError
from launcher.gpu_watch import GpuWatch
from launcher.mig import GpuEvent, MigCode, MigError
from launcher.partition import Affected
from launcher.state import State, StateStore


class World:
    """A partitioner and a fleet that are told what to answer, and remember what they were told."""

    def __init__(self):
        self.events = queue.SimpleQueue()
        self.gone = ()
        self.error = None
        self.made_again = 0
        self.restarted = []
        self.warned = []
        self.alone = True
        self.waits = 0
        self.looks = 0

    # the partitioner
    def wait_event(self, timeout_s):
        self.waits += 1
        with contextlib.suppress(queue.Empty):
            event = self.events.get(timeout=0.005)
            if isinstance(event, Exception):
                raise event
            return event
        return None

    def affected(self, event, state):
        if event.gpu_instance_id is None:
            return Affected(3, ("s0", "s1"), surely=not self.alone)
        return Affected(3, ("s1",), surely=True)

    def missing(self, state):
        self.looks += 1
        if self.error:
            raise self.error
        return self.gone

    # the fleet
    def restart(self, names, why):
        self.restarted.append((sorted(names), why))
        return names

    def warn(self, names, warning):
        self.warned.append((sorted(names), warning))

    async def make_again(self):
        self.made_again += 1
        self.gone = ()


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(gpu_watch, "POLL_S", 0.01)
    monkeypatch.setattr(gpu_watch, "RETRY_MAX_S", 0.01)
    monkeypatch.setattr(gpu_watch, "EVENTS_RETRY_S", 0.01)
    return World()


@contextlib.asynccontextmanager
async def watching(world, tmp_path, cutting=False):
    store = StateStore(tmp_path)
    store.begin(State("nvidia:all", "process", str(tmp_path / "slices.json")))
    watch = GpuWatch(world, world, store, lambda: cutting, world.make_again)
    with structlog.testing.capture_logs() as lines:
        task = asyncio.ensure_future(watch.run())
        try:
            yield lines
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


def named(lines, event):
    return [line for line in lines if line["event"] == event]


async def test_an_error_of_a_program_has_the_server_of_just_that_slice_started_again(
    world, tmp_path
):
    async with watching(world, tmp_path) as lines:
        world.events.put(GpuEvent("GPU-0", 31, 7, 0))
        await until(lambda: named(lines, "gpu.told_error"))
    name = "XID 31 (memory page fault: an address that is not the program's)"
    assert world.restarted == [(["s1"], name)]
    assert world.warned == []
    (line,) = named(lines, "gpu.told_error")
    assert (line["gpu"], line["gpu_instance"], line["restarted"]) == (3, 7, ["s1"])
    assert line["error"].startswith(f"{name}: what ran there cannot go on")


async def test_an_error_of_a_program_somewhere_on_the_gpu_ends_nothing(world, tmp_path):
    """Seven slices serve, one of them is hit, and the driver does not say which."""
    async with watching(world, tmp_path) as lines:
        world.events.put(GpuEvent("GPU-0", 31))
        await until(lambda: named(lines, "gpu.told_error"))
    assert world.restarted == []


async def test_where_all_share_one_context_it_ends_all(world, tmp_path):
    """An error of one client of MPS is one of all."""
    world.alone = False
    async with watching(world, tmp_path) as lines:
        world.events.put(GpuEvent("GPU-0", 31))
        await until(lambda: named(lines, "gpu.told_error"))
    assert [names for names, _ in world.restarted] == [["s0", "s1"]]


async def test_a_gpu_that_must_be_reset_is_told_of_and_its_servers_go_on(world, tmp_path):
    async with watching(world, tmp_path) as lines:
        world.events.put(GpuEvent("GPU-0", 48))
        await until(lambda: named(lines, "gpu.told_error"))
    assert world.restarted == []
    ((names, warning),) = world.warned
    assert names == ["s0", "s1"]
    assert "`nvidia-smi -i 3 --gpu-reset`" in warning


async def test_the_echo_of_a_programs_end_is_not_a_reason_to_end_the_next(world, tmp_path):
    async with watching(world, tmp_path) as lines:
        world.events.put(GpuEvent("GPU-0", 45, 7, 0))
        world.events.put(GpuEvent("GPU-0", 999, 7, 0))
        await until(lambda: len(named(lines, "gpu.told_error")) == 2)
    assert (world.restarted, world.warned) == ([], [])
    assert [line["log_level"] for line in named(lines, "gpu.told_error")] == ["warning", "error"]


async def test_what_is_told_many_times_is_said_once(world, tmp_path):
    async with watching(world, tmp_path) as lines:
        for _ in range(20):
            world.events.put(GpuEvent("GPU-0", 48))
        world.events.put(GpuEvent("GPU-0", 62))
        await until(lambda: len(world.warned) == 21)
    assert len(named(lines, "gpu.told_error")) == 2


async def test_when_somebody_cuts_the_gpu_it_is_looked_at_at_once(world, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_watch, "POLL_S", 1000.0)
    world.gone = ("s1",)
    async with watching(world, tmp_path) as lines:
        await until(lambda: world.waits)
        assert not world.made_again
        world.events.put(GpuEvent("GPU-0"))
        await until(lambda: named(lines, "slices.restored"))
    assert world.made_again == 1


async def test_while_we_cut_nobody_is_in_the_way(world, tmp_path):
    world.gone = ("s1",)
    async with watching(world, tmp_path, cutting=True):
        world.events.put(GpuEvent("GPU-0"))
        await until(lambda: world.waits > 20)
    assert (world.looks, world.made_again) == (0, 0)


async def test_a_lost_gpu_is_said_once_and_again_when_it_is_back(world, tmp_path):
    world.error = GpuError("GPU 0: cannot ask MIG mode: GPU is lost; reset it")
    async with watching(world, tmp_path) as lines:
        await until(lambda: world.looks > 5)
        world.error = None
        await until(lambda: named(lines, "gpus.as_wanted"))
    (line,) = named(lines, "gpus.not_as_wanted")
    assert "GPU is lost" in line["reason"]


async def test_a_driver_without_events_is_looked_at_all_the_same(world, tmp_path):
    for _ in range(3):
        world.events.put(MigError("wait", MigCode.FUNCTION_NOT_FOUND))
    world.gone = ("s0",)
    async with watching(world, tmp_path) as lines:
        await until(lambda: world.made_again and world.events.empty())
    assert [line["log_level"] for line in named(lines, "gpu_events.none")] == ["info"]


async def test_a_failure_to_hear_is_said_and_tried_again(world, tmp_path):
    world.events.put(MigError("wait for events of GPUs", MigCode.GPU_IS_LOST))
    async with watching(world, tmp_path) as lines:
        await until(lambda: named(lines, "gpu_events.not_heard"))
        world.events.put(GpuEvent("GPU-0", 31, 7, 0))
        await until(lambda: world.restarted)
