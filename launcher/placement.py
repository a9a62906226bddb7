"""Geometry of placements, pure: what overlaps, what is free, what spoils least, what fits."""

from collections.abc import Mapping, Sequence

from launcher.mig import Placement


def free_placements(
    possible: Sequence[Placement], taken: Sequence[Placement]
) -> tuple[Placement, ...]:
    """Return those of `possible` that overlap none of `taken`, in the order given."""
    return tuple(at for at in possible if not any(at.overlaps(other) for other in taken))


def least_spoiling(
    candidates: Sequence[Placement],
    taken: Sequence[Placement],
    possible_by_profile: Mapping[int, Sequence[Placement]],
) -> Placement:
    """
    Return the candidate after which most (profile, placement) pairs remain free; lowest on a tie.

    That is what NVIDIA's driver does when no placement is given: it reproduces 12 of 12 published
    listings of instances made without one.

    Args:
        candidates: At least one; all free.
        taken: Placements in use.
        possible_by_profile: Where each profile fits on the empty GPU.
    """

    def pairs_left(candidate: Placement) -> int:
        used = [*taken, candidate]
        return sum(len(free_placements(every, used)) for every in possible_by_profile.values())

    return min(candidates, key=lambda at: (-pairs_left(at), at.start))


def fit(
    wanted: Sequence[Sequence[Placement]], taken: Sequence[Placement]
) -> tuple[Placement, ...] | None:
    """
    Choose one placement for each entry so that none overlap each other or `taken`.

    Args:
        wanted: For each instance its possible placements, best first. Large instances should come
            first: that prunes most. Seven entries of seven at most, so trying all is quick.
        taken: What must stay as it is.

    Returns:
        One placement for each entry, in the same order; None when there is no solution.
    """
    if not wanted:
        return ()
    for candidate in free_placements(wanted[0], taken):
        rest = fit(wanted[1:], [*taken, candidate])
        if rest is not None:
            return (candidate, *rest)
    return None
