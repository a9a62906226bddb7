"""Places: who waits, in which order, and what is counted of it. Pure."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from gateway.errors import Fault
from gateway.fleet.histogram import Histogram
from gateway.fleet.lanes import Lane
from gateway.fleet.slices import Slice
from gateway.limits import MIB

if TYPE_CHECKING:
    from gateway.fleet.line import Line
    from gateway.fleet.pools import SlicePool

URGENCIES: Final = 8
"""0 is the most urgent, 7 the least: RFC 9218 section 4.1."""
URGENCY_DEFAULT: Final = 3


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """
    How requests wait.

    Attributes:
        enabled: Off: each request is given to a slice at once.
        max_in_flight: Of a slice that has no limit of its own, over all models; 0 for none.
        models: Limits by model, in place of what follows from its configuration; 0 for none.
        length: Requests waiting for one model.
        bytes: What all that wait hold.
        timeout_s: In the line; 0 for ever.
        priority_header: Its name, in lower case; empty: all are alike.
        step_s: What one step of urgency is worth in time of arrival.
    """

    enabled: bool = True
    max_in_flight: int = 0
    models: dict[str, int] = field(default_factory=dict)
    length: int = 1024
    bytes: int = 256 * MIB
    timeout_s: float = 10.0
    priority_header: str = "priority"
    step_s: float = 1.0


class QueueFigures:
    """
    Counters of all lines; the keys are "MODEL HOW".

    Attributes:
        ended: Requests that have waited, by how that ended: `served`, `left`, `timeout`, `displaced`
            by a more urgent one, `no_slice`. Each that came in is here once, or waits.
        refused: Requests that were not let in: `length`, `bytes`, or `late`: it would have waited
            for longer than it may.
        wait: Of those that were served, how long they waited.
    """

    __slots__ = ("ended", "refused", "wait")

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.wait = Histogram()


class Waiter(Protocol):
    """A request that may wait."""

    def on_turn(self, lane: Lane) -> None:
        """It is its turn: it is to begin on the lane, and on its slice, before this returns."""

    def on_refused(self, fault: Fault) -> None:
        """It will not be served."""


class Common:
    """
    What all lines share.

    Args:
        now_s: The clock.
        pool_of: Returns the pool that takes the requests of a key at the moment.

    Attributes:
        bytes: That those who wait hold.
        busy: Lines in which somebody waits, in no order.
        wanted: Called when there is something to look at: `Queues.pump` is to be called soon.
    """

    __slots__ = ("busy", "bytes", "figures", "now_s", "pool_of", "settings", "wanted")

    def __init__(self, now_s: Callable[[], float], pool_of: "Callable[[str], SlicePool]") -> None:
        self.now_s = now_s
        self.pool_of = pool_of
        self.settings = QueueSettings()
        self.figures = QueueFigures()
        self.bytes = 0
        self.busy: dict[Line, None] = {}
        self.wanted: Callable[[], None] = _nobody


def _nobody() -> None:
    pass


class Place:
    """
    One request's place in a line.

    Attributes:
        again: It has been sent to the slices `tried` in vain.
        ahead: How many were to be served before it when it came.
        rank: Who goes first: the lowest.
    """

    __slots__ = (
        "again", "ahead", "at_s", "bytes", "group", "line", "rank", "tried", "urgency", "waiter",
    )  # fmt: skip

    def __init__(
        self, line: "Line", group: "Group", waiter: Waiter, urgency: int, size: int, at_s: float
    ) -> None:
        self.line = line
        self.group = group
        self.waiter = waiter
        self.urgency = urgency
        self.bytes = size
        self.at_s = at_s
        self.rank = at_s + urgency * line.common.settings.step_s
        self.ahead = 0
        self.again = False
        self.tried: tuple[Slice, ...] = ()

    def leave(self) -> None:
        """The client has gone, or its time is up; the waiter is not told."""
        self.line.remove(self, "left")

    def grow(self, size: int) -> None:
        """More of the request has come."""
        self.bytes += size
        self.line.bytes += size
        self.line.common.bytes += size


class Group:
    """Those in a line that wait for the same pool: mostly there is only one."""

    __slots__ = ("again", "key", "levels", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.again: OrderedDict[Place, None] = OrderedDict()
        self.levels: list[OrderedDict[Place, None]] = [OrderedDict() for _ in range(URGENCIES)]
        self.waiting = 0

    def head(self) -> Place | None:
        """Return who goes next of those that are no repetition."""
        best: Place | None = None
        for level in self.levels:
            if level:
                first = next(iter(level))
                if best is None or first.rank < best.rank:
                    best = first
        return best
