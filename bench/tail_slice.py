"""
Slices that take time: `python -m bench.tail_slice PORT:SPEED[:SHARE:FACTOR]...`, one slice per port.

A slice serves one request at a time, first come first served, as an unbatched Triton model with
one instance does. How long a request takes is in its body (see `arrivals.request_body`) and is
divided by the slice's speed, so every proxy is given the same work. A share of the requests may take
a factor longer, by the slice's mood and not by their work: on another slice they would not. Nothing is
computed: the slice knows when it will be free, and answers by the clock.
"""

import asyncio
import random
import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Final, cast

import uvloop

from bench.arrivals import work_s_of
from bench.cells import HTTP_PATH
from bench.standin_http import INFER_ANSWER, NOT_FOUND, answers

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_INFER: Final = HTTP_PATH.encode()


class TimedSlice:
    """One server with one instance of the model."""

    def __init__(
        self, speed: float, slow_share: float = 0.0, slow_factor: float = 1.0, seed: int = 0
    ) -> None:
        """`speed` 2.0 serves in half the time; a `slow_share` of requests takes a factor longer."""
        self.speed = speed
        self.slow_share = slow_share
        self.slow_factor = slow_factor
        self.mood = random.Random(seed)
        self.free_at_s = 0.0

    def finish_s(self, now_s: float, work_s: float) -> float:
        """Take a request that arrives now; return when its answer is due."""
        if self.slow_share and self.mood.random() < self.slow_share:
            work_s *= self.slow_factor
        # From when the one before is due, not from when its timer fired: late timers do not add up.
        self.free_at_s = max(now_s, self.free_at_s) + work_s / self.speed
        return self.free_at_s


class TimedStandIn(asyncio.Protocol):
    """One connection of a proxy to a timed slice; one request in flight, as HTTP/1.1 has it."""

    def __init__(self, member: TimedSlice, by_target: Mapping[bytes, bytes]) -> None:
        self.member = member
        self.by_target = by_target
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes: nothing to ask isinstance() about.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        body_bytes = int(length[1]) if length else 0
        if not separator or len(rest) < body_bytes:
            return
        assert len(rest) == body_bytes, "a second request before the answer to the first"
        self.received = b""
        target = head.split(b" ", 2)[1]
        if target != _INFER:
            self.transport.write(self.by_target.get(target, NOT_FOUND))
            return
        due_s = self.member.finish_s(self.loop.time(), work_s_of(rest))
        self.loop.call_at(due_s, self._answer)

    def _answer(self) -> None:
        # A client that went away does not free the slice earlier: neither does it free Triton.
        if not self.transport.is_closing():
            self.transport.write(INFER_ANSWER)


async def serve(slices: Mapping[int, TimedSlice]) -> None:
    """Listen on 127.0.0.1, a slice per port, until the process is told to end."""
    loop = asyncio.get_running_loop()
    by_target = answers(dynamic_batching=False)
    for port, member in slices.items():
        connect = partial(TimedStandIn, member, by_target)
        await loop.create_server(connect, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


def _argument(text: str) -> tuple[int, TimedSlice]:
    port, speed, *slow = text.split(":")
    share, factor = map(float, slow) if slow else (0.0, 1.0)
    return int(port), TimedSlice(float(speed), share, factor, seed=int(port))


if __name__ == "__main__":
    uvloop.run(serve(dict(_argument(text) for text in sys.argv[1:])))
