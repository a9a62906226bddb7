"""
Composed calls of workers: what concerns all slices is known in the main process, and answered there.

They are few, and may carry a large body; see gateway.relay.composed for what is asked.
"""

import asyncio
from itertools import count
from typing import Any, Final, Protocol

from gateway.control.tasks import Tasks
from gateway.errors import SHUTTING_DOWN
from gateway.relay.composed import Composer
from gateway.triton.calls import GrpcAnswer, Header, HttpAnswer
from gateway.workers.channel import Message

HTTP: Final = "http"
GRPC: Final = "grpc"


class Send(Protocol):
    """Sends a message over a channel."""

    def __call__(self, message: Message, body: bytes = b"") -> None: ...


class RemoteComposer:
    """A worker's Composer: asks the main process."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._number = count(1).__next__
        self._waiting: dict[int, asyncio.Future[Message | None]] = {}

    async def http(
        self, method: str, target: str, headers: list[Header], body: bytes
    ) -> HttpAnswer:
        asked = {"kind": HTTP, "method": method, "target": target, "headers": _text(headers)}
        answer = await self._ask(asked, body)
        if answer is None:
            fault = SHUTTING_DOWN
            kind = [(b"content-type", b"application/json")]
            return HttpAnswer(fault.http_status, kind, fault.http_body)
        return HttpAnswer(answer["status"], _bytes(answer["headers"]), answer.get("body", b""))

    async def grpc(
        self, path: bytes, metadata: list[Header], message: bytes, timeout_s: float | None
    ) -> GrpcAnswer:
        asked = {
            "kind": GRPC, "path": path.decode("latin-1"), "metadata": _text(metadata),
            "timeout_s": timeout_s,
        }  # fmt: skip
        answer = await self._ask(asked, message)
        if answer is None:
            return GrpcAnswer(SHUTTING_DOWN.grpc_status, SHUTTING_DOWN.message, b"")
        return GrpcAnswer(answer["status"], answer["details"], answer.get("body", b""))

    def answered(self, message: Message) -> None:
        """Take the main process's answer."""
        waiting = self._waiting.get(message["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def close(self) -> None:
        """Nobody is there to answer any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)

    async def _ask(self, asked: dict[str, Any], body: bytes) -> Message | None:
        number = self._number()
        waiting: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self._send({"said": "compose", "id": number, **asked}, body)
        try:
            return await waiting
        except asyncio.CancelledError:
            self._send({"said": "compose_no_more", "id": number})
            raise
        finally:
            del self._waiting[number]


class Desk:
    """Answers one worker's composed calls with the main process's Composer."""

    def __init__(self, composer: Composer, send: Send) -> None:
        self._composer = composer
        self._send = send
        self._tasks = Tasks()
        self._running: dict[int, asyncio.Task[None]] = {}

    def asked(self, message: Message) -> None:
        """Begin to answer."""
        number = message["id"]
        task = self._tasks.start(self._answer(message), f"composed call {number}")
        self._running[number] = task
        task.add_done_callback(lambda _: self._running.pop(number, None))

    def no_more(self, message: Message) -> None:
        """The client has gone."""
        task = self._running.get(message["id"])
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """The worker has gone."""
        await self._tasks.stop()

    async def _answer(self, asked: Message) -> None:
        told = {"do": "composed", "id": asked["id"]}
        body = asked.get("body", b"")
        if asked["kind"] == HTTP:
            http = await self._composer.http(
                asked["method"], asked["target"], _bytes(asked["headers"]), body
            )
            told |= {"status": http.status, "headers": _text(http.headers)}
            self._send(told, http.body)
        else:
            path, metadata = asked["path"].encode("latin-1"), _bytes(asked["metadata"])
            grpc = await self._composer.grpc(path, metadata, body, asked["timeout_s"])
            told |= {"status": grpc.status, "details": grpc.details}
            self._send(told, grpc.message)


def _text(headers: list[Header]) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _bytes(headers: list[list[str]]) -> list[Header]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
