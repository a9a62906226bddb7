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
    return [str(wish) for wish in layout.resolve(layout.parse_names(text), profiles, gpu)]


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
        ("1g.5gb.me", "a100-40gb", ["1g.5gb+me"]),  # as Kubernetes labels it
        ("all-1g.5gb.me", "a100-40gb", ["1g.5gb+me"]),
        ("2x2g, 3 x 1g", "a100-40gb", ["2g.10gb"] * 2 + ["1g.5gb"] * 3),
        ("3g@4,1g@0:1", "a100-40gb", ["3g.20gb@4", "1g.5gb@0"]),
        ("balanced", "a100-40gb", ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]),
        ("all-balanced", "a30-24gb", ["2g.12gb", "1g.6gb", "1g.6gb"]),
        ("none", "a100-40gb", []),
        ("1g.24gb", "b200-180gb", ["1g.23gb"]),  # as another driver calls it
        ("3g.95gb", "gb200-186gb", ["3g.93gb"]),
        (
            "1g+me.all,1g-me,2g-me",
            "rtx-pro-6000-96gb",
            ["1g.24gb+me.all", "1g.24gb-me", "2g.48gb-me"],
        ),
        ("4g+gfx", "rtx-pro-6000-96gb", ["4g.96gb+gfx"]),
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1g,,1g",
        "all-1g,2g",
        "1g," * 64 + "1g",
        "balanced,1g",
        "2x1g@0",
        "0=1g;0=2g",
        "=1g",
        "0=1g;1=",
    ],
)
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(ValueError, match=r"empty|stand alone|at most|one place|twice|names no GPU"):
        layout.parse(text)


def test_a_gpu_without_mig_cannot_be_cut():
    with pytest.raises(PlanError, match=r"NVIDIA T4 cannot be cut"):
        layout.resolve(["1g"], [], Gpu("NVIDIA T4", "GPU-0", 0, 0, False, has_mig=False))


def test_an_old_driver_tells_nothing_while_the_mode_is_off():
    with pytest.raises(PlanError, match=r"only while MIG mode is on, which --enable-mig"):
        layout.resolve(["1g"], [], Gpu("NVIDIA A30", "GPU-0", 0, 0, False))


def gpu(index, has_mig=True):
    return Gpu(f"board {index}", f"GPU-{index}", 7, 8, True, index=index, has_mig=has_mig)


def test_layouts_are_for_all_gpus_or_for_those_named():
    gpus = [gpu(0), gpu(1), gpu(2, has_mig=False)]
    every = layout.select(layout.parse("all-1g"), gpus)
    assert every == {"GPU-0": ("all-1g",), "GPU-1": ("all-1g",)}
    each = layout.select(layout.parse("1=3g,3g; all=balanced"), gpus)
    assert each == {"GPU-0": ("balanced",), "GPU-1": ("3g", "3g")}
    assert layout.select(layout.parse("GPU-1=2g"), gpus) == {"GPU-1": ("2g",)}


def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(PlanError, match=r"names GPU '7'; there are 0 \(board 0\)"):
        layout.select(layout.parse("7=1g"), [gpu(0)])
    with pytest.raises(PlanError, match="none of these GPUs can be cut"):
        layout.select(layout.parse("1g"), [gpu(0, has_mig=False), gpu(1, has_mig=False)])


@pytest.mark.parametrize(
    ("document", "layouts"),
    [
        (["3g", "2g"], {"all": ("3g", "2g")}),
        ("0=3g;all=1g", {"0": ("3g",), "all": ("1g",)}),
        ({0: "all-1g", "all": ["3g", "2x1g"]}, {"0": ("all-1g",), "all": ("3g", "1g", "1g")}),
        ({"all": {"1g.5gb": 2, "3g.20gb": 1}}, {"all": ("1g.5gb", "1g.5gb", "3g.20gb")}),
        ({"all": {}}, {"all": ("none",)}),
    ],
)
def test_a_configuration_file_says_the_same(document, layouts):
    assert layout.from_document(document) == layouts


@pytest.mark.parametrize("document", [7, [], [1], {"all": 3}, {"all": {"1g": -1}}])
def test_what_is_no_layout_in_a_file_is_refused(document):
    with pytest.raises(ValueError, match=r"is no layout|counts are numbers"):
        layout.from_document(document)
