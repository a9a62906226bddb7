"""
Composed calls: whole requests that no single slice can answer, each in a task of its own.

They are few (loads, statistics, settings), so a task is no matter here; anything else in the relay
is callbacks. Who composes the answers is told to the relay when the gateway is put together.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

Header = tuple[bytes, bytes]
T = TypeVar("T")


class HttpAnswer(Protocol):
    """An HTTP answer; `headers` are without what frames it (lengths, codings, connection)."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[Header]: ...
    @property
    def body(self) -> bytes: ...


class GrpcAnswer(Protocol):
    """A gRPC answer; `message` is the protobuf alone and counts only when `status` is 0."""

    @property
    def status(self) -> int: ...
    @property
    def details(self) -> str: ...
    @property
    def message(self) -> bytes: ...


class Composer(Protocol):
    """Answers composed calls; never raises but for being cancelled."""

    def http(
        self, method: str, target: str, headers: list[Header], body: bytes
    ) -> Coroutine[Any, Any, HttpAnswer]:
        """Answer a whole HTTP request; its body is as it came, encoded where its headers say so."""

    def grpc(
        self, path: bytes, metadata: list[Header], message: bytes, timeout_s: float | None
    ) -> Coroutine[Any, Any, GrpcAnswer]:
        """Answer a unary gRPC call; `message` is the protobuf alone, not compressed."""


class ComposedCalls:
    """The tasks of composed calls, each with the connection or call that waits for its answer."""

    __slots__ = ("_loop", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[object, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(
        self, owner: object, answer: Coroutine[Any, Any, T], tell: Callable[[T | None], None]
    ) -> None:
        """
        Run `answer`, and call `tell` with what it returns; None when it made a mistake.

        Args:
            owner: Who waits; has one composed call at a time.
        """
        assert owner not in self._tasks, "two composed calls of one owner"
        task: asyncio.Task[T] = self._loop.create_task(answer, name="composed call")
        self._tasks[owner] = task
        task.add_done_callback(lambda done: self._ended(owner, done, tell))

    def cancel(self, owner: object) -> None:
        """Nobody waits for the answer any more."""
        task = self._tasks.pop(owner, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Cancel them all; nobody is told."""
        for owner in list(self._tasks):
            self.cancel(owner)

    def _ended(
        self, owner: object, task: asyncio.Task[T], tell: Callable[[T | None], None]
    ) -> None:
        current = self._tasks.get(owner) is task
        if current:
            del self._tasks[owner]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": "a composed call", "exception": error})
        if current:
            tell(None if error is not None else task.result())
