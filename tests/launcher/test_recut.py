"""Stages are carried out in their order, through the gateway, and completed after any interruption."""

import asyncio
import threading

import pytest

from contract import inventory
from contract.slice_spec import Endpoint, SliceSpec
from launcher.errors import GatewayError, GpuError, StartError
from launcher.mig import Placement
from launcher.partition import Device, Division
from launcher.recut import Manner, Recut
from launcher.runtime import ServerSpec
from launcher.stages import Planned, Stage
from launcher.state import InstanceRecord, State, StateStore


def planned(name):
    port = 8000 + 10 * int(name[1:])
    ends = [Endpoint("127.0.0.1", port + i) for i in range(3)]
    return Planned(name, "1g.5gb", 1.0, *ends, simulated=True)


def spec_of(member, device):
    made = SliceSpec(
        member.name, member.http, member.grpc, member.metrics, mig_uuid=device.mig_uuid
    )
    return ServerSpec(made, "/m", ())


def spec(name, uuid="MIG-before"):
    return spec_of(planned(name), Device(uuid, ()))


class World:
    """Fleet, partitioner and gateway that write down what is asked of them, in one list."""

    def __init__(self, names):
        self.told = []
        self.running = {name: spec(name) for name in names}
        self.states = dict.fromkeys(names, "enabled")
        self.in_flight = dict.fromkeys(names, 0)
        self.refuse = None
        self.mine = True
        self.address = "here:9001"
        self.fail = {}

    # the fleet
    @property
    def specs(self):
        return dict(self.running)

    async def add(self, specs, progress):
        self.told.append(f"start {' '.join(s.member.name for s in specs)}")
        self._fail("add")
        self.running |= {s.member.name: s for s in specs}

    async def confirm(self, names, progress):
        """All that run are ready."""

    def refuse_lent(self, names):
        """No job has any."""

    async def remove(self, names, timeout_s, hurry):
        self.told.append(f"stop {' '.join(sorted(names))}")
        self.running = {name: s for name, s in self.running.items() if name not in names}

    # the partitioner
    def cut(self, work, store):
        self.told.append(f"cut {' '.join(work)}")
        self._fail("cut")
        return {name: Device("MIG-after", ()) for name in work}

    # the gateway
    async def answers(self):
        return self.refuse is None

    async def slices(self):
        if self.refuse:
            raise GatewayError(self.refuse)
        return {
            name: {
                "enabled": order == "enabled",
                "in_flight": self.in_flight.get(name, 0),
                "http": str(planned(name).http if self.mine else Endpoint("other", 1)),
            }
            for name, order in self.states.items()
        }

    async def drain(self, name, force):
        self.told.append(f"drain {name}")
        self._fail(f"drain {name}")
        self.states[name] = "drained"

    async def wait_idle(self, names, timeout_s, force):
        self._fail("wait_idle")

    async def wait_gone(self, names):
        self.told.append(f"gone {' '.join(sorted(names))}")

    async def enable(self, name):
        self.told.append(f"enable {name}")
        self.states[name] = "enabled"

    async def wait_serving(self, names):
        """They do."""

    def _fail(self, where):
        error = self.fail.pop(where, None)
        if error is not None:
            raise error


class Quiet:
    def step(self, text):
        """Not heard here."""


@pytest.fixture
def store(tmp_path):
    made = StateStore(tmp_path)
    made.begin(State("simulated:a100-40gb", "process", str(tmp_path / "slices.json")))
    return made


def stage(going, coming):
    names = coming.split()
    return Stage(frozenset(going.split()), tuple(planned(n) for n in names), tuple(names))


TWO = Division(None, (stage("s0 s1", "s0"), stage("s2 s3", "s2")), "")


@pytest.fixture(autouse=True)
def free_ports(monkeypatch):
    monkeypatch.setattr("launcher.ports.check_free", list)


async def run(world, store, division=TWO, must_drain=True, force=False, gateway=True):
    path = store.path.with_name("slices.json")
    if not path.exists():
        inventory.save(path, [s.member for s in world.running.values()])
    recut = Recut(world, world, store, path, spec_of, asyncio.Event())
    manner = Manner(world if gateway else None, must_drain, 1.0, 1.0, force)
    await recut.carry_out(division, manner, Quiet())
    return [member.name for member in inventory.load(path)]


FOUR = ("s0", "s1", "s2", "s3")
FIRST = ["drain s0", "drain s1", "gone s0 s1", "stop s0 s1", "cut s0", "start s0", "enable s0"]
SECOND = ["drain s2", "drain s3", "gone s2 s3", "stop s2 s3", "cut s2", "start s2", "enable s2"]


async def test_each_stage_is_drained_stopped_cut_started_and_enabled(store):
    world = World(FOUR)
    listed = await run(world, store)
    assert [told for told in world.told if told != "cut "] == FIRST + SECOND
    assert sorted(listed) == ["s0", "s2"]
    # Slices that are gone are put back when a later layout has them again.
    assert store.state.drained == ("s1", "s3")


async def test_what_an_operator_has_taken_out_is_not_put_back(store):
    world = World(FOUR)
    world.states["s0"] = "disabled"
    await run(world, store)
    assert "drain s0" not in world.told
    assert world.states["s0"] == "disabled"


async def test_the_last_slice_that_serves_is_not_drained_and_the_others_are_put_back(store):
    world = World(FOUR)
    world.fail["drain s1"] = GatewayError("s1 is the last slice that serves")
    with pytest.raises(GatewayError, match="last slice"):
        await run(world, store)
    assert "enable s0" in world.told
    assert not any(told.startswith("stop") for told in world.told)
    assert set(world.running) == set(FOUR)


async def test_a_cut_that_is_refused_has_the_servers_started_again(store):
    world = World(FOUR)
    at = Placement(0, 1)
    store.change(
        instances=tuple(
            InstanceRecord(name, "GPU-0", "1g.5gb", 19, at, 7, 0, "MIG-before") for name in FOUR
        )
    )
    division = Division(None, (stage("", "s2 s3"), stage("s0 s1", "s0")), "")

    def cut(work, given):
        if "s0" in work:
            raise GpuError("refused; what had been done was undone")
        return {name: Device("MIG-before", ()) for name in work}

    world.cut = cut
    with pytest.raises(GpuError):
        await run(world, store, division)
    assert set(world.running) == set(FOUR)
    assert world.states == dict.fromkeys(FOUR, "enabled")
    assert store.state.drained == ()


@pytest.mark.parametrize("where", ["drain s1", "wait_idle", "cut", "add"])
async def test_interrupted_anywhere_the_same_again_completes_it(store, where):
    world = World(FOUR)
    world.fail[where] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await run(world, store)
    going = frozenset(("s0", "s1")) & world.running.keys()
    left = (Stage(going, (planned("s0"),), ("s0",)), TWO.stages[1])
    listed = await run(world, store, Division(None, left, ""))
    assert sorted(listed) == ["s0", "s2"]
    assert world.states["s0"] == world.states["s2"] == "enabled"


async def test_a_server_that_does_not_start_is_told(store):
    world = World(FOUR)
    world.fail["add"] = StartError("s0 did not start")
    with pytest.raises(StartError):
        await run(world, store)
    assert "drain s2" not in world.told  # the other half goes on serving


async def test_without_a_gateway_it_is_refused_before_anything_stops(store):
    world = World(FOUR)
    world.refuse = "does not answer; --no-drain"
    with pytest.raises(GatewayError, match="--no-drain"):
        await run(world, store)
    assert world.told == []
    await run(world, store, must_drain=False)
    assert "stop s0 s1" in world.told


async def test_a_strangers_gateway_is_left_alone(store):
    """It has slices of the same names, at other addresses."""
    world = World(FOUR)
    world.mine = False
    with pytest.raises(GatewayError, match="serves none of these slices; name theirs with"):
        await run(world, store)
    assert world.told == []
    await run(world, store, must_drain=False)
    assert not any(told.startswith(("drain", "enable")) for told in world.told)


async def test_a_server_that_is_to_run_otherwise_is_replaced_alone(store):
    """Other arguments, another share: the instance stays, the server does not."""
    world = World(("s0", "s1"))
    world.running["s0"] = spec("s0", "MIG-other")
    world.cut = lambda work, given: {name: Device("MIG-before", ()) for name in work}
    division = Division(
        None, (Stage(frozenset(), (planned("s0"), planned("s1")), ("s0", "s1")),), ""
    )
    await run(world, store, division)
    assert world.told == ["drain s0", "gone s0", "stop s0", "start s0", "enable s0"]


async def test_servers_whose_instance_has_vanished_stop(store):
    world = World(("s0", "s9"))
    world.cut = lambda work, given: {name: Device("MIG-before", ()) for name in work}
    division = Division(None, (Stage(frozenset(), (planned("s0"),), ("s0",)),), "")
    assert await run(world, store, division, gateway=False) == ["s0"]
    assert world.told == ["stop s9"]


async def test_a_cut_that_has_begun_comes_to_its_end_and_the_loop_goes_on_meanwhile(store):
    """A step on a GPU cannot be stopped: nobody may undo it while it is being done."""
    world, begun, may_end = World(FOUR), threading.Event(), threading.Event()

    def cut(work, given):
        begun.set()
        may_end.wait()
        given.change(drained=("s9",))
        return {name: Device("MIG-after", ()) for name in work}

    world.cut = cut
    task = asyncio.ensure_future(run(world, store))
    async with asyncio.timeout(10):
        while not begun.is_set():  # noqa: ASYNC110 - of a thread
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert store.state.drained == ("s9",)
    assert not any(told.startswith("start") for told in world.told)
