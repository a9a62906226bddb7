"""What the admin API sees of the gateway's processes, and its two calls about them."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import psutil
from aiohttp import web

from gateway.control.exposition import ProcessFigures
from gateway.control.gate import answered, refused
from gateway.fleet.queue_report import QueueReport

STARTING: Final = "starting"
SERVING: Final = "serving"
LEAVING: Final = "leaving"
AWAY: Final = "away"


@dataclass(frozen=True, slots=True)
class Worker:
    """
    One process that serves clients.

    Attributes:
        index: 0 and up; a worker that replaces another has its index.
        pid: The process; 0 while there is none.
        state: STARTING, SERVING, LEAVING or AWAY.
        connections: Open client connections.
        in_flight: Requests given to slices and not yet answered.
        restarts: How often it has been replaced.
    """

    index: int
    pid: int
    state: str
    connections: int
    in_flight: int
    restarts: int


class Processes(Protocol):
    """The data planes of one gateway, wherever they run."""

    async def sync(self) -> None:
        """
        Return when every data plane has carried out what was published, and told its totals.

        One that does not answer is waited for only briefly.
        """

    def workers(self) -> list[Worker]:
        """Return what is known of each."""

    def queues(self) -> QueueReport:
        """Return what the lines of all hold, and what they have done."""


class UpgradeError(Exception):
    """The gateway could not be replaced and goes on; the message says why."""


@dataclass(frozen=True, slots=True)
class ProcessCalls:
    """
    `GET /v1/workers` and `POST /v1/upgrade`.

    Args:
        upgrade: Starts a new gateway in place of this one, and returns its process id when it
            serves. Raises UpgradeError.
    """

    processes: Processes
    upgrade: Callable[[str], Awaitable[int]]

    def routes(self, caller: Callable[[web.Request], object]) -> list[web.RouteDef]:
        """Return the two calls; `caller` says who makes one."""

        async def post_upgrade(request: web.Request) -> web.Response:
            try:
                pid = await self.upgrade(str(caller(request)))
            except UpgradeError as error:
                return refused(409, f"this gateway goes on: {error}")
            return answered({"pid": pid})

        return [web.get("/v1/workers", self._get_workers), web.post("/v1/upgrade", post_upgrade)]

    async def sync(self) -> None:
        """See Processes.sync."""
        await self.processes.sync()

    @web.middleware
    async def current(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Answer with what the data planes know now."""
        await self.processes.sync()
        return await handler(request)

    async def _get_workers(self, request: web.Request) -> web.Response:
        views = [workers_view(worker) for worker in self.processes.workers()]
        return answered({"pid": os.getpid(), "workers": views})


def workers_view(worker: Worker) -> dict[str, Any]:
    """Return what users are told of one worker."""
    return {
        "index": worker.index,
        "pid": worker.pid,
        "state": worker.state,
        "connections": worker.connections,
        "in_flight": worker.in_flight,
        "restarts": worker.restarts,
    }


def figures(main: psutil.Process, calls: ProcessCalls | None, uptime_s: float) -> ProcessFigures:
    """Return the figures of all processes together; what ended workers used is counted."""
    with main.oneshot():
        times = main.cpu_times()
        cpu_s = times.user + times.system
        rss_bytes, open_fds = main.memory_info().rss, main.num_fds()
    workers = calls.processes.workers() if calls else []
    others = {worker.pid for worker in workers} - {0, main.pid}
    if len(workers) > 1:
        cpu_s += times.children_user + times.children_system
    for pid in others:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                cpu_s += times.user + times.system
                rss_bytes += process.memory_info().rss
                open_fds += process.num_fds()
        except psutil.Error:
            continue  # it has just ended
    serving = sum(worker.state == SERVING for worker in workers)
    restarts = sum(worker.restarts for worker in workers)
    return ProcessFigures(cpu_s, rss_bytes, open_fds, uptime_s, serving, restarts)
