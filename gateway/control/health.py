"""
HealthChecker: when which slice is checked.

One task a slice; a check never waits for another slice's. The results go to the registry, which
decides what follows from them.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from gateway.config_health import HealthSection
from gateway.control.joining import Preparer, joined
from gateway.control.probes import CheckNotMadeError, Probe
from gateway.control.tasks import Tasks
from gateway.fleet.health import DOWN, UP, CheckResult, State
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice

log = structlog.get_logger()

JITTER: Final = 0.1
"""Share of an interval by which checks are moved about, so that many gateways do not fall in step."""
GAP_S: Final = 0.1
"""Least time from one check's end to the next, however often the relay asks for one."""
TICK_S: Final = 0.5
GOLDEN_RATIO: Final = 0.618034


@dataclass(slots=True, eq=False)
class Watch:
    """
    The checks of one slice.

    Attributes:
        passed, failed: Checks so far, by result.
        wake: Set to check now instead of when the interval is over.
        recording: A result is being taken in; what changes now is that check's own doing.
        not_made: The last check could not be made.
        begun, taken: Numbers of the check begun last and of the one whose result was taken in
            last; checks may overlap, and what an earlier one saw must not replace what a later
            one saw.
    """

    member: Slice
    passed: int = 0
    failed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    recording: bool = False
    not_made: bool = False
    begun: int = 0
    taken: int = 0


class HealthChecker:
    """
    Checks every slice in its time. A SliceListener: new slices are watched as they appear.

    Attributes:
        preparer: Brings slices up to date before they are up; None where there is nothing to.
    """

    def __init__(self, registry: SliceRegistry, probe: Probe, settings: HealthSection) -> None:
        self.watches: dict[Slice, Watch] = {}
        self.preparer: Preparer | None = None
        self._registry = registry
        self._probe = probe
        self._settings = settings
        self._phase = 0.0
        self._tasks = Tasks()
        self._running: dict[Slice, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin; from here on the registry's changes are followed."""
        self._registry.listeners.append(self)
        self._tasks.start(self._tick(), "what time does to slices")
        for member in self._registry.slices.values():
            self._watch(member)

    async def stop(self) -> None:
        """End all checks, those under way included."""
        if self in self._registry.listeners:
            self._registry.listeners.remove(self)
        await self._tasks.stop()
        await self._probe.close()

    def configure(self, settings: HealthSection) -> None:
        """Check by other settings, from each slice's next check on."""
        self._settings = settings
        for watch in self.watches.values():
            watch.wake.set()  # what was hours away may now be seconds

    async def first_round(self) -> None:
        """Wait until every slice that is to be checked has been checked once."""
        for watch in list(self.watches.values()):
            if watch.member.state is not State.DISABLED:
                await watch.first.wait()

    def check_soon(self, member: Slice) -> None:
        """Check `member` now: the relay has met a connection that failed."""
        watch = self.watches.get(member)
        if watch is not None:
            watch.wake.set()

    async def check_now(self, members: Sequence[Slice]) -> None:
        """Check `members` and return when the results are taken in: what is seen is newer than
        the call."""
        watches = [self.watches[member] for member in members if member in self.watches]
        await asyncio.gather(*(self._check(watch) for watch in watches))

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        if event == "added":
            self._watch(member)
        elif event == "removed":
            self.watches.pop(member, None)
            task = self._running.pop(member, None)
            if task is not None:
                task.cancel()
        else:
            watch = self.watches.get(member)
            if watch is not None and not watch.recording:
                watch.wake.set()

    def _watch(self, member: Slice) -> None:
        watch = self.watches[member] = Watch(member)
        # The first check is made at once; from the second on the slices take turns, evenly
        # however many there will be: multiples of the golden ratio leave no large gap.
        self._phase = (self._phase + GOLDEN_RATIO) % 1.0
        work = self._run(watch, self._settings.interval * self._phase)
        self._running[member] = self._tasks.start(work, f"checks of {member.name}")

    async def _run(self, watch: Watch, first_pause_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if watch.member.state is State.DISABLED:
                await self._pause(watch, None)
                continue
            watch.wake.clear()
            began_s = loop.time()
            await self._check(watch)
            took_s = loop.time() - began_s
            pause_s = self._interval_s(watch.member)
            if first_pause_s is not None and watch.member.health.health is UP:
                pause_s = first_pause_s
            first_pause_s = None
            await asyncio.sleep(GAP_S)
            # From start to start, so that checks that time out do not come later than others.
            await self._pause(watch, pause_s - took_s - GAP_S)

    def _interval_s(self, member: Slice) -> float:
        """Return the time until the next check."""
        record = member.health
        if record.run:
            interval_s = self._settings.fast_interval
        elif record.health is DOWN:
            interval_s = self._settings.down_interval
        else:
            interval_s = self._settings.interval
        return interval_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (no secret)

    async def _pause(self, watch: Watch, seconds: float | None) -> None:
        """Wait until `seconds` are over, or somebody wants a check."""
        try:
            async with asyncio.timeout(seconds):
                await watch.wake.wait()
        except TimeoutError:
            pass
        watch.wake.clear()

    async def _check(self, watch: Watch) -> None:
        member, spec = watch.member, watch.member.spec
        since_s, answered = member.health.since_s, _answered(member)
        watch.begun = number = watch.begun + 1
        try:
            result = await self._probe.check(spec, self._settings.timeout)
            if result.passed and self.preparer is not None:
                again = partial(self._probe.check, spec, self._settings.timeout)
                result = await joined(member, result, self.preparer, again)
        except CheckNotMadeError as error:
            self._not_made(watch, str(error))
            return
        except Exception as error:
            log.exception("check.crashed", slice=member.name)
            self._not_made(watch, repr(error))
            return
        if watch.not_made:
            watch.not_made = False
            log.info("check.resumed", slice=member.name)
        if member.spec != spec or member.state is State.DISABLED:
            return  # about a server that is no longer this slice's, or that nobody asks about
        if result.passed and member.health.since_s != since_s:
            # The relay has found the port closed while this check was under way: what the check
            # saw may be older. The next one is at most a fast interval away.
            watch.wake.set()
            return
        if number < watch.taken:
            return  # a check that began later has been faster
        watch.taken = number
        self._record(watch, self._weighed(member, result, _answered(member) - answered))

    def _record(self, watch: Watch, result: CheckResult) -> None:
        if result.passed:
            watch.passed += 1
        else:
            watch.failed += 1
        watch.recording = True
        try:
            self._registry.record(watch.member, result)
        finally:
            watch.recording = False
        watch.first.set()

    def _weighed(self, member: Slice, result: CheckResult, answered: int) -> CheckResult:
        """
        Take a check that failed while the slice answered requests as a sign of load, not death.

        Only answers given during this very check count, so that a server that stopped is found
        out by the first check that lies wholly after that.
        """
        if result.passed or result.conclusive or not answered or member.health.health is not UP:
            return result
        reason = f"busy: {result.reason}, but {answered} requests were answered meanwhile"
        return CheckResult(True, reason, took_s=result.took_s)

    def _not_made(self, watch: Watch, why: str) -> None:
        watch.first.set()
        if not watch.not_made:
            watch.not_made = True
            log.error("check.not_made", slice=watch.member.name, reason=why)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            self._registry.tick(now_s - last_s)
            last_s = now_s


def _answered(member: Slice) -> int:
    """Return the requests answered so far, over both protocols."""
    return member.http_latency.count + member.grpc_latency.count
