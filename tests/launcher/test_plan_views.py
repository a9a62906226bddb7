"""A plan is drawn: what sits in each memory slice, before and after."""

import pytest

from launcher import plan, plan_views
from launcher.mig import Gpu, GpuInstance, Placement
from launcher.plan import Addresses, GpuFacts, Owned, ProfileFacts
from launcher.profiles import BOARDS


def picture(names, *instances, owned=(), board="a100-40gb"):
    found = BOARDS[board]
    gpu = Gpu(found.product, "GPU-0", found.compute_slices, found.memory_slices, True)
    profiles = tuple(ProfileFacts(e.profile, e.placements) for e in found.profiles)
    facts = GpuFacts(gpu, True, profiles, instances)
    made = plan.make([facts], {"GPU-0": names}, Addresses("h", 8000), owned)
    return [line.plain.rstrip() for line in plan_views.picture(made.gpus[0])]


def test_before_and_after_stand_under_their_slots():
    foreign = GpuInstance(1, 9, Placement(4, 4))
    ours = GpuInstance(7, 19, Placement(0, 1))
    shown = picture(("2g",), foreign, ours, owned=[Owned("s0", "GPU-0", 7)])
    assert shown == [
        "  slot        0        1        2        3        4        5        6        7",
        "  before  [ s0 1g ]    ·        ·        ·    [             3g.20gb              ]",
        "  after   [   s0 2g.10gb   ]    ·        ·    [             3g.20gb              ]",
    ]


def test_every_row_is_as_wide_as_the_grid():
    for board, width in (("a100-40gb", 72), ("a30-24gb", 36), ("rtx-pro-6000-96gb", 72)):
        rows = picture(("all-1g",), board=board)
        assert len(rows[2].removeprefix("  after   ")) <= width


@pytest.mark.parametrize("board", ["a30-24gb", "rtx-pro-6000-96gb"])
def test_other_grids(board):
    assert "[" in picture(("1g", "2g"), board=board)[2]
