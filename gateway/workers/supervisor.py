"""
Supervisor: keeps the worker processes running, tells them of the fleet and adds up what they tell.

A worker that ends, for whatever reason, is replaced at once, and with a pause that grows while its
successors end as well. Meanwhile another accepts at its door, so that no client waits for it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog

from gateway.config import Config
from gateway.control.processes import AWAY, SERVING, Worker
from gateway.control.tasks import Tasks
from gateway.fleet import queue_report
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.relay.composed import Composer
from gateway.workers import totals
from gateway.workers.board import Board
from gateway.workers.composing import Desk
from gateway.workers.doors import Doors, divided_among, flat
from gateway.workers.lanes import LaneKeeper
from gateway.workers.mirror import document, moods
from gateway.workers.process import Process, spawn
from gateway.workers.table import Columns
from gateway.workers.turns import Tables

log = structlog.get_logger()

START_S: Final = 30.0
"""For a worker to be ready; one that is not is ended and replaced."""
SYNC_S: Final = 0.5
MOODS_S: Final = 0.05
"""What changes a weight only is told at most so often."""
PAUSE_S_MAX: Final = 10.0
WELL_S: Final = 30.0
"""A worker that ran for so long was well: the next one is started without a pause."""
KILL_S: Final = 3.0
"""After the time for draining, before a worker that still runs is killed."""


class WorkersError(OSError):
    """No worker could be started; the message says why."""


class Supervisor:
    """
    The front of a gateway with several workers.

    Args:
        check_soon: Checks a slice now; a worker has met a connection that failed.
    """

    def __init__(
        self,
        config: Config,
        registry: SliceRegistry,
        counters: Counters,
        check_soon: Callable[[Slice], None],
    ) -> None:
        self.draining = False
        self._config = config
        self._registry = registry
        self._counters = counters
        self._check_soon = check_soon
        self._loop = asyncio.get_running_loop()
        self._count = config.workers
        self._tables = Tables(self._count)
        self._table = self._tables.slices
        self._lanes = LaneKeeper(self._tables, registry.queues)
        registry.queues.configure(config.queue.values())
        self._board = Board(self._count)
        self._columns = Columns()
        self._doors = Doors({})
        self._tasks = Tasks()
        self._running: dict[int, Process] = {}
        self._restarts = [0] * self._count
        self._pauses: list[asyncio.Event] = []
        self._fleet_due = False
        self._moods_due = False
        self._told_moods: dict[str, Any] = {}
        self._syncs = 0
        self._past_queues: list[queue_report.QueueReport] = []  # of workers that have ended
        self._cut = 0
        self._composer: Composer | None = None
        self._desks: dict[Process, Desk] = {}

    def use_composer(self, composer: Composer) -> None:
        """Answer the workers' composed calls with it; call it before `start`."""
        self._composer = composer

    # --- start and stop -----------------------------------------------------------------------

    async def start(self, doors: Doors) -> None:
        """
        Start all workers and return when they accept.

        Raises:
            WorkersError: One of them could not be started; nothing is left running.
        """
        self._doors = doors
        self._registry.on_publish.append(self._publish)
        first = [self._loop.create_future() for _ in range(self._count)]
        for index, ready in enumerate(first):
            self._tasks.start(self._keep(index, ready), f"worker {index}")
        done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_EXCEPTION)
        for future in first:
            future.cancel()
        for future in done:
            if not future.cancelled() and future.exception() is not None:
                self.cut_off()
                await self._end()
                raise WorkersError(str(future.exception()))

    def leave(self) -> None:
        """Let all workers say from now on that they are not ready, and serve as before."""
        self.draining = True
        for process in self._running.values():
            process.channel.send({"do": "leave"})

    async def stop(self, limit_s: float, linger_s: float = 0.0) -> int:
        """Drain all workers, end them, and return how many clients were cut off."""
        self.draining = True
        self._doors.close()
        for pause in self._pauses:
            pause.set()
        for process in self._running.values():
            process.stop(limit_s, linger_s)
        ends = [asyncio.ensure_future(p.ended.wait()) for p in self._running.values()]
        if ends:
            await asyncio.wait(ends, timeout=limit_s + KILL_S)
        for end in ends:
            end.cancel()
        await self._end()
        return self._cut

    def cut_off(self) -> None:
        """Let the workers close every client connection now."""
        self.draining = True
        for process in self._running.values():
            process.channel.send({"do": "cut_off"})

    def reconfigure(self, config: Config) -> None:
        """Take over what a reload has changed."""
        self._config = config
        self._registry.queues.configure(config.queue.values())
        self._fleet_due = True
        self._tell_fleet()  # a line needs the columns that it is told of there
        for process in self._serving():
            process.channel.send({"do": "config", **self._config_text()})

    async def _end(self) -> None:
        self.draining = True
        for process in list(self._running.values()):
            process.kill()
        for pause in self._pauses:
            pause.set()
        ends = [asyncio.ensure_future(p.ended.wait()) for p in self._running.values()]
        if ends:
            await asyncio.wait(ends, timeout=KILL_S)
        await self._tasks.stop()
        with contextlib.suppress(ValueError):
            self._registry.on_publish.remove(self._publish)
        self._tables.close()
        self._board.close()

    # --- one worker after the other -----------------------------------------------------------

    async def _keep(self, index: int, first: "asyncio.Future[None]") -> None:
        """Keep a worker with this index running until all are to stop."""
        pause_s = 0.0
        while not self.draining:
            began_s = self._loop.time()
            try:
                process = await self._spawn(index)
            except OSError as error:
                why = f"cannot be started: {error.strerror or error}"
            else:
                await self._attend(process, first)
                why = process.why
            if not first.done():
                first.set_exception(WorkersError(f"worker {index} {why}; see its lines above"))
                return
            if self.draining:
                return
            self._restarts[index] += 1
            if self._loop.time() - began_s > WELL_S:
                pause_s = 0.0
            log.error("worker.ended", index=index, reason=why, pause_s=pause_s)
            await self._pause(pause_s)
            pause_s = min(max(2 * pause_s, 0.5), PAUSE_S_MAX)

    async def _spawn(self, index: int) -> Process:
        doors = self._doors.numbers
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        process = Process(index, self._said, self._divide, self._silent)
        try:
            with theirs:
                inherited = [
                    theirs.fileno(), self._table.number, self._board.number, *flat(doors)
                ]  # fmt: skip
                await process.start(ours, await spawn(theirs.fileno(), inherited))
        except BaseException:
            ours.close()
            raise
        self._running[index] = process
        if self._composer is not None:
            self._desks[process] = Desk(self._composer, process.channel.send)
        process.channel.send(
            {
                "do": "start", "index": index, "workers": self._count,
                "table": self._table.number, "board": self._board.number, "doors": doors, "fleet": self._document(),
                **self._config_text(),
            }
        )  # fmt: skip
        process.expect(START_S)
        return process

    async def _attend(self, process: Process, first: "asyncio.Future[None]") -> None:
        """Wait until the process has ended, and clear up behind it."""
        process.on_ready = lambda: None if first.done() else first.set_result(None)
        await process.wait()
        if self._running.get(process.index) is process:
            del self._running[process.index]
        if process in self._desks:
            await self._desks.pop(process).close()
        self._tables.clear(process.index)
        totals.add(process.gauges.settle(), self._counters, self._registry.slices)
        if process.queues is not None:
            past = [*self._past_queues, queue_report.at_rest(process.queues)]
            self._past_queues = [queue_report.merged(past)]
        self._cut += process.cut_off
        self._divide()
        self._refresh()

    async def _pause(self, seconds: float) -> None:
        stopped = asyncio.Event()
        self._pauses.append(stopped)
        try:
            async with asyncio.timeout(seconds):
                await stopped.wait()
        except TimeoutError:
            pass
        finally:
            self._pauses.remove(stopped)

    def _silent(self, process: Process) -> None:
        """The worker has said nothing for too long."""
        log.error("worker.hung", index=process.index, pid=process.pid)
        process.kill()

    def _divide(self) -> None:
        """
        Let those that serve accept at all doors.

        One that has fallen silent keeps its own, in case it is only slow, and others accept there too.
        """
        if self.draining:
            return
        all_serving = {process.index: process for process in self._serving()}
        serving = {index: p for index, p in all_serving.items() if not p.is_quiet} or all_serving
        for index, doors in divided_among(sorted(serving), self._doors.count).items():
            serving[index].accept(doors)

    def _serving(self) -> list[Process]:
        return [process for process in self._running.values() if process.state == SERVING]

    # --- what workers are told ----------------------------------------------------------------

    def _publish(self) -> None:
        if not self._fleet_due:
            self._fleet_due = True
            self._loop.call_soon(self._tell_fleet)

    def _tell_fleet(self) -> None:
        if not self._fleet_due:
            return
        self._fleet_due = False
        told = self._document()
        self._told_moods = told["moods"]
        for process in self._running.values():
            process.channel.send({"do": "fleet", "fleet": told})

    def _moods_changed(self) -> None:
        if not self._moods_due:
            self._moods_due = True
            self._loop.call_later(MOODS_S, self._tell_moods)

    def _tell_moods(self) -> None:
        self._moods_due = False
        told = moods(self._registry)
        if told != self._told_moods:
            self._told_moods = told
            for process in self._running.values():
                process.channel.send({"do": "moods", "moods": told})

    def _document(self) -> dict[str, Any]:
        return document(self._registry, self._places(), self._lanes.document())

    def _places(self) -> dict[str, int]:
        """Return the columns of all slices; `sums` of the table includes them."""
        slices = self._registry.slices
        places = {}
        for name in slices:
            column = self._columns.of(name, slices, self._table.total)
            assert column is not None, "more slices than the configuration allows"
            places[name] = column
        self._table.widen(max(places.values(), default=0) + 1)
        return places

    def _config_text(self) -> dict[str, str]:
        return {"config": self._config.text, "source": "configuration of the main process"}

    # --- what workers say ---------------------------------------------------------------------

    def _said(self, process: Process, message: dict[str, Any]) -> None:
        match message["said"]:
            case "events":
                for event in message["events"]:
                    self._event(event)
                self._moods_changed()
            case "report":
                totals.add(message["totals"], self._counters, self._registry.slices)
                self._refresh()
                self._moods_changed()
            case "idle":
                self._refresh()
            case "ready":
                log.info("worker.ready", index=process.index, pid=process.pid)
                self._divide()
            case "leaving":
                self._divide()
            case "compose":
                self._desks[process].asked(message)
            case "compose_no_more":
                self._desks[process].no_more(message)
            case "stopped":
                pass  # noted by the process's own record
            case unknown:
                raise AssertionError(f"a worker says {unknown!r}")

    def _event(self, event: dict[str, Any]) -> None:
        member = self._registry.slices.get(event["slice"])
        if member is None:
            return  # removed meanwhile
        match event["said"]:
            case "ended":
                self._registry.attempt_ended(member, event["key"], event["outcome"])
            case "condemned":
                self._registry.condemn(member, event["reason"])
            case "check_soon":
                self._check_soon(member)
            case "tried":
                pool = self._registry.pools.get(event["key"])
                for trial in pool.trials if pool else ():
                    if trial.member is member:
                        trial.take()
            case unknown:
                raise AssertionError(f"a worker tells of {unknown!r}")

    def _refresh(self) -> None:
        """Bring the slices' `in_flight` up to date, and tell who waits for a slice to be idle."""
        places, sums = self._places(), self._table.sums()
        for name, member in self._registry.slices.items():
            member.in_flight = sums[places[name]]
            if not member.in_flight and member.on_idle:
                waiting, member.on_idle = member.on_idle, []
                for callback in waiting:
                    callback()

    # --- for the admin API --------------------------------------------------------------------

    async def sync(self) -> None:
        """Return when every worker has carried out what was published, and told its totals."""
        self._tell_fleet()
        self._syncs += 1
        waits = [process.sync(self._syncs) for process in self._serving()]
        if waits:
            await asyncio.wait(waits, timeout=SYNC_S)
        for wait in waits:
            wait.cancel()
        self._refresh()

    def queues(self) -> queue_report.QueueReport:
        """Return what the lines of all workers hold and have done."""
        told = [p.queues for p in self._running.values() if p.queues is not None]
        return queue_report.merged([*self._past_queues, *told])

    def workers(self) -> list[Worker]:
        """Return what is known of each."""
        found = []
        for index in range(self._count):
            process = self._running.get(index)
            found.append(
                Worker(
                    index=index,
                    pid=process.pid if process else 0,
                    state=process.state if process else AWAY,
                    connections=process.connections if process else 0,
                    in_flight=self._table.in_flight(index),
                    restarts=self._restarts[index],
                )
            )
        return found
