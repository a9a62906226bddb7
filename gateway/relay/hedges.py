"""
Hedges: which requests are late, and whether another slice may be given the same as well.

A request that waits at a slice which happens to be slow is sent to a second one, and the first answer
to begin is the client's. A GPU cannot un-execute, so that is done seldom: for a share of the traffic at
most, and only where another slice has room and less to do while nobody waits.

Off, which is the default, it costs nothing. On, a request costs nothing either: the relays look through
what they have in flight at slices, at 50 ns each, every tenth of what is late. So a hedge leaves up to a
tenth (2 ms at least, 0.1 s at most) after it is due.
"""

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Protocol

from gateway.fleet.lanes import Lane
from gateway.fleet.lateness import NEVER_S, Lateness
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.hedging_rules import HedgingRules
from gateway.metrics import Counters

PAUSE_SHARE: Final = 0.1
PAUSE_MIN_S: Final = 0.002
PAUSE_MAX_S: Final = 0.1
BURST: Final = 20.0
"""Hedges that are saved up while none are needed: a slice that stands still makes many requests late at
once. On average over time the share holds."""


class LateRequests(Protocol):
    """The slices' side of one protocol, as far as it hedges."""

    def hedge_late(self, now_s: float) -> None:
        """Send what is late to a second slice; `now_s` by time.monotonic()."""


class Hedges:
    """
    Args:
        relays: Asked to look through what they have in flight.
        clock: The one by which requests note when they were begun.
    """

    __slots__ = (
        "_begun", "_clock", "_counters", "_handle", "_lateness", "_loop", "_registry", "_relays",
        "_rules", "_tokens",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: SliceRegistry,
        counters: Counters,
        relays: Iterable[LateRequests],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._counters = counters
        self._relays = relays
        self._clock = clock
        self._rules = HedgingRules()
        self._tokens = 0.0
        self._begun = 0
        self._handle: asyncio.TimerHandle | None = None
        self._lateness: Lateness | None = None

    def configure(self, rules: HedgingRules) -> None:
        """Hedge by these rules from now on; what has been sent twice goes on."""
        if rules.quantile != self._rules.quantile:
            quantile = rules.quantile
            self._lateness = Lateness(quantile, self._clock()) if quantile else None
        self._rules = rules
        if not rules.on:
            self.stop()
        elif self._handle is None:
            self._tokens = 0.0
            self._begun = self._counters.http_requests + self._counters.grpc_calls
            self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def after_s(self, key: str) -> float:
        """Return when a request of the pool `key` is late."""
        if self._lateness is not None:
            return self._lateness.after_s(key)
        return self._rules.after_s or NEVER_S

    @property
    def least_s(self) -> float:
        """What is younger is not late, whatever pool it is of."""
        return self._rules.after_s if self._lateness is None else self._lateness.least_s

    def second(self, key: str, taken: Slice) -> tuple[Slice, Lane | None] | None:
        """
        Return where a late request of the pool `key` may go beside `taken`; None where it may not.

        What is returned is counted as sent.
        """
        pool = self._registry.pool(key)
        if self._tokens < 1.0 or pool.key != key or not key.startswith("infer/"):
            return None
        found = pool.spare(taken)
        if found is None:
            return None
        self._tokens -= 1.0
        self._counters.hedges += 1
        return found

    def _look(self) -> None:
        least_s = self.least_s
        pause_s = min(max(least_s * PAUSE_SHARE, PAUSE_MIN_S), PAUSE_MAX_S)
        self._handle = self._loop.call_later(pause_s, self._look)
        now_s = self._clock()
        if self._lateness is not None:
            self._lateness.tick(self._registry.slices.values(), now_s)
        begun = self._counters.http_requests + self._counters.grpc_calls
        earned = (begun - self._begun) * self._rules.percent / 100
        self._begun = begun
        self._tokens = min(BURST, self._tokens + earned)
        if self._tokens >= 1.0 and least_s < NEVER_S:
            for relay in self._relays:
                relay.hedge_late(now_s)
