"""
A worker process: a data plane that is told by the main process what to do.

    python -m gateway.workers NUMBER

NUMBER is the file descriptor of its channel. Without a main process it drains and ends.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog
import uvloop

from contract import logs
from gateway.config import Config, parse
from gateway.fleet import queue_report
from gateway.fleet.health import ENABLED
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.tls import ALPN_DATA, LiveContext, TlsError, read
from gateway.workers import doors
from gateway.workers.board import Board
from gateway.workers.channel import Channel, Message
from gateway.workers.composing import RemoteComposer
from gateway.workers.data_plane import LINGER_S, DataPlane
from gateway.workers.doors import Doors
from gateway.workers.mirror import Mirror
from gateway.workers.totals import Meter
from gateway.workers.turns import Tables

log = structlog.get_logger()

REPORT_S: Final = 0.25
"""Between two reports of totals, while there are any."""
ALIVE_S: Final = 1.0
"""Between two reports at most; see supervisor.SILENT_S."""
EXIT_OK: Final = 0


def main(number: int) -> int:
    """Run a worker over the channel with this file descriptor; return the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(socket.socket(fileno=number)))


async def _serve(sock: socket.socket) -> int:
    worker = Worker()
    loop = asyncio.get_running_loop()
    # These reach every process of a terminal or service: the main process says what to do.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        loop.add_signal_handler(number, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, worker.leave)
    await worker.connect(sock)
    await worker.run()
    return EXIT_OK


class Worker:
    """Carries out the main process's messages, one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._channel: Channel
        self._composer: RemoteComposer
        self._counters = Counters()
        self._meter = Meter(self._counters)
        self._events: list[Message] = []
        self._spoke_s = 0.0
        self._drain_s = 0.0
        self._stopping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_told: set[str] = set()
        self._tls: LiveContext | None = None
        # Made by the first message, `start`.
        self._fleet: Mirror
        self._plane: DataPlane
        self._doors: Doors
        self._tables: Tables
        self._row = 0

    async def connect(self, sock: socket.socket) -> None:
        self._channel = await Channel.over(sock, self._inbox.put_nowait, self._on_orphaned)
        self._composer = RemoteComposer(self._channel.send)

    async def run(self) -> None:
        """Do as told until told to stop, and that is done."""
        does: dict[str, Callable[[Message], Any]] = {
            "accept": self._accept, "composed": self._composer.answered,
            "config": self._config, "cut_off": self._cut_off,
            "fleet": self._take_over, "leave": self._leave, "moods": self._moods,
            "start": self._start,
            "stop": self._stop, "sync": self._sync,
        }  # fmt: skip
        ended = asyncio.ensure_future(self._ended.wait())
        while not self._ended.is_set():
            told = asyncio.ensure_future(self._inbox.get())
            await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                told.cancel()
                break
            message = told.result()
            result = does[message["do"]](message)
            if result is not None:
                await result
        ended.cancel()
        self._channel.close()

    def leave(self) -> None:
        """Drain and end, because somebody asked this process to; another takes its place."""
        if self._stopping is not None:
            self._plane.cut_off()
            return
        self._channel.send({"said": "leaving"})
        self._begin_stop(self._drain_s, LINGER_S)

    # --- what it is told ----------------------------------------------------------------------

    async def _start(self, message: Message) -> None:
        config = parse(message["config"], message["source"])
        logs.configure(config.log.level, config.log.format)
        structlog.contextvars.bind_contextvars(worker=message["index"])
        self._row = message["index"]
        self._tables = Tables(message["workers"], message["table"])
        self._doors = Doors(doors.opened(message["doors"]))
        board = Board(message["workers"], message["board"])
        self._fleet = Mirror(self._tables, board, self._row, self._loop.time, self._event)
        if config.tls is not None:
            self._tls = LiveContext.of(read(config.tls.files, ALPN_DATA))
        self._plane = DataPlane(
            config, self._fleet, self._counters, self._check_soon, self._tls, message["workers"]
        )
        self._plane.core.composer = self._composer
        self._drain_s = config.timeouts.values().drain_s
        self._fleet.take_over(message["fleet"])
        await self._plane.start()
        self._channel.send({"said": "ready"})
        self._report_later()

    async def _accept(self, message: Message) -> None:
        if self._stopping is None:
            await self._plane.accept(self._doors.sockets(message["doors"]))

    def _config(self, message: Message) -> None:
        config: Config = parse(message["config"], message["source"])
        logs.configure(config.log.level, config.log.format)
        self._drain_s = config.timeouts.values().drain_s
        self._plane.reconfigure(config)
        if self._tls is not None and config.tls is not None:
            try:
                self._tls.loaded = read(config.tls.files, ALPN_DATA)
            except TlsError as error:  # the main process could read it a moment ago
                log.error("certificate.refused", reason=str(error), hint="the old one is kept")

    def _take_over(self, message: Message) -> None:
        self._fleet.take_over(message["fleet"])
        for member in self._fleet.slices.values():
            self._watch(member)

    def _moods(self, message: Message) -> None:
        self._fleet.take_moods(message["moods"])

    def _sync(self, message: Message) -> None:
        self._report(message["id"])

    def _stop(self, message: Message) -> None:
        self._begin_stop(message["limit_s"], message["linger_s"])

    def _leave(self, message: Message) -> None:
        self._plane.leave()

    def _cut_off(self, message: Message) -> None:
        self._plane.cut_off()

    # --- what it says -------------------------------------------------------------------------

    def _event(self, event: Message) -> None:
        """Say what traffic has shown of a slice; what comes in one turn goes in one message."""
        if not self._events:
            self._loop.call_soon(self._tell_events)
        self._events.append(event)

    def _tell_events(self) -> None:
        events, self._events = self._events, []
        self._channel.send({"said": "events", "events": events})

    def _check_soon(self, member: Slice) -> None:
        self._event({"said": "check_soon", "slice": member.name})

    def _watch(self, member: Slice) -> None:
        """Say so when the last request on a slice that gets no new ones is done."""
        name = member.name
        if member.order is ENABLED or name in self._idle_told:
            return
        if self._tables.slices.rows[self._row][member.column]:
            self._idle_told.add(name)
            member.on_idle.append(lambda: self._idle(name))

    def _idle(self, name: str) -> None:
        self._idle_told.discard(name)
        self._channel.send({"said": "idle", "slice": name})

    def _report(self, sync: int | None = None) -> None:
        totals = self._meter.news(self._fleet.slices.values())
        now_s = self._loop.time()
        if totals or sync is not None or now_s - self._spoke_s >= ALIVE_S:
            self._spoke_s = now_s
            self._channel.send(
                {
                    "said": "report", "totals": totals, "sync": sync,
                    "connections": self._plane.connections,
                    "queues": queue_report.report(self._fleet.queues),
                }
            )  # fmt: skip

    def _report_later(self) -> None:
        self._report()
        self._fleet.sequences.tick(self._loop.time())
        self._timer = self._loop.call_later(REPORT_S, self._report_later)

    # --- the end ------------------------------------------------------------------------------

    def _on_orphaned(self) -> None:
        """The main process has gone, and with it whoever could replace us: finish and end."""
        self._composer.close()
        if self._ended.is_set():
            return
        if not hasattr(self, "_plane"):
            self._ended.set()
        elif self._stopping is None:
            log.error("worker.orphaned", pid=os.getpid())
            self._begin_stop(self._drain_s, 0.0)

    def _begin_stop(self, limit_s: float, linger_s: float) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._drain(limit_s, linger_s))

    async def _drain(self, limit_s: float, linger_s: float) -> None:
        try:
            cut = await self._plane.stop(limit_s, linger_s, self._doors.close)
            self._report(sync=0)
            self._channel.send({"said": "stopped", "cut_off": cut})
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._ended.set()
