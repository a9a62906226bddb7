"""A re-cut goes in stages that leave as much serving as can be."""

from launcher import plan, stages
from launcher.mig import Gpu, GpuInstance
from launcher.plan import Addresses, GpuFacts, Owned, ProfileFacts
from launcher.profiles import BOARDS


def facts(*instances, board="a100-40gb", mig_mode=True):
    found = BOARDS[board]
    gpu = Gpu(found.product, "GPU-0", found.compute_slices, found.memory_slices, True)
    profiles = tuple(ProfileFacts(e.profile, e.placements) for e in found.profiles)
    return GpuFacts(gpu, mig_mode, profiles, instances)


def of(layout, known, owned=()):
    made = plan.make([known], {"GPU-0": tuple(layout.split(","))}, Addresses("h", 8000), owned)
    owner = {(entry.gpu_uuid, entry.gpu_instance_id): entry.slice_name for entry in owned}
    return made, stages.split(made, owner)


def after(layout, board="a100-40gb"):
    """The GPU as a layout has left it, and who owns what."""
    made, _ = of(layout, facts(board=board))
    instances = [GpuInstance(i, s.profile.id, s.placement) for i, s in enumerate(made.slices)]
    owned = [Owned(s.name, "GPU-0", i) for i, s in enumerate(made.slices)]
    return facts(*instances, board=board), owned


def shape(every):
    return [(sorted(stage.going), [member.name for member in stage.coming]) for stage in every]


def test_on_an_empty_gpu_everything_comes_at_once():
    _, every = of("3g,2g,1g,1g", facts())
    assert shape(stages.merged(every, frozenset())) == [([], ["s0", "s1", "s2", "s3"])]


def test_what_stands_in_one_anothers_way_goes_together_and_the_rest_stays():
    _, every = of("3g,2g,1g,1g", *after("all-1g"))
    running = frozenset(f"s{i}" for i in range(7))
    assert shape(stages.merged(every, running)) == [
        ([], ["s2", "s3"]),
        (["s4", "s5", "s6"], ["s4"]),
        (["s0", "s1"], ["s0"]),
    ]


def test_one_half_serves_while_the_other_is_cut():
    """Nothing can be kept, and yet never does everything stop at once."""
    _, every = of("3g,3g", *after("all-1g"))
    running = frozenset(f"s{i}" for i in range(7))
    assert shape(stages.merged(every, running)) == [
        ([], []),
        (["s0", "s1", "s2", "s3"], ["s0"]),
        (["s4", "s5", "s6"], ["s4"]),
    ]


def test_what_is_given_up_goes_alone():
    _, every = of("1g,1g", *after("1g,1g,1g"))
    assert [sorted(stage.going) for stage in every] == [[], ["s2"]]


def test_the_media_engines_are_freed_before_they_are_given_again():
    made, every = of("1g+me@0,1g", *after("1g+me@6,1g"))
    assert len(made.destroy) == 1
    assert [sorted(stage.going) for stage in every if stage.going] == [["s0"]]
    assert [m.name for stage in every if stage.going for m in stage.coming] == ["s2"]


def test_stages_that_stop_nothing_that_runs_are_one():
    """After a crash of all servers there is nobody to be drained."""
    _, every = of("3g,2g,1g,1g", *after("all-1g"))
    (only,) = stages.merged(every, frozenset())
    assert sorted(member.name for member in only.coming) == ["s0", "s2", "s3", "s4"]
