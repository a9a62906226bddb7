"""Hopper's own: geometry of A100, other numbers, and a mode that changes at once."""

from launcher.profiles.ampere import A100_40GB
from launcher.profiles.hopper import H100_80GB, H100_94GB, H200_141GB


def test_hopper_is_cut_where_an_a100_is():
    for board in (H100_80GB, H100_94GB, H200_141GB):
        assert [(e.profile.id, e.placements) for e in board.profiles] == [
            (e.profile.id, e.placements) for e in A100_40GB.profiles
        ]
        assert not board.mode_needs_reset


def test_a_double_memory_slice_has_more_multiprocessors_than_a_single_one():
    by_index = {entry.profile.index: entry.profile for entry in H200_141GB.profiles}
    assert (by_index[0].multiprocessors, by_index[9].multiprocessors) == (16, 26)
