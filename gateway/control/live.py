"""
LiveFeed: the whole state once, then what changes in it, for everybody who looks at the live page.

It is computed once for all readers and only while there are any: once a second, and at once when
something happens to a slice. `GET /v1/live` (see live_stream) sends it on.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from gateway.control import views
from gateway.control.events import EventLog
from gateway.control.sampling import Sample, Sampler
from gateway.control.tasks import Tasks
from gateway.fleet.queue_report import QueueReport
from gateway.fleet.registry import SliceRegistry

SAMPLE_S: Final = 1.0
GLANCE_S: Final = 0.2
"""What is in flight is read so often, and the mean of a second told: a moment says little."""
SPACING_S: Final = 0.1
"""Between two looks at most, however much happens."""
HISTORY: Final = 300
"""Samples a new reader is given: five minutes, or less where nobody had looked."""
EVENTS: Final = 200
"""Past changes a new reader is given."""
KEPT: Final = 64
"""Messages; a reader that is further behind is given the whole state again."""
_PAUSE_EVERY: Final = 8
"""Slices, of which the view takes 0.1 ms each; in between requests are served."""

State = dict[str, Any]


class LiveFeed:
    """
    Args:
        about: Returns what is told of the gateway itself; flat, small, JSON.
        sync: Returns when the counters are up to date (worker processes have told theirs).
        queues: Returns what all processes' lines hold.
    """

    def __init__(
        self,
        registry: SliceRegistry,
        events: EventLog,
        about: Callable[[], State],
        sync: Callable[[], Awaitable[None]],
        queues: Callable[[], QueueReport],
    ) -> None:
        self._registry = registry
        self._events = events
        self._about = about
        self._sync = sync
        self._queues = queues
        self._readers: set[asyncio.Event] = set()
        self._tasks = Tasks()
        self._running: asyncio.Task[None] | None = None
        self._sampler = Sampler()
        self._history: deque[Sample] = deque(maxlen=HISTORY)
        self._slices: dict[str, State] = {}
        self._gateway: State = {}
        self._messages: deque[bytes] = deque(maxlen=KEPT)
        self._number = 0  # of the last message
        self._told_id = events.last_id
        self._refreshing = asyncio.Lock()
        self.closed = False

    # --- for readers ------------------------------------------------------------------------

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def join(self) -> asyncio.Event:
        """Return an event that is set with each new message; give it back with `leave`."""
        woken = asyncio.Event()
        self._readers.add(woken)
        if len(self._readers) == 1 or not self._gateway:
            await self._refresh(sample=False)
        if self._running is None or self._running.done():
            self._running = self._tasks.start(self._run(), "live feed")
        return woken

    def leave(self, woken: asyncio.Event) -> None:
        self._readers.discard(woken)

    def snapshot(self, you: State) -> tuple[int, bytes]:
        """Return (number, message): all there is, as of the message with that number."""
        document = {
            "you": you,
            "gateway": self._gateway,
            "slices": list(self._slices.values()),
            "history": list(self._history),
            "events": [json.loads(data) for data in self._told()],
        }
        return self._number, _message("snapshot", document)

    def _told(self) -> list[str]:
        """Return past changes, without those that the next message will tell."""
        kept, untold = self._events.since("0"), self._events.since(self._told_id)
        return [data for _, _, data in kept[: len(kept) - len(untold)][-EVENTS:]]

    def since(self, number: int) -> tuple[int, bytes] | None:
        """Return (number of the last, messages after `number`); None when some are forgotten."""
        behind = self._number - number
        if behind > len(self._messages):
            return None
        return self._number, b"".join(list(self._messages)[len(self._messages) - behind :])

    def close(self) -> None:
        """Let all readers end; they find whoever answers here next."""
        self.closed = True
        self._wake()

    async def stop(self) -> None:
        self.close()
        await self._tasks.stop()

    # --- looking ----------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time() + SAMPLE_S
        while self._readers and not self.closed:
            await self._events.wait(self._told_id, min(GLANCE_S, max(0.0, next_s - loop.time())))
            if self._events.closed:
                self.close()
                return
            due = loop.time() >= next_s
            if due:
                # A loop that was held up does not make up for what it has missed.
                next_s = max(next_s + SAMPLE_S, loop.time() + SAMPLE_S / 2)
            elif self._events.last_id == self._told_id:
                self._sampler.glance(self._registry.slices.values(), self._queues())
                continue
            await self._refresh(sample=due)
            await asyncio.sleep(SPACING_S)
        self._sampler.forget()

    async def _refresh(self, *, sample: bool) -> None:
        """Look at everything; tell the readers what has changed."""
        async with self._refreshing:
            await self._sync()
            now_s = asyncio.get_running_loop().time()
            members = list(self._registry.slices.values())
            slices: dict[str, State] = {}
            for at, member in enumerate(members):
                slices[member.name] = views.slice_view(member, now_s)
                if at % _PAUSE_EVERY == _PAUSE_EVERY - 1:
                    await asyncio.sleep(0)
            gateway = self._about()
            change: State = {
                "gateway": _difference(self._gateway, gateway),
                "slices": {
                    name: changed
                    for name, view in slices.items()
                    if (changed := _difference(self._slices.get(name, {}), view))
                },
            }
            if list(slices) != list(self._slices):
                change["order"] = list(slices)
            if sample or not self._sampler.begun:
                found = self._sampler.look(members, self._queues(), now_s, _wall_ms())
                if found is not None:
                    change["sample"] = found
                    self._history.append(found)
            happened = self._events.since(self._told_id)
            self._told_id = self._events.last_id
            self._slices, self._gateway = slices, gateway
            text = b"".join(_framed("change", data) for _, _, data in happened)
            self._messages.append(text + _message("tick", change))
            self._number += 1
        self._wake()

    def _wake(self) -> None:
        for woken in self._readers:
            woken.set()


def _difference(before: State, after: State) -> State:
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def _message(event: str, document: State) -> bytes:
    return _framed(event, json.dumps(document, separators=(",", ":")))


def _framed(event: str, data: str) -> bytes:
    return f"event: {event}\ndata: {data}\n\n".encode()


def _wall_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1e3)
