"""
The state machine of a slice, in one place: what may follow what, and what follows from it.

Four things are kept apart, because different parties own them: the operator's Order, the Health that
checks have seen, the Ejection that traffic has brought about (of the whole slice, or of one model on
it), and which models are ready. What users read as State, and what work a slice takes, is looked up
in WHOLE and in MODEL. docs/slice-lifecycle.md is drawn from these tables.
"""

from collections.abc import Iterable
from enum import Enum
from itertools import product
from typing import Final

from gateway.fleet.health import (
    DISABLED,
    DOWN,
    DRAINED,
    ENABLED,
    UNKNOWN,
    UP,
    Health,
    Order,
    State,
)


class Ejection(Enum):
    """What the gateway itself has decided of a slice, or of a model on it, by its answers."""

    FREE = "free"
    EJECTED = "ejected"
    DUE = "due"
    TRYING = "trying"


class Traffic(Enum):
    """
    What work is given.

    ONE is a single live request, by whose outcome the rest is decided. RESERVE is work only while
    nobody takes ALL: a failing answer is no worse than a refusal of our own.
    """

    NONE = "none"
    RESERVE = "reserve"
    ONE = "one"
    ALL = "all"


class Step(Enum):
    """What moves an Ejection."""

    EJECT = "eject"
    TIME = "time"
    TRY = "try"
    ANSWERED = "answered"
    FAILED = "failed"
    UNDECIDED = "undecided"
    FORGET = "forget"


# Aliases: an enum member read through its class costs 105 ns on Python 3.11, a global 10.
FREE: Final = Ejection.FREE
EJECTED: Final = Ejection.EJECTED
DUE: Final = Ejection.DUE
TRYING: Final = Ejection.TRYING

NONE: Final = Traffic.NONE
RESERVE: Final = Traffic.RESERVE
ONE: Final = Traffic.ONE
ALL: Final = Traffic.ALL

NEXT_EJECTION: Final = {
    (FREE, Step.EJECT): EJECTED,
    (EJECTED, Step.TIME): DUE,
    (DUE, Step.TRY): TRYING,
    (TRYING, Step.ANSWERED): FREE,
    (TRYING, Step.FAILED): EJECTED,
    (TRYING, Step.UNDECIDED): DUE,
    (TRYING, Step.TIME): DUE,
    (EJECTED, Step.FORGET): FREE,
    (DUE, Step.FORGET): FREE,
    (TRYING, Step.FORGET): FREE,
}
"""(ejection, step) → ejection; a pair that is missing here must not happen."""

_HEALTHS: Final = (UNKNOWN, UP, DOWN)
_EJECTIONS: Final = (FREE, EJECTED, DUE, TRYING)
_AWAY: Final = (EJECTED, TRYING)

Key = tuple[Order, Health, Ejection]
Row = tuple[tuple[Order, ...], tuple[Health, ...], tuple[Ejection, ...], State, Traffic]

ROWS: Final[tuple[Row, ...]] = (
    ((ENABLED,), (UP,), (FREE,), State.READY, ALL),
    ((ENABLED,), (UP,), _AWAY, State.EJECTED, RESERVE),
    ((ENABLED,), (UP,), (DUE,), State.EJECTED, ONE),
    ((ENABLED,), (UNKNOWN,), _EJECTIONS, State.STARTING, NONE),
    ((ENABLED,), (DOWN,), _EJECTIONS, State.UNREADY, NONE),
    ((DRAINED,), _HEALTHS, _EJECTIONS, State.DRAINING, NONE),
    ((DISABLED,), _HEALTHS, _EJECTIONS, State.DISABLED, NONE),
)
"""
The table as people read it. Two things are not in it: a disabled slice with work in flight is told
as `draining`; and one that is down because it did not answer, not because nobody listens, stays a
RESERVE for `ejection.panic`.
"""


def _expanded(rows: Iterable[Row]) -> dict[Key, tuple[State, Traffic]]:
    table: dict[Key, tuple[State, Traffic]] = {}
    for orders, healths, ejections, state, traffic in rows:
        for key in product(orders, healths, ejections):
            assert key not in table, f"two rows say what follows from {key}"
            table[key] = state, traffic
    assert len(table) == len(Order) * len(Health) * len(Ejection), "a combination has no row"
    return table


WHOLE: Final = _expanded(ROWS)
"""(order, health, ejection) → (what users are told, what work the slice takes)."""

MODEL: Final = {FREE: ALL, EJECTED: RESERVE, DUE: ONE, TRYING: RESERVE}
"""Ejection of a model that is ready on a slice → what inference for it the slice takes at most."""

_LEAST_FIRST: Final = (NONE, RESERVE, ONE, ALL)


def least(one: Traffic, other: Traffic) -> Traffic:
    """Return the smaller of what a slice takes and what a model on it takes."""
    return _LEAST_FIRST[min(_LEAST_FIRST.index(one), _LEAST_FIRST.index(other))]
