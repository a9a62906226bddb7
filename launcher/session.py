"""
One `up` while it holds the state folder: brings everything up, watches it, re-cuts it when asked,
takes everything down.

Checks come first (program, models, layout, ports), so that a mistake costs nothing and changes
nothing. From the first change on, a failure of `up` undoes everything.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from contract.slice_spec import SliceSpec
from launcher import control, keeper, partitioners, recut, reservation
from launcher.config import LauncherConfig
from launcher.docker.threads import in_thread
from launcher.errors import StartError
from launcher.fleet import Fleet
from launcher.gateway_admin import GatewayAdmin
from launcher.gpu_watch import GpuWatch
from launcher.keeper import JobKeeper
from launcher.partition import Device, Division, Partitioner
from launcher.progress import Progress
from launcher.recut import Manner, Recut
from launcher.runtime import ServerSpec
from launcher.runtimes import open_runtime
from launcher.stages import Planned
from launcher.state import State, StateStore
from launcher.stopping import sweep_unknown
from launcher.teardown import remove_inventory, teardown

log = structlog.get_logger()

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_OK: Final = 0
EXIT_INTERRUPTED: Final = 130


class Session:
    """One `up`."""

    def __init__(
        self,
        config: LauncherConfig,
        gpu: str,
        progress: Progress,
        force: bool = False,
        enable_mig: bool = False,
    ) -> None:
        self._config = config
        self._gpu = gpu
        self._progress = progress
        self._force = force
        self._enable_mig = enable_mig
        self._store = StateStore(config.state_dir)
        self._partitioner: Partitioner | None = None
        self._runtime = open_runtime(config.runtime, config)
        self._repository = _repository(config.model_repository)
        self._changed = False  # from then on, failing means undoing
        self._stopping = False
        self._is_up = False
        self._hurry = asyncio.Event()
        self._reshaping = asyncio.Lock()
        self._fleet: Fleet | None = None
        self._keeper = JobKeeper(config, self._runtime, self._store)

    async def run(self, on_up: Callable[[State], None]) -> int:
        """
        Do it all.

        Args:
            on_up: Called once, when everything is ready.

        Returns:
            0 after a signal; 130 when the signal came before everything was ready.
        """
        this_task = asyncio.current_task()
        assert this_task is not None
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number, this_task)
        try:
            # First of all: an address that cannot be had is a mistake that shall cost nothing.
            async with control.serving(
                self._config, self.status, self.reshape, lambda: self._is_up
            ):
                servers = await self._bring_up()
                self._is_up = True
                self._progress.up()
                assert self._store.state is not None
                on_up(self._store.state)
                await self._watch(servers)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            this_task.uncancel()
        finally:
            # A signal that comes from here on only makes haste.
            self._stopping = True
            self._keeper.let_go()
            await self._undo()
        return EXIT_OK if self._is_up else EXIT_INTERRUPTED

    async def _watch(self, servers: Fleet) -> None:
        """See to everything until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(servers.supervise())
            tasks.create_task(self._keeper.keep(lambda: servers.specs))
            tasks.create_task(self._gpu_watch(servers).run())

    def status(self) -> State | None:
        """Return what is up now."""
        return self._store.state

    async def reshape(
        self, config: LauncherConfig, force: bool, drain: bool, progress: Progress
    ) -> None:
        """
        Re-cut while everything runs.

        Args:
            config: As the running one, but for the layout and how the gateway is reached.
            force: See Manner; and destroy others' instances that are in the way.
            drain: Whether the gateway must take slices out before.
            progress: Told what happens.

        Raises:
            LauncherError: It cannot be done, or stopped; asked again, it goes on from there.
        """
        assert self._partitioner is not None
        async with self._reshaping:
            division = self._partitioner.divide(config, self._store.state, force, self._enable_mig)
            progress.step(f"re-cutting {division.into}")
            gateway = GatewayAdmin(config.gateway_admin, config.gateway_token_file)
            manner = Manner(
                gateway if drain else None,
                drain,
                config.drain_timeout_s,
                config.stop_timeout_s,
                force,
            )
            await self._recut().carry_out(division, manner, progress)
            self._config = config
            self._store.change(settings=config.model_dump_json())
            progress.up()

    def _gpu_watch(self, fleet: Fleet) -> GpuWatch:
        assert self._partitioner is not None
        is_cutting = self._reshaping.locked
        return GpuWatch(self._partitioner, fleet, self._store, is_cutting, self._again)

    async def _again(self) -> None:
        """Bring about once more what is wanted; without the gateway, if it does not answer."""
        gateway = GatewayAdmin(self._config.gateway_admin, self._config.gateway_token_file)
        timeouts = (self._config.drain_timeout_s, self._config.stop_timeout_s)
        async with self._reshaping:
            division = self._divide()
            manner = Manner(gateway, False, *timeouts, force=True)
            await self._recut().carry_out(division, manner, self._progress)

    def _on_signal(self, number: signal.Signals, task: "asyncio.Task[object]") -> None:
        log.info("signal.received", signal=number.name)
        if self._stopping:
            self._hurry.set()
        else:
            self._stopping = True
            task.cancel()

    async def _undo(self) -> None:
        try:
            # A cut that has begun comes to its end first; nothing else of a re-cut goes on.
            async with self._reshaping:
                await self._tear_down()
        finally:
            if self._partitioner is not None:
                self._partitioner.close()

    async def _tear_down(self) -> None:
        if self._store.state is not None and self._changed and self._partitioner is not None:
            timeout_s = self._config.stop_timeout_s
            await teardown(self._store, self._partitioner, self._runtime, timeout_s, self._hurry)

    async def _bring_up(self) -> Fleet:
        self._progress.step("checking what is needed")
        await self._runtime.check(self._progress.step)
        await self._keeper.check(self._progress.step)
        _check_repository(self._config.model_repository, self._repository)
        config = self._config
        self._partitioner = partitioners.open_partitioner(self._gpu, config.state_dir)
        earlier = self._store.load()
        wanted = (self._gpu, config.runtime)
        if earlier is not None and (earlier.gpu, earlier.runtime) != wanted:
            await self._leave_other(earlier)
        self._progress.step("planning")
        division = self._divide()
        planned = [member for stage in division.stages for member in stage.coming]
        keeper.assign(config.jobs, planned, {})  # before anything changes
        self._fleet = await self._adopted()
        self._check_ports(division)
        self._progress.step(f"cutting {division.into}")
        self._begun()
        await self._keeper.claim(planned)
        gateway = GatewayAdmin(config.gateway_admin, config.gateway_token_file)
        timeouts = (config.drain_timeout_s, config.stop_timeout_s)
        # Where no gateway runs there is nothing to be drained, and force means others' instances.
        manner = Manner(gateway, False, *timeouts, force=True)
        await self._recut().carry_out(division, manner, self._progress)
        return self._fleet

    def _divide(self) -> Division:
        assert self._partitioner is not None
        # An old driver tells nothing before MIG mode is on.
        self._partitioner.prepare(self._begun, self._enable_mig)
        state, enable = self._store.state, self._enable_mig
        return self._partitioner.divide(self._config, state, self._force, enable)

    def _begun(self) -> StateStore:
        """Write down what is going to be; from here on, failing means undoing."""
        config, earlier = self._config, self._store.state
        path = str(config.inventory_file.absolute())
        self._changed = True
        if earlier is None:
            self._store.begin(State(self._gpu, config.runtime, path))
        elif earlier.inventory != path:
            remove_inventory(earlier)
        self._store.change(
            inventory=path, runtime=config.runtime, settings=config.model_dump_json()
        )
        return self._store

    async def _adopted(self) -> Fleet:
        """
        Return the servers of an earlier launcher that still run; remove what else there is of it:
        what it was just starting, or has failed since.
        """
        earlier = self._store.state
        servers = earlier.servers if earlier else ()
        records = [record for record in servers if self._runtime.find(record.handle)]
        gone = [record.handle.marker for record in servers if record not in records]
        await in_thread(lambda: self._runtime.sweep(gone))
        known = {record.handle.marker for record in records}
        known.update(reservation.markers(self._config.state_dir))
        await sweep_unknown(self._runtime, lambda: known)
        specs = [record.spec for record in records]
        return Fleet(specs, records, self._config, self._runtime, self._store)

    def _recut(self) -> Recut:
        assert self._fleet is not None
        assert self._partitioner is not None
        return Recut(
            self._fleet,
            self._partitioner,
            self._store,
            self._config.inventory_file.absolute(),
            self._spec,
            self._hurry,
        )

    async def _leave_other(self, earlier: State) -> None:
        """Take down what an earlier launcher left on another GPU, or running as something else."""
        self._progress.step(f"taking down what was left on {earlier.gpu} ({earlier.runtime})")
        partitioner = partitioners.open_partitioner(earlier.gpu, self._config.state_dir)
        folder = LauncherConfig(state_dir=self._config.state_dir)
        runtime = open_runtime(earlier.runtime, folder)
        try:
            timeout_s = self._config.stop_timeout_s
            await teardown(self._store, partitioner, runtime, timeout_s, self._hurry)
        finally:
            partitioner.close()

    def _check_ports(self, division: Division) -> None:
        assert self._fleet is not None
        try:
            recut.check_ports(division.stages, self._fleet.specs)
        except StartError as error:
            if not self._fleet.specs or self._changed:
                raise
            raise StartError(
                f"{error} (servers of an earlier start still run: `mig-launcher down` stops them)"
            ) from error

    def _spec(self, member: Planned, device: Device) -> ServerSpec:
        return ServerSpec(
            member=SliceSpec(
                name=member.name,
                http=member.http,
                grpc=member.grpc,
                metrics=member.metrics,
                weight=member.weight,
                mig_uuid=device.mig_uuid,
                profile=member.profile,
                simulated=member.simulated,
                place=member.place,
            ),
            model_repository=self._repository,
            arguments=self._config.triton_args,
            environment=device.environment,
            cpus=self._runtime.cores_near(member.place.gpu) if member.place else "",
            settings=self._runtime.settings,
        )


def _repository(text: str) -> str:
    """Return the absolute path of a model repository; a URL as it is, for Triton to read."""
    return text if "://" in text else str(Path(text).absolute())


def _check_repository(given: str, repository: str) -> None:
    if "://" in repository:
        return
    if not Path(repository).is_dir():
        kind = "is not a folder" if Path(repository).exists() else "does not exist"
        raise StartError(f"model repository {given} {kind}; name one with --model-repository")
