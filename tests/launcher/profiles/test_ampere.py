"""Ampere's own: memory and engines as published, and a mode that needs a reset."""

from launcher.profiles.ampere import A30_24GB, A100_40GB, A100_80GB


def test_an_a100_shows_98_of_its_multiprocessors():
    for board in (A100_40GB, A100_80GB):
        whole = max(entry.profile.multiprocessors for entry in board.profiles)
        assert whole == 98
        assert board.mode_needs_reset


def test_ids_differ_from_board_to_board():
    assert A100_40GB.profiles[0].profile.id == 19
    assert A30_24GB.profiles[0].profile.id == 14
