"""Process: one worker as the main process sees it, from its start to its end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.control.processes import LEAVING, SERVING, STARTING
from gateway.fleet.queue_report import QueueReport
from gateway.workers.channel import Channel, Message
from gateway.workers.totals import Gauges

QUIET_S: Final = 3.0
"""A worker says something every second; while one has not for so long, others accept at its door."""
SILENT_S: Final = 10.0
"""One that is silent for so long hangs."""


async def spawn(channel: int, inherited: Sequence[int]) -> asyncio.subprocess.Process:
    """
    Start a worker process, which runs the very code that this process was started from.

    Args:
        channel: File descriptor of its end of the channel.
        inherited: All file descriptors that it is to have, under the same numbers.

    Raises:
        OSError: It cannot be started.
    """
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "gateway.workers", str(channel),
        stdin=asyncio.subprocess.DEVNULL, pass_fds=inherited,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


class Process:
    """
    A running worker.

    Args:
        said: Told of each message, after it has been taken note of here.
        quiet: Told when the worker has fallen silent, and when it says something again.
        silent: Told when the worker has said nothing for too long.

    Attributes:
        state: STARTING, SERVING or LEAVING.
        is_quiet: It serves, but has said nothing for QUIET_S.
        connections: As of its last report.
        queues: What its lines hold and have done, as of its last report.
        gauges: What has to be taken back when it ends.
        cut_off: Clients that it cut off when it stopped.
        why: How it ended.
        on_ready: Called once when it serves.
    """

    def __init__(
        self,
        index: int,
        said: Callable[["Process", Message], None],
        quiet: Callable[[], None],
        silent: Callable[["Process"], None],
    ) -> None:
        self.index = index
        self.state = STARTING
        self.is_quiet = False
        self.connections = 0
        self.queues: QueueReport | None = None
        self.gauges = Gauges()
        self.cut_off = 0
        self.why = ""
        self.ended = asyncio.Event()
        self.on_ready: Callable[[], Any] = lambda: None
        self.channel: Channel
        self._loop = asyncio.get_running_loop()
        self._said = said
        self._quiet = quiet
        self._silent = silent
        self._process: asyncio.subprocess.Process
        self._accepts: set[int] | None = None
        self._syncs: dict[int, asyncio.Future[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._hint: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self, sock: socket.socket, process: asyncio.subprocess.Process) -> None:
        """Take over a process and our end of its channel."""
        self._process = process
        self.channel = await Channel.over(sock, self._on_message, self._closed.set)

    async def wait(self) -> None:
        """Wait until it has ended and everything it said has been heard."""
        code = await self._process.wait()
        await self._closed.wait()
        self.state = LEAVING
        self.why = _how(code)
        for timer in (self._alarm, self._hint):
            if timer is not None:
                timer.cancel()
        for wait in self._syncs.values():
            wait.cancel()
        self.ended.set()

    def expect(self, within_s: float) -> None:
        """Expect a word within so many seconds."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(within_s, self._silent, self)

    def _becomes_quiet(self) -> None:
        self.is_quiet = True
        self._quiet()

    def accept(self, doors: set[int]) -> None:
        """Let it accept at these doors and no others."""
        if doors != self._accepts:
            self._accepts = doors
            self.channel.send({"do": "accept", "doors": sorted(doors)})

    def sync(self, number: int) -> "asyncio.Future[None]":
        """Return a future that is done when it has carried out all that it was told so far."""
        wait = self._syncs[number] = self._loop.create_future()
        wait.add_done_callback(lambda _: self._syncs.pop(number, None))
        self.channel.send({"do": "sync", "id": number})
        return wait

    def stop(self, limit_s: float, linger_s: float) -> None:
        """Let it drain and end."""
        self.state = LEAVING
        self.channel.send({"do": "stop", "limit_s": limit_s, "linger_s": linger_s})

    def kill(self) -> None:
        """End it now."""
        try:
            self._process.send_signal(signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _on_message(self, message: Message) -> None:
        self.expect(SILENT_S)
        if self._hint is not None:
            self._hint.cancel()
        self._hint = self._loop.call_later(QUIET_S, self._becomes_quiet)
        if self.is_quiet:
            self.is_quiet = False
            self._quiet()
        match message["said"]:
            case "ready":
                self.state = SERVING
                self.on_ready()
            case "leaving":
                self.state = LEAVING
            case "report":
                self.connections = message["connections"]
                self.queues = message["queues"]
                self.gauges.note(message["totals"])
                wait = self._syncs.get(message["sync"])
                if wait is not None and not wait.done():
                    # The totals are added by `said`, before anybody who waits here goes on.
                    wait.set_result(None)
            case "stopped":
                self.cut_off = message["cut_off"]
            case _:
                pass  # of no concern here
        self._said(self, message)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return "ended by itself" if code == 0 else f"ended with exit code {code}"
