"""Layouts are named as users name them."""

import pytest

from launcher import layout
from launcher.errors import PlanError
from launcher.mig import Gpu
from launcher.profiles import BOARDS


def resolve(text, board="a100-40gb"):
    found = BOARDS[board]
    gpu = Gpu(found.product, "GPU-0", found.compute_slices, found.memory_slices, True)
    profiles = [entry.profile for entry in found.profiles]
    return [profile.name for profile in layout.resolve(layout.parse(text), profiles, gpu)]


@pytest.mark.parametrize(
    ("text", "board", "names"),
    [
        ("all-1g", "a100-40gb", ["1g.5gb"] * 7),
        ("all-1g", "a30-24gb", ["1g.6gb"] * 4),
        ("all-3g.40gb", "h100-80gb", ["3g.40gb"] * 2),
        ("3g,2g,1g,1g", "h200-141gb", ["3g.71gb", "2g.35gb", "1g.18gb", "1g.18gb"]),
        (" 1G.5GB , 2g ", "a100-40gb", ["1g.5gb", "2g.10gb"]),
        ("1g.10gb", "a100-40gb", ["1g.10gb"]),  # the one with double memory
        ("1g.10gb", "a100-80gb", ["1g.10gb"]),  # the plain one
        ("1g+me,1g", "a100-40gb", ["1g.5gb+me", "1g.5gb"]),
    ],
)
def test_a_name_means_what_this_gpu_calls_it(text, board, names):
    assert resolve(text, board) == names


def test_the_order_asked_for_is_kept():
    assert resolve("1g,3g,2g") == ["1g.5gb", "3g.20gb", "2g.10gb"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1g.23gb", "it has 1g.5gb, 2g.10gb"),
        ("5g", "no profile '5g'"),
        ("1c.3g.20gb", "whole GPU instances here, for example 3g.20gb"),
    ],
)
def test_an_unknown_profile_is_answered_with_what_there_is(text, words):
    with pytest.raises(PlanError, match=words):
        resolve(text)


@pytest.mark.parametrize("text", ["", "1g,,1g", "all-1g,2g", "1g," * 7 + "1g"])
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(ValueError, match=r"layout|empty|stands alone|at most"):
        layout.parse(text)


def test_a_gpu_without_mig_cannot_be_cut():
    with pytest.raises(PlanError, match=r"NVIDIA T4 cannot be cut"):
        layout.resolve(["1g"], [], Gpu("NVIDIA T4", "GPU-0", 0, 0, False))
