"""
A server that answers the two calls of a check as a script says, on a real socket.

It speaks HTTP by hand, so that it can also break off where a Triton breaks off.
"""

import asyncio
import json
import secrets
import socket
import struct
from collections.abc import Callable

from contract.slice_spec import Endpoint, SliceSpec

READY_INDEX = [{"name": "m", "version": "1", "state": "READY"}]


class ScriptedTriton:
    """
    One server.

    Attributes:
        mode: `live`; `hang` (accepts, never answers, as when stopped by SIGSTOP); `reset` (resets
            a new connection, as a draining Triton does); `close`; `garbage`; `dies` (breaks off
            within its answer).
        live_status, index_status, index_body: What is answered to the two calls.
        unready: Models that say so when they are asked themselves.
        connections, requests: What arrived.
    """

    def __init__(self) -> None:
        self.mode = "live"
        self.live_status = 200
        self.index_status = 200
        self.index_body = json.dumps(READY_INDEX).encode()
        self.index_hangs = False
        self.unready: set[str] = set()
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> "ScriptedTriton":
        """Listen on a free port, or on the one it had before."""
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        return self

    async def stop(self) -> None:
        """Go away: from now on connections are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def spec(self, name: str = "s0") -> SliceSpec:
        endpoint = Endpoint("127.0.0.1", self.port)
        return SliceSpec(name, endpoint, endpoint)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # it was on its way while the server stopped
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._close)

    def _close(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step runs none of its code.
        self._open.pop(task).close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side went away first

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            # Closing with a linger time of 0 sends RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        if self.mode == "hang":
            await asyncio.Event().wait()
        elif self.mode == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        elif self.mode == "dies":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxx")
        elif self.mode == "live":
            if head.startswith(b"GET /v2/health/live "):
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.live_status)
            elif head.startswith(b"GET /v2/models/"):
                status = 400 if head.split(b"/")[3].decode() in self.unready else 200
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
            else:
                if self.index_hangs:
                    await asyncio.Event().wait()
                size = len(self.index_body)
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (self.index_status, size)
                )
                writer.write(self.index_body)
        else:
            assert self.mode == "close", self.mode
        await writer.drain()


def free_port() -> int:
    """
    Return a port that nobody listens on, below those the kernel gives out by itself.

    One of the kernel's own could become some connection's while a test has its server stopped.
    """
    for _ in range(1000):
        port = secrets.randbelow(8000) + 24000
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port from 24000 to 31999")


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for a condition, and fail when it does not come true in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (whatever is waited for sets no event)
            await asyncio.sleep(0.005)
