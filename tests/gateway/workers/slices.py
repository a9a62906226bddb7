"""
Slices of the simplest kind: HTTP servers in a thread that answer every inference with its own body,
and an empty one (`{}`) with "ok".
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

INDEX = b'[{"name":"m","version":"1","state":"READY"}]'


class StandIns:
    """
    So many slices, each on a port of its own.

    Attributes:
        ports: Where they listen.
        delay_s: How long an inference takes; may be changed at any time.
        held: Inferences are answered only after `release`.
        served: Inferences answered, by port.
    """

    def __init__(self, count: int) -> None:
        self.delay_s = 0.0
        self.held = False
        self._pending: list[Callable[[], None]] = []
        self.ports: list[int] = []
        self.served: dict[int, int] = {}
        self.open: set[asyncio.Transport] = set()
        self._servers: list[asyncio.AbstractServer] = []
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(count,), daemon=True)
        self._thread.start()
        self._started.wait(10)

    def release(self) -> None:
        """Answer what is held, and hold no more."""
        self.held = False
        self._loop.call_soon_threadsafe(self._answer_all)

    def _answer_all(self) -> None:
        pending, self._pending = self._pending, []
        for answer in pending:
            answer()

    def infer(self, answer: Callable[[], None]) -> None:
        """Answer an inference in its time."""
        if self.held:
            self._pending.append(answer)
        else:
            self._loop.call_later(self.delay_s, answer)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, count: int) -> None:
        self._loop.run_until_complete(self._listen(count))
        self._started.set()
        self._loop.run_forever()
        for server in self._servers:
            server.close()
        for transport in list(self.open):
            transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _listen(self, count: int) -> None:
        for _ in range(count):
            server = await self._loop.create_server(lambda: _Answerer(self), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])


class _Answerer(asyncio.Protocol):
    def __init__(self, owner: StandIns) -> None:
        self._owner = owner
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.open.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            length = 0
            for line in self._data[:end].lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if len(self._data) < end + length:
                return
            target = self._data.split(b" ", 2)[1]
            body = self._data[end : end + length]
            self._data = self._data[end + length :]
            self._answer(target, body)

    def _answer(self, target: bytes, body: bytes) -> None:
        if target == b"/v2/health/live":
            self._send(b"")
        elif target.startswith(b"/v2/repository/index"):
            self._send(INDEX)
        elif target.endswith(b"/infer"):
            self._owner.infer(lambda: self._infer(body))
        else:
            self._send(b"{}")

    def _infer(self, body: bytes) -> None:
        port = self._transport.get_extra_info("sockname")[1]
        self._owner.served[port] = self._owner.served.get(port, 0) + 1
        self._send(b"ok" if body == b"{}" else body)

    def _send(self, body: bytes, *more: Any) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)
