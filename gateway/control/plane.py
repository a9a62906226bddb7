"""ControlPlane: everything around the data plane, with one start and one stop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import structlog

from contract import logs
from gateway.config import Config
from gateway.control.admin import AdminServer
from gateway.control.choices import ChoiceKeeper
from gateway.control.discovery import Discovery, configured_sources
from gateway.control.events import EventLog
from gateway.control.flowers import Front
from gateway.control.health import HealthChecker
from gateway.control.joining import Preparer
from gateway.control.probes import make_probe
from gateway.control.processes import ProcessCalls
from gateway.control.reload import Apply, Reloader, ReloadTarget
from gateway.control.security import Security
from gateway.control.tasks import Tasks
from gateway.fleet.health import ENABLED
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters

log = structlog.get_logger()

UNTIL_READY_S: Final = 10.0
"""For slices that answer slowly just now: enough for a check that fails and two that pass."""
LOOK_S: Final = 0.02


class ControlPlane:
    """
    Discovery, checks, the operator's choices and the admin API.

    The registry's clock must be the running loop's `time`.

    Args:
        security: Tokens and certificates; read from what `config` names when None.

    Attributes:
        reload_targets: What a reload has to tell here.
        settle: What is to be awaited after that.

    Raises:
        ConfigError: A token or certificate cannot be read.
    """

    def __init__(
        self,
        config: Config,
        registry: SliceRegistry,
        counters: Counters,
        not_serving: Callable[[], str],
        security: Security | None = None,
    ) -> None:
        self._registry = registry
        self._clock = asyncio.get_running_loop().time
        registry.ready_when = config.triton.ready
        self._settings = config.health
        self._tasks = Tasks()
        self._events = EventLog()
        self._keeper = ChoiceKeeper(config.state_file, registry, config.balancing.policy)
        self._checker = HealthChecker(registry, make_probe(config.health), config.health)
        self._discovery = Discovery(registry, configured_sources(config))
        self._admin = AdminServer(
            config.admin.listen, registry, counters, self._checker, self._keeper, not_serving,
            security or Security(config), self._events,
        )  # fmt: skip
        self._admin.clients = config.listen
        self._admin.front = Front(
            config.listen[0],
            config.tls.cert if config.tls else None,
            config.tls is not None and config.tls.client_ca is not None,
        )
        self.reload_targets: list[ReloadTarget] = [self._discovery, Apply(self._configure)]
        self.settle: list[Callable[[], Awaitable[None]]] = [
            self._discovery.round,
            self._keeper.forget_stale,
        ]

    async def start(self, *, admin: bool = True) -> None:
        """
        Start everything, but for the admin API unless `admin`, and return once there is something to serve with.

        That is after the first round of discovery and of checks; a slice that does not answer is
        waited for as long as one check may take, and no longer.

        Raises:
            OSError: The admin API's address cannot be had; nothing is left running.
        """
        try:
            self._registry.recorders.append(self._events.record)
            self._registry.listeners.append(self._keeper)
            self._keeper.load()
            self._checker.start()
            await self._discovery.round()
            self._tasks.start(self._discovery.run(), "discovery")
            if admin:
                await self._admin.start()
        except BaseException:
            await self.stop()
            raise
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._checker.first_round()
        except TimeoutError:
            pass  # the log has named those that were found down; the rest stay `starting`

    async def until_ready(self, names: Collection[str]) -> None:
        """
        Wait until the slices of these names take work, for UNTIL_READY_S at most.

        They took our predecessor's, which serves meanwhile: whoever took over before they are known to
        be well would have nobody to give its clients' requests to.
        """
        until_s = self._clock() + UNTIL_READY_S
        # A look now and then, once in a process's life, costs less than a callback a slice.
        while (missing := self._not_ready(names)) and self._clock() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        if missing:
            log.warning("successor.not_all_ready", slices=missing, waited_s=UNTIL_READY_S)

    def _not_ready(self, names: Collection[str]) -> list[str]:
        slices = self._registry.slices
        wanted = [slices[name] for name in names if name in slices]
        # Their configuration may have changed, or the operator's mind.
        return [m.name for m in wanted if m.order is ENABLED and m.weight and not m.routable]

    async def stop(self) -> None:
        """Stop everything; may be called at any time, and again."""
        self._events.close()
        await self._admin.stop()
        await self._tasks.stop()
        await self._checker.stop()
        if self._keeper in self._registry.listeners:
            self._registry.listeners.remove(self._keeper)
        if self._events.record in self._registry.recorders:
            self._registry.recorders.remove(self._events.record)

    async def take_over_admin(self, sockets: Sequence[socket.socket]) -> None:
        """Start the admin API on sockets that our predecessor has listened on."""
        self._admin.taken_over = sockets
        await self._admin.start()

    async def hand_over(self, start: Callable[[list[int]], Awaitable[int]]) -> int:
        """
        Let `start` bring up our successor, and leave the admin API to it.

        No choice is made meanwhile, and none here after that: the successor has read the file.
        `start` is given the file descriptors of the admin API; it returns a process id, or raises
        and nothing has changed.
        """
        async with self._keeper.writing:
            pid = await start(self._admin.numbers)
            self._keeper.retire()
            self._admin.hand_over()
            return pid

    def serve_processes(self, calls: ProcessCalls) -> None:
        """Tell of the data planes' processes; call it before `start`."""
        self._admin.processes = calls

    def serve_reloads(self, reloader: Reloader) -> None:
        """Carry out `POST /v1/reload` from now on."""
        self._admin.reloader = reloader

    def _configure(self, config: Config) -> None:
        logs.configure(config.log.level, config.log.format)
        self._settings = config.health
        self._checker.configure(config.health)
        self._registry.set_thresholds(config.health.thresholds())
        self._registry.ejector.settings = config.ejection.values()
        if self._registry.ready_when != config.triton.ready:
            self._registry.ready_when = config.triton.ready
            self._registry.publish()  # the workers are told
        self._keeper.reconfigure(config.balancing.policy)

    def use_composer(self, preparer: Preparer, slice_metrics: Callable[[], Awaitable[str]]) -> None:
        """Let it bring slices up to date, and show the slices' metrics; call it before `start`."""
        self._checker.preparer = preparer
        self._admin.slice_metrics = slice_metrics

    async def check_now(self, members: Sequence[Slice]) -> None:
        """Check `members` and return when the registry knows what was found."""
        await self._checker.check_now(members)

    def check_soon(self, member: Slice) -> None:
        """Check `member` now rather than in its turn; never waits."""
        self._checker.check_soon(member)
