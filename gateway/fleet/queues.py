"""
Queues: the lines of all models, and who is asked to go on when a slice has room again. Pure.

Slices say when one of their requests ends (`Slice.on_free`), but only while somebody waits. What is
waited for is looked at soon after, not at once: by then the relay has said what came of the request
that ended, so that a slice that fails does not draw the next ones by failing.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from gateway.fleet.lanes import UNLIMITED, Lane, ModelLimit
from gateway.fleet.line import NEVER_S, Line, Turn
from gateway.fleet.places import Common, QueueFigures, QueueSettings
from gateway.fleet.pools import SlicePool
from gateway.fleet.slices import NO_LIMIT, Slice

TICK_S: Final = 0.1
"""For what changes by time alone: slow starts, charges, and how long somebody may wait."""


class Queues:
    """
    All lines.

    Args:
        now_s: The clock.
        pool_of: Returns the pool that takes the requests of a key at the moment.
        slices: Returns all slices by name.
        changed: Called when pools get lines or lose them.

    Attributes:
        make_lane: Makes the lane of a slice for a model.
        make_turn: Makes a model's Turn, where several processes serve; None for the only one.
        tick_s: How often to look at what changes by time, or by what other processes do.
        limits: What the models' configurations ask for.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        pool_of: Callable[[str], SlicePool],
        slices: Callable[[], Mapping[str, Slice]],
        changed: Callable[[], None],
    ) -> None:
        self.common = Common(now_s, pool_of)
        self.common.wanted = self.want
        self.limits: dict[str, ModelLimit] = {}
        self.lines: dict[str, Line] = {}
        self.make_lane: Callable[[str, Slice], Lane] = lambda model, member: Lane(member)
        self.make_turn: Callable[[str], Turn | None] = lambda model: None
        self.tick_s = TICK_S
        self._slices = slices
        self._changed = changed
        self._call_soon: Callable[[Callable[[], None]], object] | None = None
        self._call_later: Callable[[float, Callable[[], None]], object] | None = None
        self._soon = False
        self._later = False
        self._slices_limited = False

    def run_by(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """Have `pump` called by an event loop whenever it is wanted."""
        self._call_soon = call_soon
        self._call_later = call_later

    @property
    def settings(self) -> QueueSettings:
        return self.common.settings

    @property
    def figures(self) -> QueueFigures:
        return self.common.figures

    @property
    def waiting(self) -> int:
        """Requests that wait, over all models."""
        return sum(line.waiting for line in self.common.busy)

    # --- limits -------------------------------------------------------------------------------

    def configure(self, settings: QueueSettings) -> None:
        """Let requests wait by other settings from now on."""
        self.common.settings = settings
        self._changed()

    def follow(self, model: str, limit: ModelLimit) -> None:
        """Say what a model's configuration asks for."""
        if self.limits.get(model, UNLIMITED) != limit:
            self.limits[model] = limit
            self._changed()

    def keep_only(self, models: Collection[str]) -> None:
        """Forget the configurations of models that no slice has any more."""
        for gone in [model for model in self.limits if model not in models]:
            del self.limits[gone]

    def limit_of(self, model: str) -> ModelLimit:
        """Return the limit of a model: the operator's, or what its configuration asks for."""
        settings = self.common.settings
        if not settings.enabled:
            return UNLIMITED
        wanted = settings.models.get(model)
        return self.limits.get(model, UNLIMITED) if wanted is None else ModelLimit(wanted, True)

    def of_pool(self, key: str) -> Line | None:
        """Return the line for the requests of a pool; None where no slice has a limit for them."""
        if not self.common.settings.enabled or key.startswith("call"):
            return None
        model = key.split("/", 2)[1] if key else ""
        limit = self.limit_of(model)
        if not limit.at_once and not self._slices_limited:
            return None
        line = self.lines.get(model)
        if line is None:
            line = Line(model, self.common, lambda member: self.make_lane(model, member))
            line.turn = self.make_turn(model)
            self.lines[model] = line
        line.limit = limit
        return line

    def fit_slices(self) -> None:
        """Bring the slices' own limits up to date; call it before `of_pool`."""
        settings = self.common.settings
        self._slices_limited = False
        for member in self._slices().values():
            wanted = member.spec.max_in_flight
            limit = settings.max_in_flight if wanted is None else wanted
            member.max_in_flight = limit if limit and settings.enabled else NO_LIMIT
            self._slices_limited = self._slices_limited or member.max_in_flight != NO_LIMIT

    def fit_lanes(self) -> None:
        """Bring the lanes up to date with the slices, and see who can go now."""
        slices = list(self._slices().values())
        for model, line in list(self.lines.items()):
            line.limit = self.limit_of(model)
            members = [m for m in slices if not model or model in (m.models or ())]
            if not line.limit.at_once and not self._slices_limited and not line.waiting:
                del self.lines[model]  # who is on its lanes keeps them
            else:
                line.fit(members, slices)
        if self.common.busy:
            self.want()

    # --- serving ------------------------------------------------------------------------------

    def want(self) -> None:
        """Look soon whether somebody can go on."""
        if not self._soon and self._call_soon is not None:
            self._soon = True
            self._call_soon(self._pump_soon)

    def pump(self) -> float:
        """
        Let everybody go who can, the lines in the order of who goes next.

        Returns:
            When to call it again, in seconds, though no request ends meanwhile; 0 when nobody waits.
        """
        busy, now_s = self.common.busy, self.common.now_s()
        before = list(busy)
        for line in before:
            line.look_s = NEVER_S
            line.expire(now_s)
        blocked: set[Line] = set()
        while True:
            lines = [line for line in busy if line not in blocked]
            if not lines:
                break
            line = lines[0] if len(lines) == 1 else min(lines, key=lambda one: one.next_rank)
            if not line.serve_next():
                blocked.add(line)
        self._watch_slices()
        for line in {*busy, *before}:
            if line.turn is not None:
                line.turn.tell(line.next_rank if line.waiting else 0.0)
        return min([self.tick_s, *(line.look_s for line in busy)]) if busy else 0.0

    # --- inside -------------------------------------------------------------------------------

    def _watch_slices(self) -> None:
        """Have slices say when they are free, for as long as somebody waits."""
        on_free = self.want if self.common.busy else None
        for member in self._slices().values():
            member.on_free = on_free
        # A slice that is no longer configured frees nothing that anybody waits for.

    def _pump_soon(self) -> None:
        self._soon = False
        again_s = self.pump()
        if again_s and not self._later and self._call_later is not None:
            self._later = True
            self._call_later(again_s, self._pump_later)

    def _pump_later(self) -> None:
        self._later = False
        if self.common.busy:
            self._pump_soon()
