"""
Geometry of placements, pure: what overlaps, what is free, what spoils least, what fits best.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from launcher.mig import GpuInstanceProfile, Placement

MEDIA: Final = ("+me", "+me.all")
ALL_MEDIA: Final = "+me.all"
NO_MEDIA: Final = "-me"


def free_placements(
    possible: Sequence[Placement], taken: Sequence[Placement]
) -> tuple[Placement, ...]:
    """Return those of `possible` that overlap none of `taken`, in the order given."""
    return tuple(at for at in possible if not any(at.overlaps(other) for other in taken))


def media_engines_suffice(profiles: Sequence[GpuInstanceProfile]) -> bool:
    """
    Whether these profiles can stand side by side as far as the media engines go.

    A GPU has one set of JPEG and optical-flow engines: one instance can have them (+me). One that
    has all decoders (+me.all) leaves none to the others, which must then be without (-me).
    """
    marks = [profile.attribute for profile in profiles]
    if sum(mark in MEDIA for mark in marks) > 1:
        return False
    return ALL_MEDIA not in marks or all(mark in (ALL_MEDIA, NO_MEDIA) for mark in marks)


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
    return min(
        candidates,
        key=lambda at: (-_pairs_left([*taken, at], possible_by_profile), at.start),
    )


@dataclass(frozen=True, slots=True)
class Room:
    """
    One instance that is wanted.

    Attributes:
        kind: Its profile id: two rooms of one kind may change places.
        candidates: Where it may go; one where the user named the place.
    """

    kind: int
    candidates: tuple[Placement, ...]


def fit(
    rooms: Sequence[Room],
    taken: Sequence[Placement],
    possible_by_profile: Mapping[int, Sequence[Placement]],
    preferred: Collection[tuple[int, Placement]] = (),
) -> tuple[Placement, ...] | None:
    """
    Choose one placement for each room so that none overlap each other or `taken`.

    Of all solutions the one is taken that has most placements among `preferred` (instances that can
    stay), then leaves the largest hole, then most (profile, placement) pairs, then lowest starts.

    Args:
        rooms: At most as many as a GPU holds; all solutions are looked at (some hundreds).
        taken: What must stay as it is.
        possible_by_profile: Where each profile fits on the empty GPU.
        preferred: (profile id, placement) of instances that exist and may be used.

    Returns:
        One placement for each room, in the same order; None when there is no solution.
    """
    # Large ones first, and rooms with one candidate before others: that prunes most.
    order = sorted(range(len(rooms)), key=lambda i: _difficulty(rooms[i]))
    best: tuple[int, int, int, tuple[int, ...]] | None = None
    chosen: tuple[Placement, ...] = ()
    for found in _solutions([rooms[i] for i in order], list(taken), ()):
        used = [*taken, *found]
        stay = sum((rooms[i].kind, at) in preferred for i, at in zip(order, found, strict=True))
        score = (
            stay,
            _largest_hole(used, possible_by_profile),
            _pairs_left(used, possible_by_profile),
            tuple(-at.start for at in found),
        )
        if best is None or score > best:
            best, chosen = score, found
    if best is None:
        return None
    placement_of = dict(zip(order, chosen, strict=True))
    return tuple(placement_of[i] for i in range(len(rooms)))


def _difficulty(room: Room) -> tuple[int, int, int, tuple[Placement, ...]]:
    # Equal rooms stand together, so that each set of their placements is looked at once.
    size = room.candidates[0].size if room.candidates else 0
    return (-size, len(room.candidates), room.kind, room.candidates)


def _solutions(
    rooms: Sequence[Room], taken: list[Placement], before: tuple[Placement, ...]
) -> Iterator[tuple[Placement, ...]]:
    at = len(before)
    if at == len(rooms):
        yield before
        return
    same = at > 0 and rooms[at] == rooms[at - 1]
    for candidate in free_placements(rooms[at].candidates, taken):
        if same and candidate.start < before[-1].start:
            continue
        yield from _solutions(rooms, [*taken, candidate], (*before, candidate))


def _largest_hole(
    used: Sequence[Placement],
    possible_by_profile: Mapping[int, Sequence[Placement]],
) -> int:
    """Return the size in memory slices of the largest instance that still fits; 0 for none."""
    return max(
        (
            every[0].size
            for every in possible_by_profile.values()
            if every and free_placements(every, used)
        ),
        default=0,
    )


def _pairs_left(
    used: Sequence[Placement], possible_by_profile: Mapping[int, Sequence[Placement]]
) -> int:
    return sum(len(free_placements(every, used)) for every in possible_by_profile.values())
