"""ControlPlane: everything around the data plane, with one start and one stop."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway.config import Config
from gateway.control.admin import AdminServer
from gateway.control.choices import ChoiceKeeper
from gateway.control.discovery import Discovery, InventorySource, Source, StaticSource
from gateway.control.health import HealthChecker
from gateway.control.probes import PROBES
from gateway.control.tasks import Tasks
from gateway.fleet.health import Health, Order
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters

log = structlog.get_logger()

PROBE: Final = "triton"


class ControlPlane:
    """
    Discovery, checks, the operator's choices and the admin API.

    The registry's clock must be the running loop's `time`.
    """

    def __init__(
        self,
        config: Config,
        registry: SliceRegistry,
        counters: Counters,
        is_shutting_down: Callable[[], bool],
    ) -> None:
        self._registry = registry
        self._settings = config.health
        self._tasks = Tasks()
        self._journal = Journal()
        self._keeper = ChoiceKeeper(config.state_file, registry, config.balancing.policy)
        self._checker = HealthChecker(registry, PROBES[PROBE](), config.health)
        self._discovery = Discovery(registry, _sources(config))
        self._admin = AdminServer(
            config.admin.listen, registry, counters, self._checker, self._keeper, is_shutting_down
        )

    async def start(self) -> None:
        """
        Start everything, and return once there is something to serve with.

        That is after the first round of discovery and of checks; a slice that does not answer is
        waited for as long as one check may take, and no longer.

        Raises:
            OSError: The admin API's address cannot be had; nothing is left running.
        """
        try:
            # The journal first, so that what the others do to a slice is logged after its coming.
            self._registry.listeners += [self._journal, self._keeper]
            self._keeper.load()
            self._checker.start()
            await self._discovery.round()
            self._tasks.start(self._discovery.run(), "discovery")
            await self._admin.start()
        except BaseException:
            await self.stop()
            raise
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._checker.first_round()
        except TimeoutError:
            pass  # the journal has named those that were found down; the rest stay `starting`

    async def stop(self) -> None:
        """Stop everything; may be called at any time, and again."""
        await self._admin.stop()
        await self._tasks.stop()
        await self._checker.stop()
        for listener in (self._journal, self._keeper):
            if listener in self._registry.listeners:
                self._registry.listeners.remove(listener)

    def check_soon(self, member: Slice) -> None:
        """Check `member` now rather than in its turn; never waits."""
        self._checker.check_soon(member)


def _sources(config: Config) -> list[Source]:
    """Return the sources, the one that wins a clash of names first."""
    sources: list[Source] = [StaticSource(config.specs)]
    if config.inventory is not None:
        sources.append(InventorySource(config.inventory))
    return sources


class Journal:
    """Logs what changes about slices. A SliceListener."""

    def __init__(self) -> None:
        self._known: dict[Slice, tuple[Health, Order]] = {}

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        before = self._known.get(member, (Health.UNKNOWN, Order.ENABLED))
        self._known[member] = member.health.health, member.order
        facts = {
            "slice": member.name, "state": member.state.value, "reason": reason,
            "simulated": member.spec.simulated,
        }  # fmt: skip
        match event:
            case "added":
                log.info("slice.added", **facts, http=str(member.spec.http),
                         grpc=str(member.spec.grpc), weight=member.weight)  # fmt: skip
            case "removed":
                del self._known[member]
                log.info("slice.removed", **facts, in_flight=member.in_flight)
            case "changed":
                log.info("slice.changed", **facts, http=str(member.spec.http),
                         grpc=str(member.spec.grpc), weight=member.weight)  # fmt: skip
            case "health":
                emit = log.warning if member.health.health is Health.DOWN else log.info
                emit("slice.health_changed", **facts, before=before[0].value,
                     after=member.health.health.value)  # fmt: skip
            case "order":
                log.info("slice.order_changed", **facts, before=before[1].value,
                         after=member.order.value, in_flight=member.in_flight)  # fmt: skip
            case _:
                raise AssertionError(f"unknown event {event!r}")
