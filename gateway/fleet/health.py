"""
What is seen of a slice (Health), what the operator wants of it (Order), and the words for what
follows (State). The tables that join them are in gateway.fleet.lifecycle.

The two are kept apart on purpose: a check never overrides an operator, and an operator never
overrides what a check has seen. What users read as "state" is computed from both.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Health(Enum):
    """What the checks have seen."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Order(Enum):
    """
    What the operator wants.

    DRAINED takes no new work and is still checked; DISABLED is out of service: no work, no
    connections, no checks.
    """

    ENABLED = "enabled"
    DRAINED = "drained"
    DISABLED = "disabled"


class State(Enum):
    """What users see in the admin API, the metrics and the logs."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    EJECTED = "ejected"
    DRAINING = "draining"
    DISABLED = "disabled"


# Aliases: an enum member read through its class costs 105 ns on Python 3.11, a global 10.
UNKNOWN: Final = Health.UNKNOWN
UP: Final = Health.UP
DOWN: Final = Health.DOWN
ENABLED: Final = Order.ENABLED
DRAINED: Final = Order.DRAINED
DISABLED: Final = Order.DISABLED

NEXT_HEALTH: Final = {
    (UNKNOWN, True): UP,
    (UNKNOWN, False): DOWN,
    (UP, False): DOWN,
    (DOWN, True): UP,
}
"""(health, enough checks have passed, or have failed) → health; flips only."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """
    How many consecutive results flip a slice's health.

    Attributes:
        rise: Passes before a slice that was down is up again.
        fall: Failures before a slice that was up is down. A refused or reset connection needs
            none: nobody listens there, and a second look would find the same.
    """

    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """
    One check of one slice.

    Attributes:
        passed: The slice lives.
        reason: For people: what was asked and what came back.
        conclusive: No further check is needed to believe a failure (connection refused).
        models: For each model with a ready version, the ready versions; None when the check did
            not learn them.
        took_s: How long the check took.
    """

    passed: bool
    reason: str
    conclusive: bool = False
    models: dict[str, tuple[str, ...]] | None = None
    took_s: float = 0.0


class HealthRecord:
    """
    The health of one slice, and the run of results that led to it.

    Attributes:
        hung: It was up and is down because it does not answer, not because nobody listens: whatever
            waits for it may wait for ever, and yet it may come to itself.
    """

    __slots__ = (
        "checked_at_s",
        "health",
        "hung",
        "last",
        "reason",
        "run",
        "since_s",
        "thresholds",
    )

    def __init__(self, thresholds: Thresholds, now_s: float) -> None:
        self.thresholds = thresholds
        self.health = UNKNOWN
        self.reason = "not checked yet"
        self.run = 0  # consecutive results against the present health
        self.last: CheckResult | None = None
        self.checked_at_s = 0.0
        self.since_s = now_s
        self.hung = False

    def record(self, result: CheckResult, now_s: float) -> bool:
        """Take one result in; return True when the health has flipped."""
        self.last = result
        self.checked_at_s = now_s
        wanted = NEXT_HEALTH.get((self.health, result.passed))
        if wanted is None:
            self.run = 0
            return False
        self.run += 1
        if self.run < self._needed(result):
            return False
        was_up = self.health is UP
        self._flip(wanted, result.reason, now_s)
        self.hung = was_up and not result.conclusive
        return True

    def would_rise(self, result: CheckResult) -> bool:
        """Return whether `result` would bring the slice up; nothing is changed."""
        return result.passed and self.health is not UP and self.run + 1 >= self._needed(result)

    def condemn(self, reason: str, now_s: float) -> bool:
        """Take the slice down on evidence from traffic; return True when that is news."""
        wanted = NEXT_HEALTH.get((self.health, False))
        if wanted is None:
            return False
        self._flip(wanted, reason, now_s)
        return True

    def forget(self, now_s: float) -> None:
        """Start over, as for a slice that was never checked."""
        self._flip(UNKNOWN, "not checked yet", now_s)

    def _needed(self, result: CheckResult) -> int:
        if self.health is UNKNOWN or result.conclusive:
            return 1  # at start one look suffices, both ways
        return self.thresholds.rise if result.passed else self.thresholds.fall

    def _flip(self, health: Health, reason: str, now_s: float) -> None:
        self.health = health
        self.reason = reason
        self.since_s = now_s
        self.run = 0
        self.hung = False
