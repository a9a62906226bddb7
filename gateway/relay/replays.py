"""
Replays: whether what one slice was given may be given to another, and how often.

What certainly never reached a slice (connection refused, GOAWAY, REFUSED_STREAM) goes elsewhere
freely, as gRPC's transparent retries do. What a slice may have begun with is work done twice, and
that has a budget: a share of the traffic, as in Envoy and Finagle, so that slices which keep breaking
off do not double the load of the others. On top of the share everything in flight may be repeated
once: the death of a slice loses at most that, and must cost no client an answer.
"""

from collections.abc import Callable
from typing import Final

from gateway.limits import REPLAY_ANY, Limits

BUCKETS: Final = 10
BUCKET_S: Final = 1.0
"""The share is one of the last BUCKETS x BUCKET_S seconds."""


class Replays:
    """
    Plain counts, turned once a second by the sweep; a request that is not replayed costs nothing.

    Attributes:
        sent_too: Also what a slice may have begun with is given to another (`replay: any`).
        deadline_s: When the next bucket begins; see gateway.relay.deadlines.

    Args:
        choice: One of gateway.limits.REPLAY_CHOICES.
        begun: Returns how many requests have come since the start.
        in_flight: Returns how many are with slices.
        each_second: Called with each bucket, for what else looks at the clock so seldom.
    """

    __slots__ = (
        "_at",
        "_begun",
        "_begun_before",
        "_each_second",
        "_floor",
        "_in_flight",
        "_percent",
        "_spent",
        "deadline_s",
        "sent_too",
    )

    def __init__(
        self,
        limits: Limits,
        choice: str,
        begun: Callable[[], int],
        in_flight: Callable[[], int],
        each_second: Callable[[float], None],
    ) -> None:
        self.deadline_s = 1e-9  # at the first sweep
        self._begun = begun
        self._in_flight = in_flight
        self._each_second = each_second
        self._at = 0
        self._begun_before = [0] * BUCKETS  # what begun() was when the bucket began
        self._spent = [0] * BUCKETS
        self.configure(limits, choice)

    def configure(self, limits: Limits, choice: str) -> None:
        """Follow what a reload has changed; what was spent stays spent."""
        self._percent = limits.replay_percent
        self._floor = limits.replay_floor
        self.sent_too = choice == REPLAY_ANY

    def on_deadline(self, now_s: float) -> None:
        """Begin the next bucket."""
        self._at = (self._at + 1) % BUCKETS
        self._begun_before[self._at] = self._begun()
        self._spent[self._at] = 0
        self.deadline_s = now_s + BUCKET_S
        self._each_second(now_s)

    @property
    def left(self) -> int:
        """How many more requests that a slice may have begun with may be sent again now."""
        requests = self._begun() - self._begun_before[(self._at + 1) % BUCKETS]
        allowed = self._floor + requests * self._percent // 100 + self._in_flight()
        return max(0, allowed - sum(self._spent))

    def spend(self) -> bool:
        """Take one of them; return False when there is none left."""
        if not self.left:
            return False
        self._spent[self._at] += 1
        return True
