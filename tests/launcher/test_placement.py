"""Geometry: what is free, what spoils least, what fits."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.mig import Placement
from launcher.placement import Room, free_placements, least_spoiling, media_engines_suffice
from launcher.placement import fit as best_fit
from launcher.profiles import BOARDS

A100 = {entry.profile.id: entry.placements for entry in BOARDS["a100-40gb"].profiles}
ID_OF = {places: profile_id for profile_id, places in A100.items() if profile_id != 20}


def fit(wanted, taken, preferred=()):
    return best_fit([Room(ID_OF[places], places) for places in wanted], taken, A100, preferred)


ONE, TWO, THREE, FOUR = A100[19], A100[14], A100[9], A100[5]


def test_free_is_what_overlaps_nothing_taken():
    assert free_placements(TWO, [Placement(1, 1)]) == (Placement(2, 2), Placement(4, 2))


def test_the_first_small_instance_goes_where_no_two_could():
    """A 1g at 6 takes nothing from 2g, as a 2g at 6:2 does not exist."""
    assert least_spoiling(ONE, [], A100) == Placement(6, 1)


def test_a_solution_is_found_where_the_first_choice_leads_nowhere():
    """A 3g at 0:4 leaves no second 1g beside a 2g; at 4:4 it does."""
    assert fit([THREE, TWO, ONE, ONE], []) == (
        Placement(4, 4),
        Placement(0, 2),
        Placement(2, 1),
        Placement(3, 1),
    )


def test_of_all_solutions_the_one_with_the_largest_hole_is_taken():
    """A 1g at 6 leaves room for a 4g; one at 0 would not."""
    assert fit([ONE], []) == (Placement(6, 1),)
    assert fit([TWO], []) == (Placement(4, 2),)


def test_what_can_stay_stays_before_holes_count():
    assert fit([ONE, ONE], [], preferred={(19, Placement(2, 1))}) == (
        Placement(2, 1),
        Placement(3, 1),
    )


def test_one_instance_at_most_has_the_media_engines():
    profiles = {e.profile.name: e.profile for e in BOARDS["rtx-pro-6000-96gb"].profiles}
    one, more, every = (profiles[f"1g.24gb{mark}"] for mark in ("", "+me", "+me.all"))
    without = profiles["1g.24gb-me"]
    assert media_engines_suffice([one, one, more])
    assert not media_engines_suffice([more, more])
    assert not media_engines_suffice([every, one])
    assert media_engines_suffice([every, without, without])


def test_no_solution_is_none():
    assert fit([FOUR, FOUR], []) is None
    assert fit([THREE], [Placement(0, 1), Placement(4, 1)]) is None


@given(
    wanted=st.lists(st.sampled_from([ONE, TWO, THREE, FOUR]), max_size=7),
    taken=st.lists(st.sampled_from(ONE), max_size=3, unique=True),
)
def test_what_fits_never_overlaps_and_takes_only_possible_places(wanted, taken):
    found = fit(wanted, taken)
    if found is None:
        return
    assert all(at in possible for at, possible in zip(found, wanted, strict=True))
    every = [*found, *taken]
    assert not any(a.overlaps(b) for i, a in enumerate(every) for b in every[:i])
