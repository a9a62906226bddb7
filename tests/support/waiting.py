"""Waiting for conditions, never for a time; and ports to listen on meanwhile."""

import contextlib
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_RANDOM = random.SystemRandom()


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Wait for a condition and return its value; fail by name when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
    return value


def free_ports(count: int) -> list[int]:
    """
    Return ports of 127.0.0.1 that are free, also for a server that is started again.

    None of those that the kernel gives to outgoing connections.
    """
    found: list[int] = []
    while len(found) < count:
        port = _RANDOM.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found
