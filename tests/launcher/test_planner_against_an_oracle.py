"""The planner against all there is: what it says fits, fits; what it refuses, no search finds."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import plan
from launcher.errors import PlanError
from launcher.layout import Wish
from launcher.mig import Gpu, GpuInstance, Placement
from launcher.plan import Addresses, GpuFacts, Owned, ProfileFacts
from launcher.profiles import BOARDS

CUTTABLE = {key: board for key, board in BOARDS.items() if board.profiles}
# The maximal layouts of an A100 in base profiles, as NVIDIA's guide draws them.
DOCUMENTED = """
7g@0            4g@0 3g@4          4g@0 2g@4 1g@6        4g@0 1g@4 1g@5 1g@6
3g@0 3g@4       3g@0 2g@4 1g@6     3g@0 1g@4 1g@5 1g@6   2g@0 2g@2 3g@4
2g@0 1g@2 1g@3 3g@4                1g@0 1g@1 2g@2 3g@4   1g@0 1g@1 1g@2 1g@3 3g@4
2g@0 2g@2 2g@4 1g@6                2g@0 2g@2 1g@4 1g@5 1g@6
2g@0 1g@2 1g@3 2g@4 1g@6           2g@0 1g@2 1g@3 1g@4 1g@5 1g@6
1g@0 1g@1 2g@2 2g@4 1g@6           1g@0 1g@1 2g@2 1g@4 1g@5 1g@6
1g@0 1g@1 1g@2 1g@3 2g@4 1g@6      1g@0 1g@1 1g@2 1g@3 1g@4 1g@5 1g@6
"""


def layouts():
    """Return the documented layouts, each a list of names with their places."""
    words = [line.split("  ") for line in DOCUMENTED.strip().splitlines()]
    return [part.split() for parts in words for part in parts if part.strip()]


def facts(board, instances=()):
    gpu = Gpu(board.product, "GPU-0", board.compute_slices, board.memory_slices, True)
    profiles = tuple(ProfileFacts(e.profile, e.placements) for e in board.profiles)
    return GpuFacts(gpu, True, profiles, tuple(instances))


def make(board, names, instances=(), owned=()):
    known = facts(board, instances)
    return plan.make([known], {"GPU-0": tuple(names)}, Addresses("h", 8000), owned)


def oracle(board, names, taken=()):
    """Whether there are placements: every combination is looked at, none is thought about."""
    by_name = {entry.profile.name: entry for entry in board.profiles}
    entries = [by_name[name] for name in names]
    counts = Counter(names)
    if any(counts[e.profile.name] > e.profile.instances_max for e in entries):
        return False
    marks = [entry.profile.attribute for entry in entries]
    if sum(mark in ("+me", "+me.all") for mark in marks) > 1:
        return False
    if "+me.all" in marks and any(mark in ("", "+gfx") for mark in marks):
        return False
    for places in itertools.product(*(entry.placements for entry in entries)):
        cells = [cell for at in (*places, *taken) for cell in range(at.start, at.end)]
        if len(cells) == len(set(cells)):
            return True
    return False


def is_sound(board, made, others=()):
    """Whether no two overlap, and each stands where its profile may."""
    possible = {entry.profile.id: entry.placements for entry in board.profiles}
    places = [member.placement for member in made.slices] + [other.placement for other in others]
    cells = [cell for at in places for cell in range(at.start, at.end)]
    return len(cells) == len(set(cells)) and all(
        member.placement in possible[member.profile.id] for member in made.slices
    )


def test_all_nineteen_documented_layouts_are_listed():
    assert len({tuple(names) for names in layouts()}) == 19


@pytest.mark.parametrize("board", ["a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb"])
@pytest.mark.parametrize("names", layouts(), ids=" ".join)
def test_every_documented_layout_can_be_had_where_it_is_drawn(board, names):
    made = make(BOARDS[board], names)
    assert [f"{s.profile.compute_slices}g@{s.placement.start}" for s in made.slices] == names


@pytest.mark.parametrize("names", layouts(), ids=" ".join)
def test_every_documented_layout_is_found_from_its_sizes_in_any_order(names):
    board = BOARDS["a100-40gb"]
    sizes = [name.partition("@")[0] for name in names]
    for order in (sizes, sizes[::-1], sorted(sizes)):
        assert is_sound(board, make(board, order))


def every_layout(entries):
    """Return all sets of (name, placement) that do not overlap, the empty one too."""
    pairs = [(entry.profile.name, at) for entry in entries for at in entry.placements]

    def beside(first, chosen):
        yield frozenset(chosen)
        for i in range(first, len(pairs)):
            if not any(pairs[i][1].overlaps(at) for _, at in chosen):
                yield from beside(i + 1, [*chosen, pairs[i]])

    return set(beside(0, []))


def multiset(layout):
    return tuple(sorted(name for name, _ in layout))


@pytest.mark.parametrize(
    ("indexes", "maximal", "multisets"),
    [((0, 1, 2, 3, 4), 19, 14), ((0, 1, 2, 3, 4, 9), 78, 38)],
    ids=["base", "with double memory"],
)
def test_exactly_what_is_possible_is_planned(indexes, maximal, multisets):
    """And as many layouts are possible as NVIDIA's tables give."""
    board = BOARDS["a100-40gb"]
    entries = [entry for entry in board.profiles if entry.profile.index in indexes]
    every = every_layout(entries)
    largest = [one for one in every if not any(one < other for other in every)]
    assert (len(largest), len({multiset(one) for one in largest})) == (maximal, multisets)
    possible = {multiset(one) for one in every} - {()}
    names = [entry.profile.name for entry in entries]
    for chosen in possible:
        assert is_sound(board, make(board, chosen))
    # One more of anything than is possible is refused.
    over = {tuple(sorted((*one, name))) for one in possible for name in names} - possible
    for chosen in over:
        with pytest.raises(PlanError):
            make(board, chosen)


GEOMETRIES = ("a100-40gb", "a30-24gb", "rtx-pro-6000-96gb")


def geometry(board):
    return [
        (e.profile.index, e.profile.compute_slices, e.profile.instances_max, e.placements)
        for e in board.profiles
    ]


def test_every_board_has_one_of_three_geometries():
    known = [geometry(BOARDS[key]) for key in GEOMETRIES]
    assert all(geometry(board) in known for board in CUTTABLE.values())


def possible_sets(board, largest, taken=()):
    """
    Return each multiset that fits beside `taken`, as profile ids, with the largest hole that any of
    its placements leaves: by trying all placements, one after the other.
    """
    pairs = [(entry, at) for entry in board.profiles for at in entry.placements]
    by_id = {entry.profile.id: entry.profile for entry in board.profiles}
    found = {}

    def allowed(ids):
        marks = [by_id[number].attribute for number in ids]
        media = sum(mark in ("+me", "+me.all") for mark in marks)
        if media > 1 or ("+me.all" in marks and not set(marks) <= {"+me.all", "-me"}):
            return False
        return all(n <= by_id[number].instances_max for number, n in Counter(ids).items())

    def beside(first, ids, places):
        free = [at.size for _, at in pairs if not any(at.overlaps(other) for other in places)]
        key = tuple(sorted(ids))
        found[key] = max(found.get(key, 0), max(free, default=0))
        for i in range(first, len(pairs) if len(ids) < largest else 0):
            entry, at = pairs[i]
            more = [*ids, entry.profile.id]
            there = [instance.profile_id for instance in taken]
            if not any(at.overlaps(other) for other in places) and allowed([*there, *more]):
                beside(i + 1, more, [*places, at])

    beside(0, [], [instance.placement for instance in taken])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("key", GEOMETRIES)
@pytest.mark.parametrize("others", [0, 1])
def test_of_all_sets_of_profiles_those_that_fit_are_placed_and_leave_the_largest_hole(key, others):
    """Up to seven instances (five on a board that holds four), alone and beside one of others."""
    board = BOARDS[key]
    largest = (7 if board.memory_slices != 12 else 5) if not others else 3
    pairs = [(e.profile.id, at) for e in board.profiles for at in e.placements]
    alone = [[]]
    for taken in [[GpuInstance(0, *pair)] for pair in pairs] if others else alone:
        known, possible = facts(board, taken), possible_sets(board, largest, taken)
        for count in range(1, largest + 1):
            for chosen in itertools.combinations_with_replacement(board.profiles, count):
                wishes = [Wish(entry.profile) for entry in chosen]
                places = plan._place(known, wishes, (), taken)
                ids = tuple(sorted(wish.profile.id for wish in wishes))
                assert (places is not None) == (ids in possible), (ids, taken)
                if places is not None:
                    used = [*places, *(instance.placement for instance in taken)]
                    free = [at.size for _, at in pairs if not any(at.overlaps(o) for o in used)]
                    assert max(free, default=0) == possible[ids]


boards = st.sampled_from(sorted(CUTTABLE))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_plan_is_sound_and_a_refusal_is_right(data):
    board = CUTTABLE[data.draw(boards)]
    every = [entry.profile.name for entry in board.profiles]
    names = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=5))
    taken = []
    for entry in data.draw(st.lists(st.sampled_from(board.profiles), max_size=2)):
        at = data.draw(st.sampled_from(entry.placements))
        if not any(at.overlaps(other.placement) for other in taken):
            taken.append(GpuInstance(len(taken), entry.profile.id, at))
    name_of = {entry.profile.id: entry.profile.name for entry in board.profiles}
    there = [name_of[instance.profile_id] for instance in taken]
    try:
        made = make(board, names, taken)
    except PlanError:
        assert not _possible_beside(board, names, there, taken)
    else:
        assert is_sound(board, made, taken)
        assert Counter(s.profile.name for s in made.slices) == Counter(names)
        assert made.destroy == ()


def _possible_beside(board, names, there, taken):
    """The oracle, with what is there pinned to its place."""
    pinned = _pinned(board, taken)
    return oracle(pinned, [*names, *(f"{name} there {i}" for i, name in enumerate(there))])


def _pinned(board, taken):
    by_id = {entry.profile.id: entry for entry in board.profiles}
    extra = []
    for i, instance in enumerate(taken):
        entry = by_id[instance.profile_id]
        profile = replace(entry.profile, name=f"{entry.profile.name} there {i}")
        extra.append(replace(entry, profile=profile, placements=(instance.placement,)))
    there = Counter(instance.profile_id for instance in taken)
    less = [
        replace(
            entry,
            profile=replace(
                entry.profile,
                instances_max=entry.profile.instances_max - there[entry.profile.id],
            ),
        )
        for entry in board.profiles
    ]
    return replace(board, profiles=(*less, *extra))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_from_any_layout_to_any_other_and_back_nothing_is_touched_in_vain(data):
    board = CUTTABLE[data.draw(boards)]
    every = [entry.profile.name for entry in board.profiles]
    drawn = [data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=4)) for _ in range(2)]
    try:
        first, fresh = (make(board, names) for names in drawn)
    except PlanError:
        return
    instances = [GpuInstance(i, s.profile.id, s.placement) for i, s in enumerate(first.slices)]
    owned = [Owned(s.name, "GPU-0", i) for i, s in enumerate(first.slices)]
    second = make(board, drawn[1], instances, owned)
    assert is_sound(board, second)
    assert len(second.slices) == len(fresh.slices)
    kept = [member for member in second.slices if member.keep]
    assert len(kept) + len(second.destroy) == len(instances)
    # What is kept keeps its name, and no name is given twice.
    name_of = {entry.gpu_instance_id: entry.slice_name for entry in owned}
    assert all(member.name == name_of[member.keep.id] for member in kept)
    assert len({member.name for member in second.slices}) == len(second.slices)
    # Nothing could have been kept beyond that: the same layout again touches nothing at all.
    again = make(board, drawn[0], instances, owned)
    assert (again.create, again.destroy) == ((), ())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_nearest_that_is_offered_can_be_had(data):
    board = CUTTABLE[data.draw(boards)]
    every = [entry.profile.name for entry in board.profiles]
    names = data.draw(st.lists(st.sampled_from(every), min_size=2, max_size=6))
    try:
        make(board, names)
    except PlanError as error:
        _, _, offered = str(error).partition("the nearest that fits: ")
        assert offered
        assert is_sound(board, make(board, [name.strip() for name in offered.split(",")]))


def test_a_hole_is_left_for_the_largest():
    board = BOARDS["a100-40gb"]
    (one,) = make(board, ["1g"]).slices
    assert one.placement == Placement(6, 1)
    places = {s.placement for s in make(board, ["1g", "1g", "1g"]).slices}
    assert places == {Placement(at, 1) for at in (4, 5, 6)}  # a 4g still fits at 0
