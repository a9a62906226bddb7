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
    The slice with the least work for its size: argmin (in_flight + charge + 1) / weight.

    Counts are exact, over all clients and both protocols, so every slice is looked at: 0.7 us for
    seven, 4.4 us for 56. Two random choices would save nothing and cost a quarter of the p99. Ties
    go to the slice that was picked longest ago, else an idle gateway would send all to the first.
    """

    __slots__ = ()

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        best: Slice | None = None
        best_cost = best_pick = 0.0
        for member in members:
            cost = (member.in_flight + member.charge + 1.0) / member.weight
            if (
                best is None
                or cost < best_cost
                or (cost == best_cost and member.last_pick < best_pick)
            ):
                best, best_cost, best_pick = member, cost, member.last_pick
        if best is not None:
            best.last_pick = _turn()
        return best


class RoundRobin:
    """
    Each slice in turn, in proportion to weight, spread out (smooth weighted round robin).

    With equal weights any run of n picks among n slices takes each once. The turn survives
    changes of membership: a slice that leaves and returns does not get two turns in a row.
    """

    __slots__ = ("_current",)

    def __init__(self) -> None:
        self._current: dict[Slice, float] = {}

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        current = self._current
        if len(current) > 2 * len(members) + 16:  # slices that are gone for good
            self._current = current = {m: current.get(m, 0.0) for m in members}
        best: Slice | None = None
        best_value = total = 0.0
        for member in members:
            value = current.get(member, 0.0) + member.weight
            current[member] = value
            total += member.weight
            if best is None or value > best_value:
                best, best_value = member, value
        if best is not None:
            current[best] = best_value - total
            best.last_pick = _turn()
        return best


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "least_load": LeastLoad,
    "round_robin": RoundRobin,
}
