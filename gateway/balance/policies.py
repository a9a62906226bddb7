"""
The balancing policies and their table.

To add one: write a class with `pick()` (see gateway.fleet.registry.Policy) and give it a line in
POLICIES; configuration, admin API and the property tests take it from there.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from gateway.fleet.registry import Policy
from gateway.fleet.slices import Slice

_turn = count(1).__next__


class LeastLoad:
    """
    The slice with the least work for its size: argmin (in_flight x drag + charge + 1) / weight.

    Counts are exact, over all clients and both protocols, so every slice is looked at: 0.7 us for
    seven, 4.4 us for 56. Two random choices would save nothing and cost a quarter of the p99. Ties
    go to the slice that was picked longest ago, else an idle gateway would send all to the first.

    `drag` is the slow start of a slice that comes back: its empty queue would draw everything. It
    weighs what is in flight, and not the slice: idle, it takes its turn like the others, and only
    the second request at once has to be worth it, so that it is warmed also by one client alone.
    """

    __slots__ = ()

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        best: Slice | None = None
        best_cost = 0.0
        best_pick = 0
        for member in members:
            cost = (member.in_flight * member.drag + member.charge + 1.0) / member.weight
            if (
                best is None
                or cost < best_cost
                or (cost == best_cost and member.last_pick < best_pick)
            ):
                best, best_cost, best_pick = member, cost, member.last_pick
        if best is not None:
            best.last_pick = _turn()
        return best

    def rather_waits(self, free: Slice, members: Sequence[Slice], waiting: int) -> float:
        """
        Compare the free slice with the best one, behind all that wait: a 1g that takes three
        times as long as a busy 3g is worth it only once enough requests wait (Lin and Kumar, 1984).
        """
        best_cost = weights = 0.0
        for member in members:
            cost = (member.in_flight * member.drag + member.charge + 1.0) / member.weight
            weights += member.weight
            if not best_cost or cost < best_cost:
                best_cost = cost
        cost = (free.in_flight * free.drag + free.charge + 1.0) / free.weight
        return max(0.0, cost - best_cost - waiting / weights)


class RoundRobin:
    """
    Each slice in turn, in proportion to weight, spread out (smooth weighted round robin).

    With equal weights any run of n picks among n slices takes each once. A pool's own members are
    a tuple, replaced when membership changes, and with them the sums start anew: what is left of
    a larger pool's round would send a burst to whoever was not served in it. The turn survives
    that: ties go to the slice with the fewest requests of any kind, so that several pools over the
    same slices are even together, and then to the one that was picked longest ago, so that a slice
    that leaves and returns does not get two turns in a row. A retry's list of the members that are left is no change of
    membership; its pick counts in the same round, so the others make up for it.
    """

    __slots__ = ("_current", "_members", "_picked", "_turn")

    def __init__(self) -> None:
        self._members: tuple[Slice, ...] = ()
        self._current: dict[Slice, float] = {}
        self._picked: dict[Slice, int] = {}
        self._turn = 0

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        if members is not self._members:
            if not isinstance(members, tuple) and set(members) <= set(self._members):
                return self._pick_among(members)
            self._change(tuple(members))
        current, picked = self._current, self._picked
        best: Slice | None = None
        best_value = total = 0.0
        best_tie = (0, 0)
        for member in members:
            value = current.get(member, 0.0) + member.weight
            current[member] = value
            total += member.weight
            if best is None or value >= best_value:
                tie = (member.http_requests + member.grpc_requests, picked.get(member, 0))
                if best is None or value > best_value or tie < best_tie:
                    best, best_value, best_tie = member, value, tie
        if best is not None:
            current[best] = best_value - total
            self._turn += 1
            picked[best] = self._turn
            best.last_pick = _turn()
        return best

    def rather_waits(self, free: Slice, members: Sequence[Slice], waiting: int) -> float:
        """Whoever has room has its turn."""
        return 0.0

    def _pick_among(self, some: Sequence[Slice]) -> Slice | None:
        """Pick one of `some` as if all had been asked and the others had let it go first."""
        if not some:
            return None
        current, picked = self._current, self._picked
        for member in self._members:
            current[member] = current.get(member, 0.0) + member.weight
        best = max(some, key=lambda m: (current[m], -m.requests, -picked.get(m, 0)))
        current[best] -= sum(member.weight for member in self._members)
        self._turn += 1
        picked[best] = self._turn
        best.last_pick = _turn()
        return best

    def _change(self, members: tuple[Slice, ...]) -> None:
        if members != self._members:
            self._current = {}
            if len(self._picked) > 2 * len(members) + 16:  # slices that are gone for good
                self._picked = {m: self._picked.get(m, 0) for m in members}
        self._members = members


class OverWorkers:
    """
    A policy that sees what all worker processes have in flight, not this one alone.

    Args:
        sums: Returns what is in flight by `Slice.column`, over all workers.
    """

    __slots__ = ("_policy", "_sums")

    def __init__(self, policy: Policy, sums: Callable[[], Sequence[int]]) -> None:
        self._policy = policy
        self._sums = sums

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        sums = self._sums()
        for member in members:
            member.in_flight = sums[member.column]
        return self._policy.pick(members)

    def rather_waits(self, free: Slice, members: Sequence[Slice], waiting: int) -> float:
        return self._policy.rather_waits(free, members, waiting)


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "least_load": LeastLoad,
    "round_robin": RoundRobin,
}
