"""A slice that was out is brought up to date before it takes traffic."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest_asyncio

from contract.slice_spec import SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.config_health import HealthSection
from gateway.control.health import HealthChecker
from gateway.fleet.health import CheckResult, Health
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from tests.gateway.control.scripted import until
from tests.gateway.making import make_spec

FAST = HealthSection(interval=60, timeout=5, fast_interval=0.05, down_interval=0.05, rise=2)


class ScriptedPreparer:
    """A Preparer that notes what it is asked; `changes` is how often more is found to do."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.learnt: list[str] = []
        self.why = ""
        self.changes = 0
        self.let = asyncio.Event()
        self.let.set()
        self._done: set[Slice] = set()

    def is_prepared(self, member: Slice) -> bool:
        if self.changes and member in self._done:
            self.changes -= 1
            return False
        return member in self._done

    async def prepare(self, member: Slice) -> str:
        assert not member.routable, "too late"
        self.prepared.append(member.name)
        await self.let.wait()
        if not self.why:
            self._done.add(member)
        return self.why

    async def learn(self, member: Slice, models: Iterable[str]) -> None:
        self.learnt += models


class Probe:
    def __init__(self) -> None:
        self.models = ["m"]
        self.checks = 0
        self.gate: list[asyncio.Event] = []

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        self.checks += 1
        found = CheckResult(True, "live", models=dict.fromkeys(self.models, ("1",)))
        if self.gate:
            await self.gate.pop(0).wait()
        return found

    async def close(self) -> None:
        pass


class Joining:
    def __init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.registry = SliceRegistry(LeastLoad, FAST.thresholds(), clock)
        self.preparer, self.probe = ScriptedPreparer(), Probe()
        self.checker = HealthChecker(self.registry, self.probe, FAST)
        self.checker.preparer = self.preparer
        self.checker.start()

    def add(self) -> Slice:
        self.registry.replace([make_spec("a")])
        return self.registry.slices["a"]


@pytest_asyncio.fixture
async def joining() -> AsyncIterator[Joining]:
    one = Joining()
    yield one
    await one.checker.stop()


async def test_it_takes_no_traffic_before_it_is_prepared(joining: Joining) -> None:
    joining.preparer.let.clear()
    member = joining.add()
    await until(lambda: joining.preparer.prepared == ["a"])
    assert not member.routable
    joining.preparer.let.set()
    await until(lambda: member.routable)
    assert joining.preparer.learnt, "and its models are known before"


async def test_what_it_has_ready_is_looked_at_again_afterwards(joining: Joining) -> None:
    joining.preparer.let.clear()
    member = joining.add()
    await until(lambda: joining.preparer.prepared == ["a"])
    joining.probe.models = ["m", "loaded"]
    joining.preparer.let.set()
    await until(lambda: member.routable)
    assert member.models is not None
    assert "loaded" in member.models


async def test_it_stays_down_with_the_reason_while_it_cannot_be_prepared(joining: Joining) -> None:
    joining.preparer.why = "not brought up to date: because"
    member = joining.add()
    await until(lambda: member.health.health is Health.DOWN)
    assert member.health.reason == "not brought up to date: because"
    joining.preparer.why = ""
    await until(lambda: member.routable)


async def test_a_change_made_meanwhile_is_repeated_too(joining: Joining) -> None:
    joining.preparer.changes = 2
    member = joining.add()
    await until(lambda: member.routable)
    assert joining.preparer.prepared == ["a"] * 3


async def test_only_the_check_that_would_bring_it_up_prepares_it(joining: Joining) -> None:
    """The first of `rise` passes proves too little to work on."""
    member = joining.add()
    await until(lambda: member.routable)
    joining.registry.condemn(member, "gone")
    joining.preparer._done.clear()
    await until(lambda: member.routable)
    assert joining.preparer.prepared == ["a"] * 2


async def test_check_now_returns_when_the_new_state_is_known(joining: Joining) -> None:
    member = joining.add()
    await until(lambda: member.routable)
    joining.probe.models = ["m", "n"]
    await joining.checker.check_now([member])
    assert [one.name for one in joining.registry.pool("infer/n").members] == ["a"]


async def test_an_earlier_check_that_ends_later_does_not_undo_a_later_one(joining: Joining) -> None:
    """It began before a load; its index is without the model."""
    member = joining.add()
    await until(lambda: member.routable)
    gate = asyncio.Event()
    joining.probe.gate.append(gate)
    before = joining.probe.checks
    joining.checker.check_soon(member)
    await until(lambda: joining.probe.checks > before)
    joining.probe.models = ["m", "n"]
    await joining.checker.check_now([member])
    joining.probe.gate.append(asyncio.Event())
    joining.checker.check_soon(member)
    gate.set()
    # Checks of one slice's own task come one after another: the early one is over now.
    await until(lambda: joining.probe.checks == before + 3)
    assert member.models is not None
    assert "n" in member.models
