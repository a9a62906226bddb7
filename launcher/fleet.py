"""
The servers: started together, watched, started again when they die, stopped together.

A server that dies stays in the inventory: the gateway's health checks take it out of service in
milliseconds and back when it answers, without anyone rewriting a file.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from launcher import reservation, triton_log
from launcher.backoff import Backoff
from launcher.config import LauncherConfig
from launcher.docker.threads import in_thread
from launcher.errors import BusyError, LauncherError, StartError
from launcher.gateway_admin import GatewayAdmin
from launcher.job_runtimes import JobRuntimes
from launcher.progress import Progress
from launcher.ready import is_ready
from launcher.runtime import Handle, Runtime, Server, ServerSpec
from launcher.state import ServerRecord, ServerState, StateStore
from launcher.stopping import stop, sweep_unknown

log = structlog.get_logger()

READY_POLL_S: Final = 0.05
LOG_POLL_TURNS: Final = 10
"""A server's log is looked at once in this many polls."""
LOG_TAIL_BYTES: Final = 64 * 1024
LENT_POLL_S: Final = 0.2
LEFT_BEHIND_POLL_S: Final = 2.0


@dataclass(slots=True, eq=False)
class Member:
    """One slice's server over its starts."""

    spec: ServerSpec
    log: Path
    backoff: Backoff
    handle: Handle
    server: Server | None = None
    state: ServerState = "starting"
    restarts: int = 0
    ready_since_s: float = 0.0
    reason: str = ""
    warning: str = ""
    ended_for: str = ""

    @property
    def name(self) -> str:
        """The slice's."""
        return self.spec.member.name

    @property
    def order(self) -> tuple[int, str]:
        """Slices stand in order of their ports."""
        return self.spec.member.http.port, self.name

    def record(self) -> ServerRecord:
        """Return what the state file remembers."""
        return ServerRecord(
            self.spec,
            self.handle,
            str(self.log),
            self.state,
            self.restarts,
            self.reason,
            self.warning,
        )


class Fleet:
    """All servers of one launcher."""

    def __init__(
        self,
        specs: Sequence[ServerSpec],
        adopted: Sequence[ServerRecord],
        config: LauncherConfig,
        runtime: Runtime,
        store: StateStore,
    ) -> None:
        """
        Args:
            specs: One for each slice, in their order.
            adopted: Records whose server runs, with a spec among `specs`.
            config: Timeouts and back-off.
            runtime: Starts servers; `check` has passed.
            store: Kept true at every change.
        """
        self._config = config
        self._runtime = runtime
        self._store = store
        by_spec = {record.spec: record for record in adopted}
        self.members = [self._member(spec, by_spec.get(spec)) for spec in specs]
        self._tasks: asyncio.TaskGroup | None = None
        self._watched: dict[str, asyncio.Task[None]] = {}

    async def start(self, progress: Progress) -> None:
        """
        Start all servers at once and wait until each is ready.

        Raises:
            StartError: The first that failed, and why; the others may still run.
        """
        await self._start(self.members, progress)

    async def add(self, specs: Sequence[ServerSpec], progress: Progress) -> None:
        """
        Start more servers and wait until each is ready; they are supervised as the others are.

        Raises:
            StartError: The first that failed, and why; none of them is left then. The same when
                it is cancelled.
        """
        added = [self._member(spec, None) for spec in specs]
        self.members = sorted([*self.members, *added], key=lambda member: member.order)
        try:
            await self._start(added, progress)
        except BaseException:
            names = frozenset(member.name for member in added)
            await self.remove(names, 0.0, asyncio.Event())
            raise
        for member in added:
            self._watch(member)

    async def confirm(self, names: frozenset[str], progress: Progress) -> None:
        """
        Wait until servers that were adopted are ready.

        Raises:
            StartError: The first that is not, and why.
        """
        waiting = [m for m in self.members if m.name in names and m.state == "starting"]
        if waiting:
            await self._start(waiting, progress)

    async def remove(
        self, names: frozenset[str], stop_timeout_s: float, hurry: asyncio.Event
    ) -> None:
        """Stop servers for good."""
        going = [member for member in self.members if member.name in names]
        for name in names & self._watched.keys():
            self._watched.pop(name).cancel()
        await stop([member.handle for member in going], self._runtime, stop_timeout_s, hurry)
        self.members = [member for member in self.members if member not in going]
        self.save()

    async def supervise(self) -> None:
        """Start again whatever dies, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for member in self.members:
                self._watch(member)
            try:
                await self._tidy_all()  # members may come and go: cancellation ends it
            finally:
                self._tasks, self._watched = None, {}

    @property
    def specs(self) -> dict[str, ServerSpec]:
        """What runs for each slice, by name."""
        return {member.name: member.spec for member in self.members}

    async def _start(self, members: Sequence[Member], progress: Progress) -> None:
        started_s = asyncio.get_running_loop().time()
        self.save()  # the markers, before anything carries one
        # A job goes on when its launcher does not; its slice's server starts once it has ended.
        starting = [member for member in members if not self._is_lent(member)]
        if starting:
            progress.starting([member.name for member in starting])
        for member in members:
            if member not in starting:
                member.state = "lent"
            elif member.server is None:
                self._spawn(member)
        self.save()  # the processes
        try:
            async with asyncio.TaskGroup() as tasks:
                for member in starting:
                    tasks.create_task(self._until_ready(member, progress, started_s))
        except* StartError as failures:
            raise failures.exceptions[0] from None

    def _watch(self, member: Member) -> None:
        if self._tasks is not None:
            self._watched[member.name] = self._tasks.create_task(self._keep(member))

    def save(self) -> None:
        """Write what is true now into the state file."""
        self._store.change(servers=tuple(member.record() for member in self.members))

    def _member(self, spec: ServerSpec, adopted: ServerRecord | None) -> Member:
        restart = self._config.restart
        name = spec.member.name
        member = Member(
            spec=spec,
            log=self._config.state_dir.absolute() / "logs" / f"{name}.log",
            backoff=Backoff(restart.first_delay_s, restart.max_delay_s, restart.reset_after_s),
            handle=_new_handle(name),
        )
        server = self._runtime.find(adopted.handle) if adopted else None
        if adopted and server:
            member.handle, member.server = server.handle, server
            member.restarts, member.reason = adopted.restarts, adopted.reason
            member.warning = adopted.warning
            process = server.handle.process
            log.info("server.adopted", slice=name, pid=process.pid if process else None)
        return member

    def _spawn(self, member: Member) -> None:
        member.server = self._runtime.start(member.spec, member.handle.marker, member.log)
        member.handle = member.server.handle
        process = member.handle.process
        log.debug("server.started", slice=member.name, pid=process.pid if process else None)

    async def _until_ready(self, member: Member, progress: Progress, started_s: float) -> None:
        await self._wait_ready(member)
        now_s = asyncio.get_running_loop().time()
        self._mark_ready(member, now_s)
        progress.ready(member.name, now_s - started_s)

    async def _wait_ready(self, member: Member) -> None:
        """Wait until the server is ready. Raises StartError: it ended, or time is up."""
        server = member.server
        assert server is not None
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._config.ready_timeout_s
        turn = 0
        while True:
            # Ended is asked last before success: another program's answer on the port is none.
            ready = await is_ready(member.spec.member.http)
            if server.has_ended():
                how = await server.wait_ended()
                raise StartError(self._why(member, f"{triton_log.explain(_tail(member.log))}", how))
            if ready:
                return
            turn += 1
            hopeless = (
                triton_log.hopeless(_tail(member.log)) if turn % LOG_POLL_TURNS == 0 else None
            )
            if hopeless:
                raise StartError(self._why(member, hopeless, "it hangs"))
            if loop.time() > deadline_s:
                limit = f"not ready within {self._config.ready_timeout_s:g} s"
                raise StartError(self._why(member, limit, "it runs"))
            await asyncio.sleep(READY_POLL_S)

    def _mark_ready(self, member: Member, now_s: float) -> None:
        member.state, member.ready_since_s = "ready", now_s
        self.save()
        spec = member.spec.member
        log.info(
            "server.ready",
            slice=member.name,
            profile=spec.profile,
            mig_uuid=spec.mig_uuid,
            simulated=spec.simulated,
            http=str(spec.http),
        )

    async def _keep(self, member: Member) -> None:
        loop = asyncio.get_running_loop()
        if member.server is None:
            await self._restart(member, 0.0)
        while True:
            assert member.server is not None
            how = await member.server.wait_ended()
            if self._is_lent(member):
                await self._restart(member, 0.0)
                continue
            ready_for_s = loop.time() - member.ready_since_s
            delay_s = member.backoff.delay_s(ready_for_s)
            if member.ended_for:
                how, member.ended_for = f"ended by the launcher, {member.ended_for}", ""
            member.reason = f"it ended after {ready_for_s:.0f} s: {how}"
            log.warning(
                "server.died",
                slice=member.name,
                how=how,
                ready_for_s=round(ready_for_s, 1),
                restart_in_s=delay_s,
            )
            await self._restart(member, delay_s)

    async def _restart(self, member: Member, delay_s: float) -> None:
        """Start a server until it is ready again, however often that takes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._sweep(member.handle.marker)
            # A new marker: shared memory of the dead and the living must not meet.
            member.handle, member.server = _new_handle(member.name), None
            lent = self._is_lent(member)
            member.state = "lent" if lent else "restarting"
            if not lent:
                member.restarts += 1
            self.save()
            await asyncio.sleep(delay_s)
            await self._while_lent(member)
            try:
                self._spawn(member)
                self.save()
                await self._wait_ready(member)
            except StartError as error:
                await self._end(member)
                delay_s = member.backoff.delay_s(0.0)
                member.reason = str(error)
                log.error(
                    "server.not_restarted",
                    slice=member.name,
                    reason=str(error),
                    restart_in_s=delay_s,
                )
                continue
            self._mark_ready(member, loop.time())
            log.info("server.restarted", slice=member.name, restarts=member.restarts)
            return

    def warn(self, names: frozenset[str], warning: str) -> None:
        """Note what a GPU has told about slices, for as long as their servers are ours."""
        for member in self.members:
            if member.name in names:
                member.warning = warning
        self.save()

    def restart(self, names: frozenset[str], why: str) -> frozenset[str]:
        """
        End the servers of slices at once, so that they are started again; return of which slices.

        Those that are not ready are left: what ended them is told about several times, and the next
        server must not be ended for it.
        """
        ready = [m for m in self.members if m.name in names and m.state == "ready" and m.server]
        going = [m for m in ready if not m.ended_for]
        for member in going:
            assert member.server is not None
            # Not asked: it would answer those who wait with errors, where cut off they are
            # taken to other slices.
            member.ended_for = why
            member.server.kill()
        return frozenset(member.name for member in going)

    async def _sweep(self, marker: str) -> None:
        """Remove what a start left, as soon as that can be done: the engine may be away."""
        while True:
            try:
                await in_thread(lambda: self._runtime.sweep([marker]))
                return
            except StartError as error:
                log.warning("server.not_removed", marker=marker, reason=str(error))
                await asyncio.sleep(self._config.restart.max_delay_s)

    def refuse_lent(self, names: frozenset[str]) -> None:
        """Raise BusyError if a job has one of these slices."""
        lent = sorted(m.name for m in self.members if m.name in names and self._is_lent(m))
        if lent:
            raise BusyError(
                f"{', '.join(lent)} runs a job, which a re-cut would end: run this again when it "
                "has ended"
            )

    def _is_lent(self, member: Member) -> bool:
        return reservation.is_held(self._config.state_dir, member.name)

    async def _while_lent(self, member: Member) -> None:
        """Wait while a job has the slice."""
        if not self._is_lent(member):
            return
        member.state = "lent"
        self.save()
        log.info("slice.lent", slice=member.name)
        while self._is_lent(member):  # noqa: ASYNC110 - a lock of another process tells nobody
            await asyncio.sleep(LENT_POLL_S)
        await self._tidy(member)
        log.info("slice.returned", slice=member.name)

    async def _tidy_all(self) -> None:
        """Clean up after jobs and launchers that were killed, until cancelled."""
        while True:
            for member in self.members:
                await self._tidy(member)
            try:
                await sweep_unknown(self._runtime, self._markers)
            except LauncherError as error:
                log.warning("containers.not_seen", reason=str(error))
            await asyncio.sleep(LEFT_BEHIND_POLL_S)

    def _markers(self) -> set[str]:
        """Return the markers of all that is meant to be there."""
        lent = reservation.markers(self._config.state_dir)
        return {*lent, *(member.handle.marker for member in self.members)}

    async def _tidy(self, member: Member) -> None:
        """Remove the container of a job that was killed, and let the gateway have the slice."""
        folder, name = self._config.state_dir, member.name
        left = reservation.left_behind(folder, name)
        if not left:
            return
        gateway = GatewayAdmin(self._config.gateway_admin, self._config.gateway_token_file)
        try:
            await in_thread(lambda: JobRuntimes(self._config).sweep([left]))
            if await gateway.answers():
                await gateway.enable(name)
        except LauncherError as error:
            log.warning("job.not_removed", slice=name, job=left, reason=str(error))
            return
        reservation.forget(folder, name, left)
        log.info("job.removed", slice=name, job=left)

    async def _end(self, member: Member) -> None:
        if member.server is not None and not member.server.has_ended():
            member.server.kill()
            await member.server.wait_ended()

    def _why(self, member: Member, reason: str, how: str) -> str:
        return f"{member.name} did not start: {reason} ({how}; its log is {member.log})"


def _new_handle(name: str) -> Handle:
    return Handle(f"mig-{name}-{secrets.token_hex(6)}_")


def _tail(path: Path) -> str:
    """Return the last LOG_TAIL_BYTES of a log; empty when there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
