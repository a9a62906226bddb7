"""
The jobs of the configuration: each has its slice lent, is started, watched, and started again where that
is wanted; then the slice serves.

A job goes on when its launcher is killed. The next one finds it by what is on record: running, or ended
meanwhile, with its exit code. One that has ended is not run again until `down`.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from launcher.backoff import Backoff
from launcher.config import LauncherConfig
from launcher.docker.threads import in_thread
from launcher.errors import BusyError, LauncherError, StartError
from launcher.gateway_admin import GatewayAdmin
from launcher.job import EXIT_NEVER_RAN, Job, JobServer, new_marker
from launcher.job_runtimes import JobRuntimes
from launcher.job_settings import JobSettings
from launcher.lending import vacate
from launcher.reservation import Reservation
from launcher.runtime import Handle, Runtime, ServerSpec
from launcher.stages import Planned
from launcher.state import JobRecord, StateStore

log = structlog.get_logger()

RETRY_S: Final = 2.0
"""After which a slice is asked for again that could not be had."""


class JobKeeper:
    """All jobs of one launcher's configuration."""

    def __init__(self, config: LauncherConfig, runtime: Runtime, store: StateStore) -> None:
        """
        Args:
            config: Its jobs, and how slices are taken from serving.
            runtime: What servers run as.
            store: Kept true at every change.
        """
        self._config = config
        self._runtime = runtime
        self._store = store
        self._runtimes = JobRuntimes(config)
        self._held: dict[str, Reservation] = {}  # by job

    async def check(self, say: Callable[[str], None]) -> None:
        """Have all images and programs there. Raises StartError."""
        for wanted in self._config.jobs:
            job = made_of(wanted)
            try:
                await in_thread(functools.partial(self._runtimes.check, job, say))
            except StartError as error:
                raise StartError(f"jobs.{wanted.name}: {error}") from error

    async def claim(self, planned: Sequence[Planned]) -> None:
        """
        Give each job its slice, before servers are started there; end jobs that are not wanted.

        Raises:
            StartError: There is no such slice, or not enough of a profile.
        """
        earlier = {record.name: record for record in self._jobs()}
        chosen = assign(self._config.jobs, planned, earlier)
        records = []
        for wanted in self._config.jobs:
            text, before = wanted.model_dump_json(), earlier.pop(wanted.name, None)
            if before is not None and (before.settings, before.slice_name) == (
                text,
                chosen[wanted.name],
            ):
                records.append(before)
                continue
            if before is not None:
                earlier[before.name] = before  # it is another one now
            records.append(self._record(wanted, chosen[wanted.name]))
        gone = [record.handle.marker for record in earlier.values()]
        await in_thread(lambda: self._runtimes.sweep(gone))
        self._store.change(jobs=tuple(records))
        for record in records:
            if record.state != "ended":
                # Where a job that was begun by hand has the slice, its end is waited for.
                with contextlib.suppress(BusyError):
                    await self._hold(record)

    async def keep(self, specs: Callable[[], Mapping[str, ServerSpec]]) -> None:
        """
        See to all jobs, until cancelled.

        Args:
            specs: Returns the servers by slice: what a job's device is known by.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for record in self._jobs():
                    if record.state != "ended":
                        tasks.create_task(self._keep(record, specs))
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Hold no slice any more; which job has it stays written down."""
        for held in self._held.values():
            held.let_go()
        self._held = {}

    async def _keep(self, record: JobRecord, specs: Callable[[], Mapping[str, ServerSpec]]) -> None:
        wanted = next(job for job in self._config.jobs if job.name == record.name)
        restart = self._config.restart
        backoff = Backoff(restart.first_delay_s, restart.max_delay_s, restart.reset_after_s)
        loop = asyncio.get_running_loop()
        server = await self._found(record)
        while True:
            if server is None:
                await self._sweep(record)  # what a killed launcher was just making
                spec = await self._vacant(record, specs)
                record = self._change(record, state="running", handle=self._held_as(record))
                server = await self._start(wanted, record, spec)
                record = self._change(record, handle=server.handle)
            began_s = loop.time()
            log.info("job.running", job=record.name, slice=record.slice_name)
            how = await server.wait_ended()
            code = EXIT_NEVER_RAN if server.refusal() else server.exit_code()
            reason = server.refusal() or how
            log.info("job.ended", job=record.name, slice=record.slice_name, how=reason)
            again = wanted.restart == "always" or (wanted.restart == "on-failure" and code != 0)
            if not again:
                break
            delay_s = backoff.delay_s(loop.time() - began_s)
            record = self._change(
                record, state="restarting", exit_code=code, reason=reason,
                restarts=record.restarts + 1,
            )  # fmt: skip
            await self._sweep(record)
            await asyncio.sleep(delay_s)
            server = None
        record = self._change(record, state="ended", exit_code=code, reason=reason)
        await self._sweep(record)
        self._held.pop(record.name).give_back()

    async def _found(self, record: JobRecord) -> JobServer | None:
        """Return the job of an earlier launcher: it runs, or has left its exit code."""
        while True:
            try:
                return await in_thread(lambda: self._runtimes.find(record.handle))
            except StartError as error:
                log.warning("job.not_seen", job=record.name, reason=str(error))
                await asyncio.sleep(RETRY_S)

    async def _vacant(
        self, record: JobRecord, specs: Callable[[], Mapping[str, ServerSpec]]
    ) -> ServerSpec:
        """Have the slice reserved, and without a server; ask again until that is so."""
        while True:
            try:
                if record.name not in self._held:
                    await self._hold(record)
                spec = specs().get(record.slice_name)
                if spec is None:
                    raise StartError(f"{record.slice_name} was cut away")
                await self._stop_server(record)
                return spec
            except LauncherError as error:
                self._change(record, state="waiting", reason=str(error))
                log.warning("job.waits", job=record.name, reason=str(error))
                # Not reserved meanwhile: a server that dies is to start again.
                if record.name in self._held:
                    self._held.pop(record.name).give_back()
                await asyncio.sleep(RETRY_S)

    async def _stop_server(self, record: JobRecord) -> None:
        assert self._store.state is not None
        for entry in self._store.state.servers:
            if entry.spec.member.name != record.slice_name:
                continue
            if self._runtime.find(entry.handle) is None:
                continue
            config = self._config
            gateway = GatewayAdmin(config.gateway_admin, config.gateway_token_file)
            await vacate(
                entry,
                self._runtime,
                gateway if await gateway.answers() else None,
                config.drain_timeout_s,
                config.stop_timeout_s,
                force=False,
            )

    async def _start(self, wanted: JobSettings, record: JobRecord, spec: ServerSpec) -> JobServer:
        job = replace(made_of(wanted), cpus=spec.cpus, bound=spec.environment)
        marker, path = record.handle.marker, self._log(record.name)
        return await in_thread(lambda: self._runtimes.start(job, spec.member, marker, path))

    def _held_as(self, record: JobRecord) -> Handle:
        """Return a handle that is new for each start, and is written down in the reservation."""
        wanted = JobSettings.model_validate_json(record.settings)
        handle = Handle(new_marker(made_of(wanted), record.slice_name))
        self._held[record.name].carry(handle.marker)
        return handle

    async def _sweep(self, record: JobRecord) -> None:
        while True:
            try:
                await in_thread(lambda: self._runtimes.sweep([record.handle.marker]))
                return
            except StartError as error:
                log.warning("job.not_removed", job=record.name, reason=str(error))
                await asyncio.sleep(RETRY_S)

    async def _hold(self, record: JobRecord) -> None:
        """Reserve a job's slice. Raises BusyError."""
        marker = record.handle.marker
        held = Reservation(self._config.state_dir, record.slice_name, marker)
        self._held[record.name] = held
        if held.left not in ("", marker):  # of a `run` that was killed
            await in_thread(lambda: self._runtimes.sweep([held.left]))

    def _jobs(self) -> tuple[JobRecord, ...]:
        return self._store.state.jobs if self._store.state else ()

    def _change(self, record: JobRecord, **fields: object) -> JobRecord:
        changed = replace(record, **fields)  # type: ignore[arg-type]
        self._store.change(
            jobs=tuple(changed if entry.name == record.name else entry for entry in self._jobs())
        )
        return changed

    def _record(self, wanted: JobSettings, slice_name: str) -> JobRecord:
        handle = Handle(new_marker(made_of(wanted), slice_name))
        return JobRecord(
            wanted.name, slice_name, wanted.model_dump_json(), handle, str(self._log(wanted.name))
        )

    def _log(self, name: str) -> Path:
        return self._config.state_dir.absolute() / "logs" / f"job-{name}.log"


def made_of(wanted: JobSettings) -> Job:
    """Return the job that the operator describes; cores and device are added when they are known."""
    return Job(
        image=wanted.image,
        command=wanted.command,
        environment=tuple(wanted.environment.items()),
        volumes=wanted.volumes,
        ports=wanted.published,
    )


def assign(
    jobs: Sequence[JobSettings], planned: Sequence[Planned], earlier: Mapping[str, JobRecord]
) -> dict[str, str]:
    """
    Return the slice of each job: the one it names, the one it has already, or the last of its profile
    that no other has.

    Raises:
        StartError: There is none.
    """
    profiles = {member.name: member.profile for member in planned}
    there = ", ".join(f"{name} ({profile})" for name, profile in profiles.items())
    chosen: dict[str, str] = {}
    for job in sorted(jobs, key=lambda job: (job.slice is None, job.name not in earlier)):
        if job.slice is not None:
            fitting = [job.slice] if job.slice in profiles else []
        else:
            fitting = [
                name
                for name, profile in profiles.items()
                if job.profile in (profile, profile.partition(".")[0])
            ]
        free = [name for name in fitting if name not in chosen.values()]
        if not free:
            what = job.slice or f"profile {job.profile}"
            why = "is another job's already" if fitting else "is not there"
            raise StartError(f"jobs.{job.name}: {what} {why}; there are {there}")
        had = earlier.get(job.name)
        chosen[job.name] = had.slice_name if had and had.slice_name in free else free[-1]
    return chosen
