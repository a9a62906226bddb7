"""SlicePool: who may take one kind of request, as the relays see it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.fleet.health import UP
from gateway.fleet.lanes import Lane, longest_well
from gateway.fleet.lifecycle import DUE
from gateway.fleet.line import Line
from gateway.fleet.sequences import SequenceTable
from gateway.fleet.slices import Slice
from gateway.fleet.tally import Tally


class Policy(Protocol):
    """
    Chooses a slice; one object for each pool.

    Called once a request: no await, no logging, no I/O.
    """

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        """Return one of `members`, or None when there are none."""

    def rather_waits(self, free: Slice, members: Sequence[Slice], waiting: int) -> float:
        """
        Say whether a request is served sooner if it does not take `free`, which has room.

        Args:
            members: All of the pool, `free` among them; those that would be better are full.
            waiting: Requests that wait, this one included.

        Returns:
            By how much, in mean services of a slice of weight 1; 0 where it should take it.
        """


class Trial:
    """A slice that was ejected and is due: one live request decides whether it returns."""

    __slots__ = ("_begin", "_tallies", "member")

    def __init__(
        self, member: Slice, tallies: Sequence[Tally], begin: Callable[[Slice, Tally], None]
    ) -> None:
        self.member = member
        self._tallies = tallies
        self._begin = begin

    @property
    def due(self) -> bool:
        """No request is trying the slice at the moment."""
        return all(tally.ejection is DUE for tally in self._tallies)

    def take(self) -> bool:
        """Say whether the next request is the one that tries; there is only one at a time."""
        if not self.due:
            return False
        for tally in self._tallies:
            self._begin(self.member, tally)
        return True


class SlicePool:
    """
    The slices that may take one kind of request, and the policy that chooses among them.

    Attributes:
        key: See gateway.fleet.registry.SliceRegistry.
        members: Those that take all work.
        trials: Those that take one request.
        reserve: Those that are asked while there are no members; empty while there are.
        sequences: Of the model, whose requests then belong together; None for most.
        line: Where its requests wait while every slice has as many as it should; None where
            slices have no limits.
    """

    __slots__ = ("key", "line", "members", "policy", "reserve", "sequences", "trials")

    def __init__(self, policy: Policy, key: str = "") -> None:
        self.key = key
        self.members: tuple[Slice, ...] = ()
        self.trials: tuple[Trial, ...] = ()
        self.reserve: tuple[Slice, ...] = ()
        self.sequences: SequenceTable | None = None
        self.line: Line | None = None
        self.policy = policy

    def pick(self) -> Slice | None:
        """Return the slice for a new request; None when nobody may take it."""
        if self.trials:
            for trial in self.trials:
                if trial.take():
                    return trial.member
        if self.members:
            return self.policy.pick(self.members)
        return longest_well(self.reserve)

    def pick_other(self, tried: Sequence[Slice]) -> Slice | None:
        """Pick among those that are not in `tried`; a request that has failed tries nobody out."""
        others = [member for member in self.members if member not in tried]
        if others:
            return self.policy.pick(others)
        return longest_well([member for member in self.reserve if member not in tried])

    def has_other(self, tried: Sequence[Slice]) -> bool:
        """
        Say whether a slice that is not in `tried` may take it, and would answer: one that hangs
        as well is no better than the one that was tried.
        """
        for member in self.members:
            if member not in tried:
                return True
        return any(member not in tried and member.health.health is UP for member in self.reserve)

    def spare(self, taken: Slice) -> tuple[Slice, Lane | None] | None:
        """
        Return a slice, with its lane where it has one, for a second copy of what `taken` has.

        Only what would else do less counts: a member that has room, and less to do for its size than
        `taken`, while nobody waits. Who is ejected, due for a trial or in reserve is no member.
        """
        line = self.line
        if self.sequences is not None or (line is not None and not line.nobody_waits()):
            return None
        free = [
            member
            for member in self.members
            if member is not taken
            and (member.in_flight * member.drag + member.charge) * taken.weight
            < taken.in_flight * member.weight
            and (line is None or line.lane(member).has_room())
        ]
        target = self.policy.pick(free) if free else None
        if target is None or line is None:
            return None if target is None else (target, None)
        lane = line.lane(target)
        # Once more: by now the counts are those of all processes.
        return (target, lane) if lane.has_room() else None

    def clear(self) -> None:
        """Let nobody take anything: the pool is no more, and somebody may still hold it."""
        self.members = self.reserve = ()
        self.trials = ()
