"""
mig-launcher that kills itself with SIGKILL at one step: `python killing.py STEP JOURNAL up …`.

Steps are all moments at which the world outside it can differ, counted from 1 on: before each
writing of its state file, and before, during (the request is sent, the answer not awaited) and after
each call that changes something in the Docker Engine. They are counted while the journal exists; the
step it dies at is written there.
"""

import functools
import http.client
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher import cli
from launcher.state import StateStore

CHANGES = ("POST", "DELETE")


class Killer:
    """Counts steps, and dies at one of them."""

    def __init__(self, at: int, journal: Path) -> None:
        self._at = at
        self._journal = journal
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def step(self, what: str) -> None:
        with self._lock:
            if self._journal.exists() and next(self._count) == self._at:
                self._journal.write_text(what)
                os.kill(os.getpid(), signal.SIGKILL)

    def before(self, call: Callable[..., Any], what: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.step(what)
            return call(*arguments, **named)

        return wrapped

    def around_requests(self) -> None:
        """Take a step before a request is sent, when it has been, and when its answer is there."""
        put, get = http.client.HTTPConnection.putrequest, http.client.HTTPConnection.getresponse

        def putrequest(connection: Any, method: str, url: str, *more: Any, **named: Any) -> None:
            connection.step = None
            if method in CHANGES:
                connection.step = f"{method} {url.partition('?')[0]}"
                self.step(f"before {connection.step}")
            put(connection, method, url, *more, **named)

        def getresponse(connection: Any, *more: Any, **named: Any) -> Any:
            if connection.step:
                self.step(f"during {connection.step}")
            answer = get(connection, *more, **named)
            if connection.step:
                self.step(f"after {connection.step}")
            return answer

        http.client.HTTPConnection.putrequest = putrequest  # type: ignore[method-assign]
        http.client.HTTPConnection.getresponse = getresponse  # type: ignore[method-assign]


def main() -> int:
    killer = Killer(int(sys.argv[1]), Path(sys.argv[2]))
    killer.around_requests()
    StateStore._write = killer.before(StateStore._write, "before a state")  # type: ignore[method-assign]
    return cli.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
