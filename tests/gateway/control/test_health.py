"""When slices are checked, and what a check may and may not conclude."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import pytest_asyncio
import structlog

from contract.slice_spec import SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.config import HealthSection
from gateway.control.health import GAP_S, HealthChecker
from gateway.control.probes import CheckNotMadeError, TritonProbe
from gateway.fleet.health import CheckResult, Health, Order, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from tests.gateway.control.conftest import StartTriton
from tests.gateway.control.scripted import until
from tests.gateway.making import make_spec

FAST = HealthSection(
    interval=0.15, timeout=0.15, fast_interval=0.1, down_interval=0.1, rise=2, fall=3
)
SLOW = HealthSection(interval=60, timeout=5, fast_interval=60, down_interval=60)
PASS = CheckResult(True, "live", models={"m": ("1",)})
TIMED_OUT = CheckResult(False, "no answer in time")


class ScriptedProbe:
    """A Probe that returns what its script says, at once or when it is let."""

    def __init__(self) -> None:
        self.result: CheckResult | Exception = PASS
        self.checked: list[str] = []
        self.at_s: list[float] = []
        self.let = asyncio.Event()
        self.let.set()

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        self.checked.append(spec.name)
        self.at_s.append(asyncio.get_running_loop().time())
        await self.let.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def close(self) -> None:
        pass


class Checked:
    """A registry with a checker that runs."""

    def __init__(self, settings: HealthSection, probe: ScriptedProbe | TritonProbe) -> None:
        clock = asyncio.get_running_loop().time
        self.registry = SliceRegistry(LeastLoad, settings.thresholds(), clock)
        self.checker = HealthChecker(self.registry, probe, settings)

    def add(self, *specs: SliceSpec) -> Slice:
        self.registry.replace([member.spec for member in self.registry.slices.values()] + [*specs])
        return self.registry.slices[specs[0].name]


@pytest_asyncio.fixture
async def started() -> AsyncIterator[list[Checked]]:
    """What a test puts here is stopped after it."""
    running: list[Checked] = []
    yield running
    for one in running:
        await one.checker.stop()


@pytest.fixture
def probe() -> ScriptedProbe:
    return ScriptedProbe()


def start(
    started: list[Checked], settings: HealthSection, probe: ScriptedProbe | TritonProbe
) -> Checked:
    checked = Checked(settings, probe)
    started.append(checked)
    checked.checker.start()
    return checked


async def test_a_new_slice_is_checked_at_once(started: list[Checked], probe: ScriptedProbe) -> None:
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    assert checked.checker.watches[member].passed == 1


async def test_slices_known_before_the_start_are_checked_too(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = Checked(SLOW, probe)
    started.append(checked)
    member = checked.add(make_spec("a"))
    checked.checker.start()
    await checked.checker.first_round()
    assert member.routable


async def test_a_killed_server_is_out_within_two_intervals(
    started: list[Checked], start_triton: StartTriton
) -> None:
    """`kill -9` leaves nobody who listens, and refused needs no second look."""
    triton = await start_triton()
    checked = start(started, FAST, TritonProbe())
    member = checked.add(triton.spec("a"))
    await until(lambda: member.routable)
    await triton.stop()
    loop = asyncio.get_running_loop()
    killed_s = loop.time()
    await until(lambda: not member.routable)
    assert loop.time() - killed_s < 2 * FAST.interval + 1.0  # what a busy machine may add
    await triton.start()
    await until(lambda: member.routable)


async def test_a_hung_server_is_found_even_while_earlier_answers_still_arrive(
    started: list[Checked], start_triton: StartTriton
) -> None:
    """SIGSTOP: the kernel goes on accepting, and nobody answers."""
    triton = await start_triton()
    checked = start(started, FAST, TritonProbe())
    member = checked.add(triton.spec("a"))
    await until(lambda: member.routable)
    triton.mode = "hang"
    hung = triton.connections
    await until(lambda: triton.connections > hung)
    member.answered_http(0.01)  # was on its way when the server stopped
    await until(lambda: member.health.health is Health.DOWN)
    assert "not answered within" in member.health.reason


async def test_a_hung_server_is_found_within_three_seconds_by_default(
    started: list[Checked], start_triton: StartTriton
) -> None:
    triton = await start_triton()
    settings = HealthSection()
    # By arithmetic: an interval, then each check with the least pause behind it; all with jitter.
    worst_s = settings.interval * 1.1 + settings.fall * (settings.timeout + GAP_S)
    assert worst_s <= 3.0
    checked = start(started, settings, TritonProbe())
    member = checked.add(triton.spec("a"))
    await until(lambda: member.routable)
    triton.mode = "hang"
    loop = asyncio.get_running_loop()
    hung_s = loop.time()
    await until(lambda: not member.routable)
    assert member.health.hung
    assert loop.time() - hung_s < worst_s + 1.0  # what a busy machine may add


async def test_a_slow_server_that_answers_requests_stays_in(
    started: list[Checked], start_triton: StartTriton
) -> None:
    """Under load a check may wait its turn; taking the slice out would load the others more."""
    triton = await start_triton()
    checked = start(started, FAST, TritonProbe())
    member = checked.add(triton.spec("a"))
    await until(lambda: member.routable)
    triton.mode = "hang"
    timed_out = triton.connections + 6
    while triton.connections < timed_out:
        member.answered_grpc(0.01)
        await asyncio.sleep(0.01)
        assert member.routable
    assert member.health.last is not None
    assert "busy" in member.health.last.reason


async def test_answers_do_not_bring_a_slice_back_that_is_down(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    probe.result = TIMED_OUT
    checked = start(started, FAST, probe)
    member = checked.add(make_spec("a"))
    for count in range(1, 6):
        await until(lambda: len(probe.checked) >= count)  # noqa: B023 (awaited before it changes)
        member.answered_http(0.01)
    assert member.health.health is Health.DOWN


async def test_a_connection_that_failed_has_the_slice_checked_at_once(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    probe.result = CheckResult(False, "refused", conclusive=True)
    checked.checker.check_soon(member)
    await until(lambda: not member.routable)


async def test_many_failed_connections_make_no_storm_of_checks(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a"))
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 0.5
    while loop.time() < end_s:
        checked.checker.check_soon(member)
        await asyncio.sleep(0.001)
    assert 2 <= len(probe.checked) <= 0.5 / GAP_S + 1


async def test_a_disabled_slice_is_not_checked_and_is_again_at_once_when_enabled(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, FAST, probe)
    disabled, other = checked.add(make_spec("a")), checked.add(make_spec("b"))
    await until(lambda: disabled.routable and other.routable)
    checked.registry.order(disabled, Order.DISABLED, "test")
    before = probe.checked.count("a")
    others = probe.checked.count("b")
    await until(lambda: probe.checked.count("b") > others + 3)
    assert probe.checked.count("a") == before
    checked.registry.order(disabled, Order.ENABLED, "test")
    assert not disabled.routable
    await until(lambda: disabled.routable, within_s=1.0)


async def test_a_slice_that_is_being_disabled_is_checked_until_its_work_is_done(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, FAST, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    member.begin()
    checked.registry.order(member, Order.DISABLED, "test")
    before = len(probe.checked)
    await until(lambda: len(probe.checked) > before + 1)
    member.end()


async def test_a_drained_slice_goes_on_being_checked(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, FAST, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    checked.registry.order(member, Order.DRAINED, "test")
    before = len(probe.checked)
    await until(lambda: len(probe.checked) > before + 1)


async def test_a_slice_that_is_gone_is_not_checked_any_more(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, FAST, probe)
    gone, stays = make_spec("a"), make_spec("b")
    checked.add(gone, stays)
    await until(lambda: {"a", "b"} <= set(probe.checked))
    checked.registry.replace([stays])
    before, others = probe.checked.count("a"), probe.checked.count("b")
    await until(lambda: probe.checked.count("b") > others + 2)
    assert probe.checked.count("a") == before
    assert [member.name for member in checked.checker.watches] == ["b"]


async def test_a_result_about_a_server_that_has_been_replaced_is_dropped(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    probe.let.clear()
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a", port=18000))
    await until(lambda: len(probe.checked) == 1)
    checked.registry.replace([make_spec("a", port=19000)])
    probe.let.set()
    await until(lambda: len(probe.checked) == 2)
    await until(lambda: member.routable)
    assert checked.checker.watches[member].passed == 1


async def test_a_pass_seen_before_the_relay_found_the_port_closed_does_not_count(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    probe.let.clear()
    checked.checker.check_soon(member)
    await until(lambda: len(probe.checked) == 2)
    checked.registry.condemn(member, "refused")
    probe.let.set()
    await until(lambda: len(probe.checked) == 3)
    await until(lambda: member.health.last is PASS)
    assert (member.health.health, member.health.run) == (Health.DOWN, 1)


async def test_a_check_that_could_not_be_made_changes_nothing_and_is_logged_once(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, FAST, probe)
    member = checked.add(make_spec("a"))
    await until(lambda: member.routable)
    with structlog.testing.capture_logs() as logs:
        probe.result = CheckNotMadeError("Too many open files")
        before = len(probe.checked)
        await until(lambda: len(probe.checked) > before + 5)
        assert member.routable
        probe.result = PASS
        await until(lambda: len(logs) == 2)
    assert [line["event"] for line in logs] == ["check.not_made", "check.resumed"]


async def test_a_probe_with_a_bug_does_not_end_the_checks(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    probe.result = ZeroDivisionError("a bug")
    checked = start(started, FAST, probe)
    member = checked.add(make_spec("a"))
    with structlog.testing.capture_logs() as logs:
        await until(lambda: len(probe.checked) > 2)
    assert any(line["event"] == "check.crashed" for line in logs)
    probe.result = PASS
    await until(lambda: member.routable)


async def test_checks_of_different_slices_are_not_in_step(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    """Seven checks at one moment are a burst for server and gateway alike."""
    settings = HealthSection(interval=0.7, timeout=0.5)
    checked = start(started, settings, probe)
    checked.add(*(make_spec(f"s{i}") for i in range(7)))
    await until(lambda: len(probe.at_s) >= 7)
    first_s = probe.at_s[0]
    await until(lambda: len(probe.at_s) >= 21)
    later = sorted(at_s for at_s in probe.at_s if at_s > first_s + 0.05)
    gaps = [b - a for a, b in pairwise(later)]
    assert sum(gap > 0.01 for gap in gaps) >= len(gaps) * 2 / 3


async def test_failed_attempts_weigh_less_as_time_passes(
    started: list[Checked], probe: ScriptedProbe
) -> None:
    checked = start(started, SLOW, probe)
    member = checked.add(make_spec("a"))
    member.failed()
    await until(lambda: member.charge < 0.9)


def test_thresholds_come_from_the_settings() -> None:
    assert HealthSection(rise=4, fall=5).thresholds() == Thresholds(rise=4, fall=5)
