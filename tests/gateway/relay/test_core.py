"""What the relays tell the core about slices, and what the core tells the relays."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio

from gateway.fleet.health import CheckResult
from gateway.fleet.outcomes import LOST, OK, TIMEOUT
from gateway.fleet.slices import Slice
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from tests.gateway.making import REFUSED, Fleet, live

TIMED_OUT = CheckResult(False, "not answered in time")


class Listening:
    """A relay that notes what it is told, and who could be picked then."""

    def __init__(self, core: RelayCore) -> None:
        self.core = core
        self.told: list[tuple[str, str | None]] = []

    def slice_down(self, member: Slice) -> None:
        other = self.core.registry.pool("infer/m").pick_other([member])
        self.told.append((member.name, other and other.name))


class Core:
    """A core over two slices."""

    def __init__(self) -> None:
        self.fleet = Fleet("a", "b")
        self.checked: list[str] = []
        self.core = RelayCore(
            asyncio.get_running_loop(), self.fleet.registry, Counters(), Limits(), Timeouts(),
            lambda member: self.checked.append(member.name),
        )  # fmt: skip
        self.relays = [Listening(self.core), Listening(self.core)]
        self.core.relays += self.relays

    def hang(self, name: str) -> None:
        for _ in range(3):
            self.fleet.registry.record(self.fleet[name], TIMED_OUT)


@pytest_asyncio.fixture
async def core() -> AsyncIterator[Core]:
    made = Core()
    yield made
    await made.core.dialer.stop()


async def test_relays_are_told_of_a_slice_that_hangs_once_and_in_the_next_turn(core: Core) -> None:
    """Never from within a relay's own callback; and by then nobody picks it any more."""
    core.hang("a")
    assert core.relays[0].told == []
    await asyncio.sleep(0)
    assert [relay.told for relay in core.relays] == [[("a", "b")], [("a", "b")]]
    await asyncio.sleep(0)
    assert len(core.relays[0].told) == 1


async def test_a_second_hang_is_told_again(core: Core) -> None:
    core.hang("a")
    await asyncio.sleep(0)
    for _ in range(2):
        core.fleet.registry.record(core.fleet["a"], live("m"))
    core.hang("a")
    await asyncio.sleep(0)
    assert len(core.relays[0].told) == 2


async def test_relays_are_not_told_of_closed_ports(core: Core) -> None:
    """Its connections break by themselves, or it finishes what it has before it goes."""
    core.fleet.registry.record(core.fleet["a"], REFUSED)
    core.core.slice_refused(core.fleet["b"], "refused")
    await asyncio.sleep(0)
    assert core.relays[0].told == []


async def test_an_attempt_that_timed_out_has_the_slice_checked(core: Core) -> None:
    core.core.attempt_ended(core.fleet["a"], "infer/m", TIMEOUT)
    core.core.attempt_ended(core.fleet["b"], "infer/m", OK)
    assert core.checked == ["a"]


async def test_attempts_reach_the_ejector(core: Core) -> None:
    for _ in range(5):
        core.core.attempt_ended(core.fleet["a"], "infer/m", LOST)
    assert core.fleet.members("infer/m") == ["b"]


async def test_a_success_costs_next_to_nothing(core: Core) -> None:
    """60 ns on an idle machine; the bound leaves room for a busy one."""
    ended, member = core.core.attempt_ended, core.fleet["a"]
    best_s = 1.0
    for _ in range(20):
        began_s = time.perf_counter()
        for _ in range(2000):
            ended(member, "infer/m", OK)
        best_s = min(best_s, time.perf_counter() - began_s)
    assert best_s / 2000 < 400e-9
