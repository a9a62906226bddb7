"""The records and the error of the seam to a GPU."""

import pytest

from launcher.mig import GpuInstanceProfile, MigCode, MigError, Placement


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (Placement(0, 4), Placement(4, 4), False),
        (Placement(0, 4), Placement(3, 1), True),
        (Placement(2, 2), Placement(0, 8), True),
        (Placement(5, 1), Placement(6, 1), False),
    ],
)
def test_placements_overlap_when_they_share_a_memory_slice(one, other, overlap):
    assert one.overlaps(other) is overlap
    assert other.overlaps(one) is overlap


@pytest.mark.parametrize(
    ("index", "attribute"),
    [(0, ""), (7, "+me"), (8, "+me"), (9, ""), (10, "+gfx"), (13, "-me"), (16, "+me.all")],
)
def test_an_attribute_is_told_by_the_profile_index(index, attribute):
    profile = GpuInstanceProfile(index, 0, "whatever a driver calls it", 1, 1, 1, 1)
    assert profile.attribute == attribute
    assert profile.is_base == (index == 0)


def test_an_error_says_what_was_tried_and_nvidias_words():
    error = MigError("create GPU instance 3g.20gb at 0:4", MigCode.INSUFFICIENT_RESOURCES)
    assert str(error) == "create GPU instance 3g.20gb at 0:4: Insufficient Resources"
    assert str(MigError("x", MigCode.IN_USE, "process 7")).endswith("client (process 7)")
