"""The one timer of the data plane."""

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.relay.deadlines import STILL_S, TICK_S, Deadlines


class Item:
    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.ended = False

    def on_deadline(self, now_s: float) -> None:
        self.deadline_s, self.ended = 0.0, True


class LateLoop:
    """A loop that has one timer, and comes to it when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.deadlines = Deadlines(cast("asyncio.AbstractEventLoop", self))
        self.deadlines.start()

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s == TICK_S
        self.callback = callback

    def item(self, seconds: float) -> Item:
        item = Item(self.deadlines.after(seconds))
        self.deadlines.add(item)
        return item

    def tick(self, after_s: float = TICK_S) -> None:
        self.now_s += after_s
        self.callback()


def test_what_is_overdue_ends_within_a_tick_and_never_early() -> None:
    loop = LateLoop()
    item = loop.item(3.5 * TICK_S)
    for _ in range(3):
        loop.tick()
    assert not item.ended
    loop.tick()
    assert item.ended


def test_after_a_standstill_what_came_meanwhile_is_read_before_anything_ends() -> None:
    """Timers come before sockets: the answers of healthy slices may be waiting to be read."""
    loop = LateLoop()
    answered, overdue = loop.item(1.0), loop.item(1.0)
    loop.tick(5.0)
    assert not answered.ended
    loop.deadlines.discard(answered)  # its socket was read
    loop.tick()
    assert not answered.ended
    assert overdue.ended


def test_a_loop_that_is_ever_late_keeps_nothing_for_ever() -> None:
    loop = LateLoop()
    item = loop.item(1.0)
    for _ in range(2):
        loop.tick(3 * STILL_S)
    assert item.ended
