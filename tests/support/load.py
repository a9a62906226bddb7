"""Steady load from clients in threads of their own, for tests of what happens meanwhile."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.support.asking import IMAGE_BYTES, Client, GrpcClient, HttpClient, Where
from tests.support.waiting import wait_until

SMALL_BYTES: Final = 64
LARGE_BYTES: Final = 2 * 1024 * 1024
"""More than `limits.replay_bytes`: it cannot be sent a second time."""
JOIN_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Failure:
    """
    One request that was not answered rightly.

    Attributes:
        began_s, ended_s: Of the request, by time.monotonic().
    """

    kind: str
    text: str
    began_s: float
    ended_s: float

    def __str__(self) -> str:
        return f"{self.kind} after {self.ended_s - self.began_s:.3f} s: {self.text}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that was answered rightly; times as for Failure."""

    kind: str
    began_s: float
    ended_s: float

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


def plain(where: Where, clients: int = 2) -> list[Client]:
    """Return so many clients of each protocol, on connections that they keep, with small bodies."""
    found: list[Client] = []
    for _ in range(clients):
        found += [HttpClient(where, SMALL_BYTES), GrpcClient(where, SMALL_BYTES)]
    return found


def every_kind(where: Where, messages: int = 1, model: str = "identity") -> list[Client]:
    """
    Return a client of every kind whose requests can all be sent once more.

    Args:
        messages: Of each stream; one that has been answered in part is tied to its slice.
    """
    return [
        HttpClient(where, SMALL_BYTES, model=model),
        HttpClient(where, SMALL_BYTES, model=model),
        HttpClient(where, SMALL_BYTES, model=model, keep=False),
        HttpClient(where, 100_000, model=model, keep=False),
        HttpClient(where, IMAGE_BYTES, model=model),
        GrpcClient(where, SMALL_BYTES, model=model),
        GrpcClient(where, SMALL_BYTES, model=model),
        GrpcClient(where, SMALL_BYTES, model=model, keep=False),
        GrpcClient(where, IMAGE_BYTES, model=model),
        GrpcClient(where, SMALL_BYTES, model=model, messages=messages),
    ]


def grpc_only(where: Where, model: str = "identity") -> list[Client]:
    """Return clients over gRPC, unary and streaming."""
    return [GrpcClient(where, SMALL_BYTES, model=model, messages=i % 3 // 2) for i in range(6)]


def too_large(where: Where, model: str = "identity") -> list[Client]:
    """Return clients whose requests are larger than what is kept to be sent once more."""
    return [
        HttpClient(where, LARGE_BYTES, model=model),
        GrpcClient(where, LARGE_BYTES, model=model),
    ]


class Load:
    """
    Clients that ask, one request after the other, until the block ends.

    Args:
        clients: They are closed in the end.
        pause_s: Of each client between two requests: without one they are as fast as they can.

    Attributes:
        answers: Requests answered rightly, in the order of their ends.
        failures: The others.
    """

    def __init__(self, clients: Iterable[Client], pause_s: float = 0.0) -> None:
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self._clients = list(clients)
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(client,), daemon=True)
            for client in self._clients
        ]

    @property
    def answered(self) -> int:
        return len(self.answers)

    @property
    def errors(self) -> list[str]:
        return [str(failure) for failure in self.failures]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request never ended"

    def wait_for(self, more: int, timeout_s: float = 30.0) -> None:
        """Wait until `more` further requests have been answered, or one has failed."""
        wanted, failed = self.answered + more, len(self.failures)
        wait_until(
            lambda: self.answered >= wanted or len(self.failures) > failed,
            f"{more} answers more", timeout_s,
        )  # fmt: skip

    def go_on(self, timeout_s: float = 30.0) -> None:
        """Wait until every client has been answered again."""
        at = self.answered
        kinds = Counter(client.kind for client in self._clients)

        def missing() -> Counter[str]:
            return kinds - Counter(answer.kind for answer in self.answers[at:])

        deadline_s = time.monotonic() + timeout_s
        while left := missing():
            assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: answers to {left}"
            time.sleep(0.01)

    def slowest(self, count: int = 1) -> list[Answer]:
        """Return the answers that took longest, the slowest first."""
        return sorted(self.answers, key=lambda answer: -answer.took_s)[:count]

    def _run(self, client: Client) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                client.ask()
            except Exception as error:
                ended_s = time.monotonic()
                text = f"{type(error).__name__}: {error}"
                with self._lock:
                    self.failures.append(Failure(client.kind, text, began_s, ended_s))
                self._stop.wait(0.05)  # who fails at once must not fill the memory
            else:
                with self._lock:
                    self.answers.append(Answer(client.kind, began_s, time.monotonic()))
            if self._pause_s:
                self._stop.wait(self._pause_s)
        client.close()
