"""
`up`: from a GPU as it is to servers that run, and back when told to stop.

Checks come first (program, models, layout, ports), so that a mistake costs nothing and changes
nothing. From the first change on, any failure undoes everything.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from contract import inventory
from contract.slice_spec import Place, SliceSpec
from launcher import apply, drivers, plan, ports, state
from launcher.config import LauncherConfig
from launcher.errors import StartError
from launcher.fleet import Fleet, stop
from launcher.mig import Gpu
from launcher.plan import Plan, PlannedSlice
from launcher.progress import Progress
from launcher.runtime import ServerSpec
from launcher.runtimes import open_runtime
from launcher.state import ServerRecord, State, StateStore
from launcher.teardown import remove_inventory, teardown

log = structlog.get_logger()

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_OK: Final = 0
EXIT_INTERRUPTED: Final = 130


async def up(
    config: LauncherConfig, progress: Progress, force: bool, on_up: Callable[[State], None]
) -> int:
    """
    Bring everything up, supervise it until a signal, take everything down.

    Args:
        config: What is wanted.
        progress: Told what happens until everything is ready.
        force: Destroy others' GPU instances where they are in the way.
        on_up: Called once, when everything is ready.

    Returns:
        0 after a signal; 130 when the signal came before everything was ready.

    Raises:
        LauncherError: It cannot be done; nothing of what this call began is left.
    """
    gpu = drivers.resolve(config.gpu)
    with state.hold(config.state_dir, "up"):
        return await Session(config, gpu, progress, force).run(on_up)


class Session:
    """One `up` while it holds the state folder."""

    def __init__(self, config: LauncherConfig, gpu: str, progress: Progress, force: bool) -> None:
        self._config = config
        self._gpu = gpu
        self._progress = progress
        self._force = force
        self._store = StateStore(config.state_dir)
        self._driver = drivers.open_driver(gpu, config.state_dir)
        self._runtime = open_runtime(config.runtime, config.tritonserver)
        self._repository = _repository(config.model_repository)
        self._changed = False  # from then on, failing means undoing
        self._stopping = False
        self._hurry = asyncio.Event()

    async def run(self, on_up: Callable[[State], None]) -> int:
        """Do it all; see `up`."""
        this_task = asyncio.current_task()
        assert this_task is not None
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number, this_task)
        is_up = False
        try:
            fleet = await self._bring_up()
            is_up = True
            self._progress.up()
            assert self._store.state is not None
            on_up(self._store.state)
            await fleet.supervise()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            this_task.uncancel()
        finally:
            # A signal that comes from here on only makes haste.
            self._stopping = True
            await self._undo()
        return EXIT_OK if is_up else EXIT_INTERRUPTED

    def _on_signal(self, number: signal.Signals, task: "asyncio.Task[object]") -> None:
        log.info("signal.received", signal=number.name)
        if self._stopping:
            self._hurry.set()
        else:
            self._stopping = True
            task.cancel()

    async def _undo(self) -> None:
        if self._store.state is None or not self._changed:
            return
        driver, runtime = self._driver, self._runtime
        await teardown(self._store, driver, runtime, self._config.stop_timeout_s, self._hurry)

    async def _bring_up(self) -> Fleet:
        self._progress.step("checking what is needed")
        self._runtime.check()
        _check_repository(self._config.model_repository, self._repository)
        await self._leave_other_gpu()
        self._progress.step("planning")
        facts = apply.read_facts(self._driver)
        owned = apply.find_owned(self._store.state, facts)
        config = self._config
        wanted = plan.make(facts, config.layout, config.host, config.port_base, owned, self._force)
        kept = await self._stop_all_but(self._specs(wanted, self._known_devices(wanted)))
        keeping = {record.spec.member.name for record in kept}
        missing = [member for member in wanted.slices if member.name not in keeping]
        self._check_ports(wanted.gpu, missing)
        devices = self._cut(wanted)
        specs = self._specs(wanted, devices)
        kept = await self._stop_all_but(specs)
        fleet = Fleet(specs, kept, config, self._runtime, self._store)
        await fleet.start(self._progress)
        inventory.save(config.inventory_file.absolute(), [spec.member for spec in specs])
        log.info("inventory.written", path=str(config.inventory_file), slices=len(specs))
        return fleet

    async def _leave_other_gpu(self) -> None:
        """Load what an earlier launcher left; take it down if it was on another GPU."""
        earlier = self._store.load()
        if earlier is None or earlier.gpu == self._gpu:
            return
        self._progress.step(f"taking down what was left on {earlier.gpu}")
        driver = drivers.open_driver(earlier.gpu, self._config.state_dir)
        runtime = open_runtime(earlier.runtime)
        await teardown(self._store, driver, runtime, self._config.stop_timeout_s, self._hurry)

    def _check_ports(self, gpu: Gpu, members: Sequence[PlannedSlice]) -> None:
        try:
            ports.check_free(_slice_spec(member, "", gpu) for member in members)
        except StartError as error:
            if self._store.state is None or self._changed:
                raise
            raise StartError(
                f"{error} (servers of an earlier start still run: `mig-launcher down` stops them)"
            ) from error

    def _cut(self, wanted: Plan) -> dict[str, str]:
        counts = Counter(member.profile.name for member in wanted.slices)
        into = ", ".join(f"{count} x {name}" for name, count in counts.items())
        self._progress.step(f"cutting {wanted.gpu.name} into {into}")
        path = str(self._config.inventory_file.absolute())
        self._changed = True
        if self._store.state is None:
            self._store.begin(State(self._gpu, self._config.runtime, path))
        else:
            if wanted.create or wanted.destroy or self._store.state.inventory != path:
                remove_inventory(self._store.state)
            self._store.change(inventory=path, runtime=self._config.runtime)
        return apply.cut(self._driver, wanted, self._store)

    async def _stop_all_but(self, specs: Sequence[ServerSpec]) -> tuple[ServerRecord, ...]:
        """Stop servers on record that are not wanted any more; return those that are, and run."""
        earlier = self._store.state
        if earlier is None:
            return ()
        kept = tuple(
            record
            for record in earlier.servers
            if record.spec in specs and self._runtime.find(record.handle)
        )
        others = [record for record in earlier.servers if record not in kept]
        if others:
            self._changed = self._changed or any(self._runtime.find(r.handle) for r in others)
            await stop(others, self._runtime, self._config.stop_timeout_s, self._hurry)
        return kept

    def _known_devices(self, wanted: Plan) -> dict[str, str]:
        """Return the UUIDs of slices that exist already, as far as they are on record."""
        records = self._store.state.instances if self._store.state else ()
        uuid_of = {record.gpu_instance_id: record.mig_uuid for record in records}
        kept = ((member.name, member.keep) for member in wanted.slices)
        return {name: uuid_of.get(instance.id, "") for name, instance in kept if instance}

    def _specs(self, wanted: Plan, devices: dict[str, str]) -> list[ServerSpec]:
        return [
            ServerSpec(
                member=_slice_spec(member, devices[member.name], wanted.gpu),
                model_repository=self._repository,
                arguments=self._config.triton_args,
            )
            for member in wanted.slices
            if member.name in devices
        ]


def plan_only(config: LauncherConfig, force: bool) -> Plan:
    """Return what `up` would do now; changes nothing. Raises LauncherError."""
    gpu = drivers.resolve(config.gpu)
    driver = drivers.open_driver(gpu, config.state_dir)
    facts = apply.read_facts(driver)
    earlier = StateStore(config.state_dir).load()
    owned = apply.find_owned(earlier if earlier and earlier.gpu == gpu else None, facts)
    return plan.make(facts, config.layout, config.host, config.port_base, owned, force)


def _slice_spec(member: PlannedSlice, mig_uuid: str, gpu: Gpu) -> SliceSpec:
    return SliceSpec(
        name=member.name,
        http=member.http,
        grpc=member.grpc,
        metrics=member.metrics,
        weight=member.weight,
        mig_uuid=mig_uuid,
        profile=member.profile.name,
        simulated=gpu.simulated,
        place=Place(
            gpu.uuid,
            gpu.name,
            member.placement.start,
            member.placement.size,
            gpu.memory_slices,
        ),
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
