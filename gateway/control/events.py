"""
EventLog: every change of a slice once in the log, once in the counters, once in `GET /v1/events`.

The last RING changes are kept, so that a reader that was away for a moment misses nothing.
"""

import asyncio
import json
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from gateway.fleet.health import DOWN
from gateway.fleet.registry import Change

log = structlog.get_logger()

RING: Final = 1024
"""A storm of 56 slices toggled for ten seconds; 300 KiB."""


class EventLog:
    """
    The journal of the slices' changes. `record` is a recorder of the SliceRegistry.

    Attributes:
        counts: (slice, event) → how often. Slices that are gone keep their counts: a counter that
            went back would look like a restart.
        closed: No more will come.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.closed = False
        # Numbers begin anew with each process; a reader that was connected to another is told all.
        self._run = secrets.token_hex(4)
        self._number = 0
        self._ring: deque[tuple[int, str, str]] = deque(maxlen=RING)
        self._waiting: set[asyncio.Event] = set()

    def record(self, change: Change) -> None:
        """Take a change in."""
        name = "" if change.member is None else change.member.name
        key = name, change.event
        self.counts[key] = self.counts.get(key, 0) + 1
        self._number += 1
        document = {
            "name": name,
            "event": change.event,
            "from": change.before,
            "to": change.after,
            "state": change.state,
            "model": change.model,
            "reason": change.reason,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        self._ring.append((self._number, change.event, json.dumps(document)))
        _log(change)
        for event in self._waiting:
            event.set()

    @property
    def last_id(self) -> str:
        """The identifier of the newest change."""
        return f"{self._run}-{self._number}"

    def since(self, last_id: str) -> list[tuple[str, str, str]]:
        """
        Return (identifier, event, JSON) of what came after `last_id`, oldest first.

        All that is kept when the identifier is another process's or none at all.
        """
        run, _, number = last_id.partition("-")
        after = int(number) if run == self._run and number.isdecimal() else 0
        return [(f"{self._run}-{n}", event, data) for n, event, data in self._ring if n > after]

    async def wait(self, last_id: str, seconds: float) -> None:
        """Wait until there is something after `last_id` or no more will come, `seconds` at most."""
        woken = asyncio.Event()
        self._waiting.add(woken)
        try:
            if last_id == self.last_id and not self.closed:
                async with asyncio.timeout(seconds):
                    await woken.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(woken)

    def close(self) -> None:
        """Let all readers end."""
        self.closed = True
        for event in self._waiting:
            event.set()


def _log(change: Change) -> None:
    member = change.member
    if member is None:
        _log_panic(change)
        return
    facts: dict[str, Any] = {
        "slice": member.name, "state": change.state, "reason": change.reason,
        "simulated": member.spec.simulated,
    }  # fmt: skip
    flip = {"before": change.before, "after": change.after}
    where = {"http": str(member.spec.http), "grpc": str(member.spec.grpc), "weight": member.weight}
    match change.event:
        case "added":
            log.info("slice.added", **facts, **where)
        case "removed":
            log.info("slice.removed", **facts, in_flight=member.in_flight)
        case "changed":
            log.info("slice.changed", **facts, **where)
        case "health":
            emit = log.warning if change.after == DOWN.value else log.info
            emit("slice.health_changed", **facts, **flip)
        case "order":
            log.info("slice.order_changed", **facts, **flip, in_flight=member.in_flight)
        case "models":
            log.info("slice.models_changed", **facts, **flip)
        case "drained":
            log.info("slice.drained", **facts, **flip)
        case "ejected":
            log.warning("slice.ejected", **facts, **flip, model=change.model)
        case "due":
            log.info("slice.due", **facts, **flip, model=change.model)
        case "returned":
            log.info("slice.returned", **facts, **flip, model=change.model)
        case _:
            raise AssertionError(f"unknown event {change.event!r}")


def _log_panic(change: Change) -> None:
    if change.after == "yes":
        log.error("fleet.panicked", reason=change.reason)
    else:
        log.warning("fleet.calmed", reason=change.reason)
