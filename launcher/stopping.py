"""Stopping what launchers have started: servers and jobs on record, and what nobody knows any more."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from launcher import reservation
from launcher.config import LauncherConfig
from launcher.docker.threads import in_thread
from launcher.job_runtimes import JobRuntimes
from launcher.runtime import Handle, Runtime, Server

log = structlog.get_logger()


class Findable(Protocol):
    """What `stop` needs of a runtime."""

    def find(self, handle: Handle) -> Server | None:
        """Return what runs of an earlier start."""

    def sweep(self, markers: Sequence[str]) -> None:
        """Remove what is left of these starts."""


async def stop(
    handles: Sequence[Handle], runtime: Findable, timeout_s: float, hurry: asyncio.Event
) -> None:
    """
    Stop what has these handles, all at once, and remove what it leaves.

    Args:
        handles: As the state file has them; what is gone already is no error.
        runtime: What it runs as.
        timeout_s: From SIGTERM until SIGKILL.
        hurry: Set: SIGKILL at once.
    """
    running = [server for handle in handles if (server := runtime.find(handle))]
    for server in running:
        server.terminate()
    async with asyncio.TaskGroup() as tasks:
        for server in running:
            tasks.create_task(_ended(server, timeout_s, hurry))
    await in_thread(lambda: runtime.sweep([handle.marker for handle in handles]))


async def stop_jobs(folder: Path, timeout_s: float, hurry: asyncio.Event) -> None:
    """
    End the jobs on all slices, as what they run on is going to go.

    Raises:
        StartError: The engine does not answer.
    """
    markers = reservation.markers(folder)
    if markers:
        runtimes = JobRuntimes(LauncherConfig(state_dir=folder))
        await stop([Handle(marker) for marker in markers], runtimes, timeout_s, hurry)
        reservation.forget_all(folder, markers)
        log.info("jobs.ended", jobs=markers)


async def sweep_unknown(runtime: Runtime, known: Callable[[], Collection[str]]) -> None:
    """
    Remove what earlier launchers of this state folder left that is not on record any more.

    Args:
        runtime: What servers run as.
        known: Returns the markers on record. Asked after looking: a marker is on record before
            anything carries it, so what was seen and is not there now is nobody's.

    Raises:
        StartError: The engine does not answer.
    """
    left = await in_thread(runtime.left)
    unknown = sorted(set(left) - set(known()))
    if unknown:
        await in_thread(lambda: runtime.sweep(unknown))
        log.warning("containers.removed", markers=unknown, reason="no launcher knows them")


async def _ended(server: Server, timeout_s: float, hurry: asyncio.Event) -> None:
    async def kill_when_told() -> None:
        await hurry.wait()
        server.kill()

    async with asyncio.TaskGroup() as tasks:
        killer = tasks.create_task(kill_when_told())
        try:
            async with asyncio.timeout(timeout_s):
                await server.wait_ended()
        except TimeoutError:
            log.warning("server.killed", marker=server.handle.marker, after_s=timeout_s)
            server.kill()
            await server.wait_ended()
        killer.cancel()
