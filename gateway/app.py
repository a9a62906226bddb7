"""
The composition root: builds everything, and starts and stops it in order.

Start: event loop, control plane (first discovery), data plane, listen. Stop, on SIGTERM: readiness
fails for `timeouts.leave`, listening ends, clients are told to go elsewhere, what is in flight
finishes within `timeouts.drain`, the rest is cut off, exit 0; on SIGINT the same from the end of
listening on. A second signal skips the waiting. SIGHUP reads the configuration again; SIGUSR2 starts
a new gateway in place of this one.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import uvloop

from contract import logs
from gateway.balance.policies import POLICIES
from gateway.config import Config
from gateway.control.plane import ControlPlane
from gateway.control.processes import ProcessCalls, Processes, UpgradeError
from gateway.control.reload import Apply, Reloader
from gateway.control.security import Security
from gateway.control.tasks import Tasks
from gateway.fleet.registry import SliceRegistry
from gateway.metrics import Counters
from gateway.relay.composed import Composer as RelayComposer
from gateway.sockets import descriptors_for_clients
from gateway.triton.composer import Composer
from gateway.triton.crew import CallTimeouts
from gateway.triton.journal import journal_path
from gateway.workers import takeover
from gateway.workers.alone import Alone
from gateway.workers.data_plane import LINGER_S
from gateway.workers.doors import Doors
from gateway.workers.supervisor import Supervisor
from gateway.workers.takeover import Predecessor

log = structlog.get_logger()

EXIT_OK: Final = 0
EXIT_CANNOT_START: Final = 2


class Front(Processes, Protocol):
    """What serves clients: a data plane in this process, or workers that have one each."""

    draining: bool

    async def start(self, doors: Doors) -> None:
        """Serve at these doors. Raises OSError when that cannot be."""

    def leave(self) -> None:
        """Say from now on that it is not ready, and serve as before."""

    async def stop(self, limit_s: float, linger_s: float = 0.0) -> int:
        """Drain and end; return how many clients were cut off."""

    def cut_off(self) -> None:
        """Close every client connection now."""

    def reconfigure(self, config: Config) -> None:
        """Take over what a reload has changed."""

    def use_composer(self, composer: RelayComposer) -> None:
        """Answer with it what no slice can answer alone; called before `start`."""


def run(config: Config, path: Path, predecessor: Predecessor | None = None) -> int:
    """
    Run the gateway until it is told to stop; return the exit code.

    Args:
        path: Where `config` was read from.
        predecessor: The gateway that this one is to replace.
    """
    logs.configure(config.log.level, config.log.format)
    _raise_descriptor_limit()
    for number in (signal.SIGHUP, signal.SIGUSR2):  # until there is something to reload or replace
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, path, predecessor))


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor, and shells often allow 1,024: take what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_of_few_descriptors(connections: int) -> None:
    """Say so when the system allows a process fewer connections than the configuration does."""
    possible = descriptors_for_clients()
    if possible < connections:
        log.warning(
            "descriptors.few",
            connections=possible,
            configured=connections,
            hint="raise the limit of open files (ulimit -Hn, LimitNOFILE=), or lower limits.connections",
        )


async def _serve(config: Config, path: Path, predecessor: Predecessor | None) -> int:
    gateway = Gateway(config, path)
    try:
        await gateway.start(predecessor)
    except OSError as error:
        print(f"mig-gateway: {error}", file=sys.stderr)  # noqa: T201 - the command's own answer
        await gateway.stop(at_once=True)
        if predecessor is not None:
            predecessor.failed(str(error))
        return EXIT_CANNOT_START
    await gateway.run()
    return EXIT_OK


class Gateway:
    """Both planes, joined."""

    def __init__(self, config: Config, path: Path) -> None:
        """Raises ConfigError when a token or certificate cannot be read."""
        loop = asyncio.get_running_loop()
        self._config = config
        counters = Counters()
        security = Security(config)
        self.registry = SliceRegistry(
            POLICIES[config.balancing.policy], config.health.thresholds(), loop.time,
            config.ejection.values(),
        )  # fmt: skip
        self._control = ControlPlane(config, self.registry, counters, self._not_serving, security)
        self._front: Front
        self._listening = False
        check_soon = self._control.check_soon
        if config.workers == 1:
            self._front = Alone(config, self.registry, counters, check_soon, security.data_tls)
        else:
            self._front = Supervisor(config, self.registry, counters, check_soon)
        triton = config.triton
        self._composer = Composer(
            self.registry,
            journal_path(config.state_file),
            CallTimeouts(triton.call_timeout, triton.load_timeout),
            self._control.check_now,
        )
        self._control.use_composer(self._composer, self._composer.slice_metrics)
        self._front.use_composer(self._composer)
        self._control.serve_processes(ProcessCalls(self._front, self.upgrade))
        targets = [security, *self._control.reload_targets, Apply(self._front.reconfigure)]
        self._reloader = Reloader(path, config, targets, self._control.settle)
        self._control.serve_reloads(self._reloader)
        self._doors: Doors | None = None
        self._tasks = Tasks()
        self._upgrading: asyncio.Task[Any] | None = None
        self._replaced = False
        self._by_service_manager = False
        self._linger_s = 0.0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def start(self, predecessor: Predecessor | None = None) -> None:
        """Start both planes. Raises OSError when a port cannot be had or no worker starts."""
        config = self._config
        admin = predecessor.admin if predecessor else []
        taken_over = predecessor.doors if predecessor else {}
        self._doors = Doors.open(config.listen, config.workers, taken_over)
        self._composer.start()
        await self._control.start(admin=not admin)
        if predecessor is not None:
            await self._control.until_ready(predecessor.slices)
        await self._front.start(self._doors)
        self._listening = True
        if admin:
            await self._control.take_over_admin(admin)
        log.info(
            "gateway.started",
            listen=[str(endpoint) for endpoint in config.listen],
            admin=str(config.admin.listen),
            slices=len(self.registry.slices),
            policy=config.balancing.policy,
            workers=config.workers,
            replaces=predecessor is not None,
        )
        _warn_of_few_descriptors(config.limits.values().connections)
        self._watch_signals()
        if predecessor is not None:
            predecessor.serving()
        takeover.notify_service_manager()

    def _not_serving(self) -> str:
        if not self._listening:
            return "the gateway does not listen to clients yet"
        return "the gateway is shutting down" if self._front.draining else ""

    async def run(self) -> None:
        """Serve until a signal or a successor ends it."""
        await self._stop.wait()
        await self._leave()
        stopping = asyncio.ensure_future(self.stop(at_once=False))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            self._front.cut_off()
        await stopping
        hurry.cancel()

    async def _leave(self) -> None:
        """Let balancers find out that this gateway stops, before it does."""
        if self._upgrading is not None:  # whoever ends us means our successor as well
            self._upgrading.cancel()
        self._linger_s = LINGER_S if self._replaced else 0.0
        if self._replaced or not self._by_service_manager:
            return
        self._linger_s = self._reloader.current.timeouts.values().leave_s
        self._front.leave()
        log.info("gateway.leaving", for_s=self._linger_s)
        try:
            async with asyncio.timeout(self._linger_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def stop(self, *, at_once: bool) -> None:
        """Drain within `timeouts.drain`, or cut everything off at once, then end both planes."""
        limit_s = 0.0 if at_once else self._reloader.current.timeouts.values().drain_s
        workers = self._front.workers()
        log.info(
            "gateway.stopping",
            clients=sum(worker.connections for worker in workers),
            in_flight=sum(worker.in_flight for worker in workers),
        )
        cut = await self._front.stop(limit_s, self._linger_s)
        if self._doors is not None:
            self._doors.close()
        await self._tasks.stop()
        await self._reloader.stop()
        await self._composer.close()
        await self._control.stop()
        log.info("gateway.stopped", cut_off=cut)

    async def upgrade(self, asked_by: str) -> int:
        """
        Start a new gateway in place of this one; return its process id when it serves.

        Raises:
            UpgradeError: It could not be started, and this one goes on; or one is under way.
        """
        if self._upgrading is not None or self._stop.is_set() or self._doors is None:
            raise UpgradeError("it is being replaced or stopped already")
        self._upgrading = asyncio.current_task()
        numbers = self._doors.numbers
        slices = [member.name for member in self.registry.everywhere.members]
        log.info("gateway.upgrade_begun", asked_by=asked_by)
        try:
            pid = await self._control.hand_over(
                lambda admin: takeover.start_successor(numbers, admin, slices)
            )
        except UpgradeError as error:
            log.error("gateway.upgrade_failed", reason=str(error), hint="this gateway goes on")
            raise
        finally:
            self._upgrading = None
        log.info("gateway.upgraded", successor=pid)
        self._replaced = True
        self._stop.set()
        return pid

    async def _upgrade_by_signal(self) -> None:
        try:
            await self.upgrade("SIGUSR2")
        except UpgradeError:
            pass  # logged

    def _told_to_stop(self, number: int) -> None:
        self._by_service_manager |= number == signal.SIGTERM
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.soon)
        loop.add_signal_handler(
            signal.SIGUSR2, lambda: self._tasks.start(self._upgrade_by_signal(), "upgrade")
        )
