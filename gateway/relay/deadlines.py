"""
Every timeout of the data plane on one coarse timer.

A timer of the loop costs 1.5 us to set and cancel, and a request would set several; writing a number
into a slot costs 20 ns. So whatever can time out keeps its own `deadline_s`, and one sweep every
TICK_S looks at all of them. Timeouts fire up to one tick late, never early.
"""

import asyncio
from typing import Final, Protocol

TICK_S: Final = 0.1
STILL_S: Final = 0.5
"""A tick that comes later than this finds that the loop stood still: timers come before sockets, so
what was waited for may be there. It is read first, and what is still overdue ends a tick later."""


class Timed(Protocol):
    """Something with a deadline; 0 means none."""

    deadline_s: float

    def on_deadline(self, now_s: float) -> None:
        """Called by the sweep once `deadline_s` has passed; must move or clear the deadline."""


class Deadlines:
    """The sweep, and the coarse clock that deadlines are set from."""

    __slots__ = ("_handle", "_items", "_loop", "_stood_still", "now_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: set[Timed] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._stood_still = False
        self.now_s = loop.time()

    def start(self) -> None:
        self._tick()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def add(self, item: Timed) -> None:
        self._items.add(item)

    def discard(self, item: Timed) -> None:
        self._items.discard(item)

    def after(self, seconds: float) -> float:
        """Return the deadline `seconds` from now; 0, which is none, for a timeout of 0."""
        return self.now_s + seconds if seconds else 0.0

    def _tick(self) -> None:
        last_s, self.now_s = self.now_s, self._loop.time()
        now_s = self.now_s
        # Not twice in a row: a loop that is ever late must not keep everything for ever.
        self._stood_still = now_s - last_s > STILL_S and not self._stood_still
        if not self._stood_still:
            # A list first: what times out changes the set.
            for item in [item for item in self._items if 0.0 < item.deadline_s <= now_s]:
                item.on_deadline(now_s)
        self._handle = self._loop.call_later(TICK_S, self._tick)
