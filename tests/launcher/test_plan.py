"""Plans are pure: facts and a layout in, steps out."""

import pytest

from launcher import plan
from launcher.errors import PlanError
from launcher.layout import parse_names
from launcher.mig import Gpu, GpuInstance, Placement
from launcher.plan import Addresses, GpuFacts, ProfileFacts
from launcher.profiles import BOARDS


def facts(*instances, board="a100-40gb", mig_mode=True):
    found = BOARDS[board]
    gpu = Gpu(found.product, "GPU-0", found.compute_slices, found.memory_slices, True)
    profiles = tuple(ProfileFacts(e.profile, e.placements) for e in found.profiles)
    return GpuFacts(gpu, mig_mode, profiles, instances)


def make(known, layout, owned=(), force=False, port_base=8000):
    layouts = {known.gpu.uuid: parse_names(layout)}
    return plan.make([known], layouts, Addresses("127.0.0.1", port_base), owned, force)


def Owned(name, gpu_instance_id):  # noqa: N802 - of the one GPU here
    return plan.Owned(name, "GPU-0", gpu_instance_id)


def shape(made):
    return [(s.name, s.profile.name, str(s.placement), s.keep and s.keep.id) for s in made.slices]


def test_seven_slices_stand_in_order_with_their_ports():
    made = make(facts(mig_mode=False), "all-1g")
    assert made.enable_mig
    assert made.destroy == ()
    assert shape(made) == [(f"s{i}", "1g.5gb", f"{i}:1", None) for i in range(7)]
    assert [s.http.port for s in made.slices] == [8000 + 10 * i for i in range(7)]
    assert [s.grpc.port for s in made.slices] == [8001 + 10 * i for i in range(7)]
    assert [s.metrics.port for s in made.slices] == [8002 + 10 * i for i in range(7)]


def test_a_mixed_layout_gets_placements_that_fit_and_weights_by_compute_slices():
    made = make(facts(), "1g,3g,1g,2g")
    assert shape(made) == [
        ("s0", "1g.5gb", "2:1", None),
        ("s1", "3g.20gb", "4:4", None),
        ("s2", "1g.5gb", "3:1", None),
        ("s3", "2g.10gb", "0:2", None),
    ]
    assert [s.weight for s in made.slices] == [1, 3, 1, 2]
    assert [s.name for s in made.create] == ["s1", "s3", "s0", "s2"]


@pytest.mark.parametrize("board", [key for key, board in BOARDS.items() if board.profiles])
def test_every_board_can_be_cut_into_its_smallest(board):
    made = make(facts(board=board), "all-1g")
    assert len(made.slices) == BOARDS[board].compute_slices


ONE_AT_0 = GpuInstance(7, 19, Placement(0, 1))
ONE_AT_5 = GpuInstance(12, 19, Placement(5, 1))
THREE_AT_4 = GpuInstance(2, 9, Placement(4, 4))


def test_what_was_made_before_is_kept_for_the_same_slice():
    owned = [Owned("s1", ONE_AT_0.id), Owned("s0", ONE_AT_5.id)]
    made = make(facts(ONE_AT_0, ONE_AT_5), "1g,1g,1g", owned)
    assert shape(made) == [
        ("s0", "1g.5gb", "5:1", 12),
        ("s1", "1g.5gb", "0:1", 7),
        ("s2", "1g.5gb", "1:1", None),  # beside the one at 0: least is spoiled
    ]
    assert made.destroy == ()


def test_planning_again_after_it_was_done_changes_nothing():
    first = make(facts(), "3g,2g,1g,1g")
    done = [GpuInstance(i, s.profile.id, s.placement) for i, s in enumerate(first.slices)]
    owned = [Owned(s.name, i) for i, s in enumerate(first.slices)]
    again = make(facts(*done), "3g,2g,1g,1g", owned)
    assert (again.create, again.destroy, again.enable_mig) == ((), (), False)


def test_an_earlier_layout_gives_way():
    owned = [Owned("s0", THREE_AT_4.id), Owned("s1", ONE_AT_0.id)]
    made = make(facts(ONE_AT_0, THREE_AT_4), "all-1g", owned)
    assert made.destroy == (THREE_AT_4,)
    assert [s.keep for s in made.slices].count(ONE_AT_0) == 1


def test_others_instances_are_worked_around():
    made = make(facts(THREE_AT_4), "2g,1g,1g")
    assert shape(made)[0] == ("s0", "2g.10gb", "0:2", None)
    assert made.destroy == ()


def test_others_instances_are_destroyed_only_with_force_and_only_if_in_the_way():
    with pytest.raises(PlanError, match=r"does not fit beside .*3g\.20gb at 4:4.*--force"):
        make(facts(THREE_AT_4), "all-1g")
    assert make(facts(THREE_AT_4), "all-1g", force=True).destroy == (THREE_AT_4,)
    assert make(facts(THREE_AT_4), "1g,1g", force=True).destroy == ()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (
            "4g,2g,2g",
            "needs 8 compute slices, the GPU has 7; the nearest that fits: 3g.20gb, 2g",
        ),
        ("8x1g", "8 compute slices, the GPU has 7; the nearest"),
        ("4g@4", r"no placements for 4g.20gb@4 .*; the nearest that fits: 4g.20gb$"),
        ("1g@0,1g@0", "no placements for 1g.5gb@0, 1g.5gb@0"),
        (
            "1g+me,1g+me",
            "2 times 1g.5gb\\+me, the GPU holds 1; the nearest that fits: 1g.5gb, 1g.5gb\\+me",
        ),
        ("2g,2g,3g,9g", "no profile '9g'"),
        ("1g.10gb,1g.10gb,1g.10gb,1g.10gb,2g", "no placements"),
    ],
)
def test_a_layout_that_does_not_exist_is_refused_with_the_reason(layout, words):
    with pytest.raises(PlanError, match=words):
        make(facts(), layout)


def test_ports_must_exist():
    with pytest.raises(PlanError, match="port base 65500 leaves no ports for slice s4"):
        make(facts(), "all-1g", port_base=65500)


def test_with_force_only_those_go_that_must():
    made = make(facts(ONE_AT_0, THREE_AT_4), "3g", force=True)
    assert made.destroy == (ONE_AT_0,)
    assert made.gpus[0].foreign == (ONE_AT_0,)


def test_what_an_earlier_launcher_made_on_a_gpu_that_is_not_wanted_any_more_goes():
    owned = [Owned("s0", ONE_AT_0.id)]
    made = plan.make([facts(ONE_AT_0, THREE_AT_4)], {}, Addresses("h", 8000), owned)
    assert (made.slices, made.destroy) == ((), (ONE_AT_0,))


def test_names_stay_with_instances_and_places():
    """Servers go on serving; each new slice is named after one that makes way for it alone."""
    owned = [Owned(f"s{i}", 7 + i) for i in range(7)]
    ones = [GpuInstance(7 + i, 19, Placement(i, 1)) for i in range(7)]
    made = make(facts(*ones), "3g,2g,1g,1g", owned)
    assert shape(made) == [
        ("s0", "2g.10gb", "0:2", None),
        ("s2", "1g.5gb", "2:1", 9),
        ("s3", "1g.5gb", "3:1", 10),
        ("s4", "3g.20gb", "4:4", None),
    ]
    assert len(made.destroy) == 5
    mixed = [GpuInstance(i, s.profile.id, s.placement) for i, s in enumerate(made.slices)]
    owned = [Owned(s.name, i) for i, s in enumerate(made.slices)]
    back = make(facts(*mixed), "all-1g", owned)
    assert [name for name, *_ in shape(back)] == [f"s{i}" for i in range(7)]
