"""A TCP forwarder in a thread of its own: a network that can be made to break."""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable

from contract.slice_spec import Endpoint

_READ_BYTES = 64 * 1024
_HARMLESS = (b"GET ", b"POST /v2/repository/index")
"""How a health check begins."""


class Forwarder:
    """
    Passes bytes on between its own port and a server's.

    Args:
        target: The server.

    Attributes:
        endpoint: Where it listens.
    """

    def __init__(self, target: Endpoint) -> None:
        self._target = target
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(128)
        self._sock.setblocking(False)
        self.endpoint = Endpoint("127.0.0.1", self._sock.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._open: asyncio.Event
        self._truncates = False
        self._fillers: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    # --- what a test does -------------------------------------------------------------------

    def freeze(self) -> None:
        """From now on nothing passes; new connections are opened, and nothing comes of them."""
        self._do(lambda: self._open.clear())  # noqa: PLW0108 - made by the thread

    def drop(self) -> None:
        """As `freeze`, and the first packet of a new connection (SYN) goes unanswered."""
        self._do(self._drop)

    def thaw(self) -> None:
        """Let everything pass again, also what has been held up."""
        self._do(self._thaw)

    def truncate(self, on: bool) -> None:
        """Cut every connection within its first answer, but those of health checks."""
        self._truncates = on

    def cut(self) -> None:
        """Close every connection."""
        self._do(self._cut)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- inside -----------------------------------------------------------------------------

    def _do(self, action: Callable[[], object]) -> None:
        """Have it done in the loop, and return when it is."""
        done = threading.Event()

        def do() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(10), "the forwarder does not answer"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._open = asyncio.Event()
        self._open.set()
        self._accept()
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._sock.close()
        self._loop.close()

    def _accept(self) -> None:
        self._accepting = self._loop.create_task(self._accept_all())

    async def _accept_all(self) -> None:
        while True:
            sock, _ = await self._loop.sock_accept(self._sock)
            task = self._loop.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _drop(self) -> None:
        """The kernel drops a SYN while the queue of those to be accepted is full."""
        self._open.clear()
        assert self._accepting is not None
        self._accepting.cancel()
        self._sock.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._sock.getsockname())
            self._fillers.append(filler)

    def _thaw(self) -> None:
        self._open.set()
        if self._fillers:
            for filler in self._fillers:
                filler.close()
            self._fillers.clear()
            self._sock.listen(128)
            self._accept()

    def _cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection(self._target.host, self._target.port)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        allowed: list[int | None] = [None]  # bytes of answers; None while it is not known
        pumps = [
            self._loop.create_task(self._pass_requests(reader, back, allowed)),
            self._loop.create_task(self._pass_answers(there, writer, allowed)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            await self._open.wait()
        except asyncio.CancelledError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, back):
                each.close()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, allowed: list[int | None]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                if self._truncates and not data.startswith(_HARMLESS) and allowed[0] is None:
                    allowed[0] = random.randrange(60, 400)
                await self._open.wait()
                to.write(data)
                await to.drain()

    async def _pass_answers(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, allowed: list[int | None]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self._open.wait()
                if allowed[0] is not None:
                    data = data[: allowed[0]]
                    allowed[0] -= len(data)
                to.write(data)
                await to.drain()
                if allowed[0] == 0:
                    return
