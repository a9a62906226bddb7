"""
Line: where the requests for one model wait while every slice has as many as it should (late binding).

A request that is bound to a slice early waits there, even if another slice is free sooner. In the
line it waits for whichever comes first. Nothing here costs anything while nobody waits but the
question whether there is room, `admit`.

Who goes next: requests that were sent to a slice in vain and are sent once more; then by the time of
arrival, to which each step of urgency adds `step_s`. So an urgent request overtakes those that came
up to so many seconds before it, and nobody is overtaken for ever. Pure.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Final, Protocol

from gateway.errors import NO_SLICE, QUEUE_FULL, QUEUE_TIMEOUT, Fault
from gateway.fleet.lanes import UNLIMITED, Lane, ModelLimit, longest_well
from gateway.fleet.places import URGENCIES, URGENCY_DEFAULT, Common, Group, Place, Waiter
from gateway.fleet.slices import Slice

if TYPE_CHECKING:
    from gateway.fleet.pools import SlicePool

SHORT_S: Final = 0.002
SHORT_CHECKS: Final = 5.0
"""Below SHORT_S, or this many health checks, an unbatched model's service is short beside the way from
one request's end to the next one's beginning, so that the slice would stand idle: it gets one request
ahead. A check goes that way a few times, and takes longer where the machine is busy."""
PACE_SAMPLES: Final = 32
RETRY_S_MAX: Final = 60
NEVER_S: Final = 1e9
FIRST_RANK: Final = 1e-6


class Turn(Protocol):
    """The order among several processes that have a line for the same model each."""

    def tell(self, rank: float) -> None:
        """Tell the others who goes next here; 0 when nobody waits."""

    def is_others(self, rank: float) -> bool:
        """Say whether a request of that rank is to leave a free slot to another process's."""


class Line:
    """
    The requests waiting for one model, and the lanes they wait for.

    Attributes:
        model: Its name; "" for requests that name none that a slice has reported.
        waiting: How many.
        bytes: That they hold.
        pace_s: Mean time between two that are served while others wait; 0 while unknown.
        ahead: Requests beyond the instances of an unbatched model, because its service is short.
        turn: Of this process; None where there is only one.
        look_s: When a slice that was left idle should be thought of again, at the latest.
    """

    __slots__ = (
        "_fresh_pace_s", "_fresh_samples", "_instances", "_samples", "_smallest", "ahead", "bytes", "common",
        "groups", "lanes", "limit", "look_s", "make_lane", "model", "pace_s", "turn", "waiting",
    )  # fmt: skip

    def __init__(self, model: str, common: Common, make_lane: Callable[[Slice], Lane]) -> None:
        self.model = model
        self.common = common
        self.make_lane = make_lane
        self.limit: ModelLimit = UNLIMITED
        self.lanes: dict[Slice, Lane] = {}
        self.groups: dict[str, Group] = {}
        self.waiting = 0
        self.bytes = 0
        self.pace_s = 0.0
        self.ahead = 0
        self.look_s = NEVER_S
        self.turn: Turn | None = None
        self._samples = 0
        self._fresh_pace_s = 0.0  # since somebody waits; what was before says nothing of now
        self._fresh_samples = 0
        self._smallest = 1.0
        self._instances = 0

    # --- coming -------------------------------------------------------------------------------

    def admit(self, pool: "SlicePool") -> Lane | None:
        """Return where a request that has just come may go at once; None: it has to wait."""
        return self.choose(pool, (), 1, 0.0) if self.nobody_waits() else None

    def nobody_waits(self) -> bool:
        """Say whether a request that has just come is not behind others, in whatever process."""
        if self.waiting:
            return False
        if self.turn is None:
            return True
        common = self.common
        return not self.turn.is_others(common.now_s() + URGENCY_DEFAULT * common.settings.step_s)

    def enter(
        self, waiter: Waiter, pool: "SlicePool", urgency: int, size: int, may_wait_s: float
    ) -> Place | Fault:
        """
        Let a request wait that was not admitted.

        Args:
            urgency: From 0, the most urgent, to 7.
            size: Bytes held for it.
            may_wait_s: Until its own deadline; 0 for none.

        Returns:
            Its place, which it leaves when it ends by itself; or why it may not wait.
        """
        common = self.common
        settings = common.settings
        now_s = common.now_s()
        place = Place(self, self._group(pool.key), waiter, urgency, size, now_s)
        place.ahead = self._before(place)
        late_s = settings.timeout_s or NEVER_S
        if may_wait_s and may_wait_s < late_s:
            late_s = may_wait_s
        if common.bytes + size > settings.bytes:
            return self._refuse("bytes", pool.key)
        if place.ahead and self._fresh_pace_s * (place.ahead + 1) > late_s:
            return self._refuse("late", pool.key)
        if self.waiting >= settings.length:
            last = self._last_behind(urgency)
            if last is None:
                return self._refuse("length", pool.key)
            self.remove(last, "displaced")
            last.waiter.on_refused(QUEUE_FULL.after(self.retry_after_s))
        # Whoever was displaced may have been the last of its group.
        place.group = group = self._group(pool.key)
        group.levels[urgency][place] = None
        self._came(place)
        return place

    def enter_again(
        self, waiter: Waiter, pool: "SlicePool", tried: tuple[Slice, ...], size: int
    ) -> Place:
        """Let a request wait in front that was given to the slices `tried` in vain."""
        group = self._group(pool.key)
        place = Place(self, group, waiter, 0, size, self.common.now_s())
        place.again = True
        place.tried = tried
        group.again[place] = None
        self._came(place)
        return place

    # --- going --------------------------------------------------------------------------------

    def choose(
        self, pool: "SlicePool", tried: Sequence[Slice], waiting: int, waited_s: float
    ) -> Lane | None:
        """
        Return the lane for a request; None while it has to wait, or when nobody is left for it.

        Args:
            tried: Slices it must not be given to.
            waiting: Requests that wait, this one included.
            waited_s: For how long this one has.
        """
        if pool.trials and not tried:
            for trial in pool.trials:
                if trial.take():
                    return self.lane(trial.member)
        members: Sequence[Slice] = pool.members
        if tried:
            members = [member for member in members if member not in tried]
        if not members:
            return self._choose_reserve(pool, tried)
        target = pool.policy.pick(members)
        if target is None:
            return None
        lane = self.lanes.get(target)
        if lane is None:
            lane = self.lane(target)
        if lane.has_room():
            return lane
        return self._choose_free(pool, members, waiting, waited_s)

    def serve_next(self) -> bool:
        """Let the next one go that can; return whether one has gone, to a slice or otherwise."""
        now_s = self.common.now_s()
        for group in list(self.groups.values()):
            for place in list(group.again):
                if self._serve(place, now_s):
                    return True
        if len(self.groups) == 1:
            for group in self.groups.values():
                first = group.head()
                return first is not None and self._serve(first, now_s)
        heads = [head for group in self.groups.values() if (head := group.head()) is not None]
        heads.sort(key=lambda place: place.rank)
        return any(self._serve(head, now_s) for head in heads)

    def expire(self, now_s: float) -> None:
        """Refuse those that have waited for too long."""
        timeout_s = self.common.settings.timeout_s
        if not timeout_s:
            return
        for group in list(self.groups.values()):
            for level in (group.again, *group.levels):
                while level:
                    first = next(iter(level))
                    if now_s - first.at_s < timeout_s:
                        break
                    self.remove(first, "timeout")
                    first.waiter.on_refused(QUEUE_TIMEOUT.after(self.retry_after_s))

    def remove(self, place: Place, how: str) -> None:
        """Take a place out of the line; a second time does nothing."""
        group = place.group
        level = group.again if place.again else group.levels[place.urgency]
        if place not in level:
            return
        del level[place]
        group.waiting -= 1
        if not group.waiting:
            self.groups.pop(group.key, None)
        self.waiting -= 1
        common = self.common
        common.bytes -= place.bytes
        self.bytes -= place.bytes
        ended = common.figures.ended
        key = f"{self.model} {how}"
        ended[key] = ended.get(key, 0) + 1
        if not self.waiting:
            common.busy.pop(self, None)
            self._fresh_pace_s = 0.0
            self._fresh_samples = 0
        if how != "served":
            common.wanted()  # who stood behind it may go, or nobody waits any more

    # --- limits -------------------------------------------------------------------------------

    def lane(self, member: Slice) -> Lane:
        """Return the lane on `member`."""
        lane = self.lanes.get(member)
        if lane is None:
            lane = self.lanes[member] = self.make_lane(member)
            lane.limit = self.limit.of(member.weight, self._smallest, self.ahead)
        return lane

    def fit(self, members: Sequence[Slice], slices: Sequence[Slice]) -> None:
        """
        Bring the lanes' limits up to date.

        Args:
            members: The slices that have the model.
            slices: All there are; lanes of others are given up, by those who are on them as well.
        """
        weights = [member.weight for member in members if member.weight > 0]
        self._smallest = min(weights) if weights else 1.0
        self._instances = 0 if self.limit.batches else self.limit.at_once * len(weights)
        for gone in [member for member in self.lanes if member not in slices]:
            del self.lanes[gone]
        for member in members:
            self.lane(member)
        for member, lane in self.lanes.items():
            lane.limit = self.limit.of(member.weight, self._smallest, self.ahead)

    @property
    def retry_after_s(self) -> int:
        """How long until those that wait now have been served, in whole seconds."""
        return max(1, min(RETRY_S_MAX, ceil(self._fresh_pace_s * self.waiting)))

    @property
    def oldest_s(self) -> float:
        """When the one that has waited longest came; 0 when nobody waits."""
        firsts = [
            next(iter(level)).at_s
            for group in self.groups.values()
            for level in (group.again, *group.levels)
            if level
        ]
        return min(firsts) if firsts else 0.0

    @property
    def next_rank(self) -> float:
        """The rank of who goes next; repetitions come before all others."""
        best = NEVER_S * NEVER_S
        for group in self.groups.values():
            if group.again:
                return FIRST_RANK
            head = group.head()
            if head is not None and head.rank < best:
                best = head.rank
        return best

    # --- inside -------------------------------------------------------------------------------

    def _group(self, key: str) -> Group:
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(key)
        return group

    def _came(self, place: Place) -> None:
        place.group.waiting += 1
        self.waiting += 1
        common = self.common
        common.bytes += place.bytes
        self.bytes += place.bytes
        common.busy[self] = None
        common.wanted()

    def _refuse(self, why: str, key: str) -> Fault:
        group = self.groups.get(key)
        if group is not None and not group.waiting:
            del self.groups[key]
        refused = self.common.figures.refused
        name = f"{self.model} {why}"
        refused[name] = refused.get(name, 0) + 1
        return QUEUE_FULL.after(self.retry_after_s)

    def _before(self, place: Place) -> int:
        """Return how many are to be served before a newcomer: those at least as urgent."""
        before = 0
        for group in self.groups.values():
            before += len(group.again)
            for urgency in range(place.urgency + 1):
                before += len(group.levels[urgency])
        return before

    def _last_behind(self, urgency: int) -> Place | None:
        """Return who is given up for one more urgent: the last of the least urgent."""
        for level in range(URGENCIES - 1, urgency, -1):
            places = [
                next(reversed(group.levels[level]))
                for group in self.groups.values()
                if group.levels[level]
            ]
            if places:
                return max(places, key=lambda place: place.at_s)
        return None

    def _choose_free(
        self, pool: "SlicePool", members: Sequence[Slice], waiting: int, waited_s: float
    ) -> Lane | None:
        """The best slice is full: take another, unless the best is worth waiting for."""
        free = [member for member in members if self.lane(member).has_room()]
        target = pool.policy.pick(free) if free else None
        if target is None:
            return None
        if self.pace_s:
            weights = sum([member.weight for member in members])
            left_s = pool.policy.rather_waits(target, members, waiting) * self.pace_s * weights
            if left_s > waited_s:
                self.look_s = min(self.look_s, left_s - waited_s)
                return None
        return self.lane(target)

    def _choose_reserve(self, pool: "SlicePool", tried: Sequence[Slice]) -> Lane | None:
        """Nobody is well: ask those that may recover, within their limits as well."""
        free = [m for m in pool.reserve if m not in tried and self.lane(m).has_room()]
        target = longest_well(free)
        return None if target is None else self.lane(target)

    def _serve(self, place: Place, now_s: float) -> bool:
        if self.turn is not None and not place.again and self.turn.is_others(place.rank):
            return False
        pool = self.common.pool_of(place.group.key)
        lane = self.choose(pool, place.tried, self.waiting, now_s - place.at_s)
        if lane is None:
            if anybody(pool, place.tried):
                return False
            self.remove(place, "no_slice")
            place.waiter.on_refused(NO_SLICE)
            return True
        self.remove(place, "served")
        self._learn(place, now_s - place.at_s)
        place.waiter.on_turn(lane)
        return True

    def _learn(self, place: Place, waited_s: float) -> None:
        """Note how long one has waited: behind n others that is n + 1 times the pace."""
        self.common.figures.wait.add(waited_s)
        if place.again:
            return
        pace_s = waited_s / (place.ahead + 1)
        self._samples = min(self._samples + 1, PACE_SAMPLES)
        self.pace_s += (pace_s - self.pace_s) / self._samples
        if self.waiting:
            self._fresh_samples = min(self._fresh_samples + 1, PACE_SAMPLES)
            self._fresh_pace_s += (pace_s - self._fresh_pace_s) / self._fresh_samples
        if self._instances and self._samples == PACE_SAMPLES:
            # What all instances together finish one of in `pace_s` takes each that many times it.
            service_s = self.pace_s * self._instances
            short_s = max(SHORT_S, SHORT_CHECKS * self._check_s())
            ahead = 1 if service_s < (2 * short_s if self.ahead else short_s) else 0
            if ahead != self.ahead:
                self.ahead = ahead
                for member, lane in self.lanes.items():
                    lane.limit = self.limit.of(member.weight, self._smallest, ahead)

    def _check_s(self) -> float:
        """Return what a health check of these slices takes, in the median; 0 where nobody knows."""
        took_s = [
            last.took_s
            for member in self.lanes
            if (last := member.health.last) is not None and last.passed
        ]
        took_s.sort()
        return took_s[len(took_s) // 2] if took_s else 0.0


def anybody(pool: "SlicePool", tried: Sequence[Slice]) -> bool:
    """Say whether there is a slice that a request could be given to once it has room."""
    if pool.trials and not tried:
        return True
    return any(member not in tried for member in (pool.members or pool.reserve))
