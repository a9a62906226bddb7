"""Geometry: what is free, what spoils least, what fits."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.mig import Placement
from launcher.placement import fit, free_placements, least_spoiling
from launcher.profiles import BOARDS

A100 = {entry.profile.id: entry.placements for entry in BOARDS["a100-40gb"].profiles}
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
