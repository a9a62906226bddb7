"""Keeps N requests outstanding: whenever an answer comes, the next picture is sent."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from gateway.flowers.asking import Answer, Asker, AskError

OUTSTANDING_MAX: Final = 100
WINDOW_S: Final = 1.0
FAILED_PAUSE_S: Final = 0.25
"""After a failure: a gateway that is away is not asked a thousand times a second."""


@dataclass(frozen=True, slots=True)
class Figures:
    """
    The last second.

    Attributes:
        rate: Answers a second.
        p50_ms, p90_ms: Of their latencies; None when there were none.
        failed: Requests that failed since the start.
        answered: Requests answered since the start.
        slices: Answers in the window by slice; "" where the protocol does not say.
    """

    rate: float
    p50_ms: float | None
    p90_ms: float | None
    failed: int
    answered: int
    slices: dict[str, int]


class Loop:
    """
    Args:
        asker: The way to the gateway, opened.
        tensors: What to send in turn; asked for with each request, so it may grow.
        told: Called with (number of the picture, its answer or why there is none).
    """

    def __init__(
        self,
        asker: Asker,
        tensors: Callable[[], Sequence[int]],
        tensor: Callable[[int], bytes],
        told: Callable[[int, Answer | AskError], None],
    ) -> None:
        self._asker = asker
        self._order = tensors
        self._tensor = tensor
        self._told = told
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._outstanding = 0
        self._turn = 0
        self._recent: deque[tuple[float, float, str]] = deque()
        self._began_s = monotonic()
        self.answered = 0
        self.failed = 0

    @property
    def outstanding(self) -> int:
        return self._outstanding

    def keep(self, outstanding: int) -> None:
        """Keep so many requests outstanding from now on; those that are too many run out."""
        assert 0 <= outstanding <= OUTSTANDING_MAX, "checked by the caller"
        self._outstanding = outstanding
        loop = asyncio.get_running_loop()
        for index in range(outstanding):
            if index not in self._tasks:
                self._tasks[index] = loop.create_task(self._work(index))

    async def stop(self) -> None:
        self._outstanding = 0
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def once(self, picture: int) -> Answer | AskError:
        """Ask for one picture; `told` is called as well."""
        try:
            answer: Answer | AskError = await self._asker.ask(self._tensor(picture))
        except AskError as error:
            answer = error
        if isinstance(answer, Answer):
            self.answered += 1
            self._recent.append((monotonic(), answer.took_s, answer.slice))
        else:
            self.failed += 1
        self._told(picture, answer)
        return answer

    def figures(self) -> Figures:
        """Return what has come back within the last second."""
        now_s = monotonic()
        while self._recent and self._recent[0][0] < now_s - WINDOW_S:
            self._recent.popleft()
        took_ms = sorted(took_s * 1e3 for _, took_s, _ in self._recent)
        window_s = min(WINDOW_S, max(now_s - self._began_s, 0.05))
        return Figures(
            rate=len(took_ms) / window_s,
            p50_ms=_quantile(took_ms, 0.50),
            p90_ms=_quantile(took_ms, 0.90),
            failed=self.failed,
            answered=self.answered,
            slices=dict(Counter(name for _, _, name in self._recent)),
        )

    async def _work(self, index: int) -> None:
        try:
            while index < self._outstanding:
                order = self._order()
                self._turn += 1
                if isinstance(await self.once(order[self._turn % len(order)]), AskError):
                    await asyncio.sleep(FAILED_PAUSE_S)
        finally:
            del self._tasks[index]


def _quantile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    return values[min(len(values) - 1, int(share * len(values)))]
