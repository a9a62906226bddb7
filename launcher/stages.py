"""
The order of a re-cut, pure: which instances must go before which can be made, so that the rest keeps
serving. Each stage stands for itself: what it stops is what stands where its new instances go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.slice_spec import Endpoint, Place
from launcher.mig import Gpu, GpuInstance
from launcher.placement import ALL_MEDIA, MEDIA
from launcher.plan import GpuFacts, GpuPlan, Plan, PlannedSlice


@dataclass(frozen=True, slots=True)
class Cut:
    """
    What to do on one GPU, in this order.

    Attributes:
        enable_mig: Switch the mode on first.
        destroy: Instances that go.
        foreign: Those of others among them: remembered, for `down` to make again.
        create: Slices whose instance is to be made.
        keep: Slices whose instance exists.
    """

    gpu_uuid: str
    enable_mig: bool
    destroy: tuple[GpuInstance, ...]
    foreign: tuple[GpuInstance, ...]
    create: tuple[PlannedSlice, ...]
    keep: tuple[PlannedSlice, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """
    A server that is to run after a stage; its device is known once the stage was carried out.

    Attributes:
        place: Where on its GPU; None: on all of it.
    """

    name: str
    profile: str
    weight: float
    http: Endpoint
    grpc: Endpoint
    metrics: Endpoint
    simulated: bool
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """
    A part of a re-cut.

    Attributes:
        going: Slices whose server must have stopped before.
        coming: Slices whose server is to run afterwards.
        work: What the partitioner does in between.
    """

    going: frozenset[str]
    coming: tuple[Planned, ...]
    work: tuple[object, ...]


def whole(plan: GpuPlan) -> Cut:
    """Return all of a GPU's plan as one cut."""
    return Cut(
        gpu_uuid=plan.gpu.uuid,
        enable_mig=plan.enable_mig,
        destroy=plan.destroy,
        foreign=plan.foreign,
        create=plan.create,
        keep=tuple(member for member in plan.slices if member.keep),
    )


def split(plan: Plan, owner: Mapping[tuple[str, int], str]) -> tuple[Stage, ...]:
    """
    Return the stages of a plan: first what needs nothing to go, then one for each set of instances
    that stand in each other's way.

    Args:
        plan: All GPUs.
        owner: The slice of each instance of ours, by UUID of the GPU and instance id.
    """
    stages = [_stage([_free_part(part) for part in plan.gpus], plan, owner)]
    for part in plan.gpus:
        stages += [_stage([cut], plan, owner) for cut in _knots(part) if cut.destroy]
    return tuple(stages)


def merged(stages: Sequence[Stage], running: frozenset[str]) -> tuple[Stage, ...]:
    """Return the stages with those in one that stop none of the running servers."""
    free = [stage for stage in stages if not stage.going & running]
    rest = [stage for stage in stages if stage.going & running]
    first = Stage(
        frozenset(),
        tuple(member for stage in free for member in stage.coming),
        tuple(work for stage in free for work in stage.work),
    )
    return (first, *rest)


def _stage(cuts: Sequence[Cut], plan: Plan, owner: Mapping[tuple[str, int], str]) -> Stage:
    gpus = {part.gpu.uuid: part.gpu for part in plan.gpus}
    going = {
        owner[cut.gpu_uuid, instance.id]
        for cut in cuts
        for instance in cut.destroy
        if (cut.gpu_uuid, instance.id) in owner
    }
    coming = [
        planned(member, gpus[cut.gpu_uuid]) for cut in cuts for member in (*cut.keep, *cut.create)
    ]
    return Stage(frozenset(going), tuple(sorted(coming, key=lambda m: m.http.port)), tuple(cuts))


def planned(member: PlannedSlice, gpu: Gpu) -> Planned:
    """Return the server of a slice."""
    return Planned(
        name=member.name,
        profile=member.profile.name,
        weight=member.weight,
        http=member.http,
        grpc=member.grpc,
        metrics=member.metrics,
        simulated=gpu.simulated,
        place=Place(
            gpu.uuid, gpu.name, member.placement.start, member.placement.size, gpu.memory_slices
        ),
    )


def _free_part(part: GpuPlan) -> Cut:
    """Return what stays, and what is made where nothing has to go."""
    free = [cut for cut in _knots(part) if not cut.destroy]
    return Cut(
        gpu_uuid=part.gpu.uuid,
        enable_mig=part.enable_mig,
        destroy=(),
        foreign=(),
        create=tuple(member for cut in free for member in cut.create),
        keep=tuple(member for member in part.slices if member.keep),
    )


def _knots(part: GpuPlan) -> list[Cut]:
    """Return sets of instances to destroy and to create that depend on each other."""
    knots: list[tuple[list[GpuInstance], list[PlannedSlice]]] = []
    for member in part.create:
        needs = [old for old in part.destroy if _in_the_way(part.facts, old, member)]
        tied = [knot for knot in knots if any(old in knot[0] for old in needs)]
        gone = [old for knot in tied for old in knot[0]] + needs
        made = [new for knot in tied for new in knot[1]] + [member]
        knots = [knot for knot in knots if knot not in tied]
        knots.append((list(dict.fromkeys(gone)), made))
    left = [old for old in part.destroy if not any(old in gone for gone, _ in knots)]
    knots += [([old], []) for old in left]
    return [
        Cut(
            gpu_uuid=part.gpu.uuid,
            enable_mig=False,
            destroy=tuple(gone),
            foreign=tuple(old for old in gone if old in part.foreign),
            create=tuple(made),
        )
        for gone, made in knots
    ]


def _in_the_way(facts: GpuFacts, old: GpuInstance, member: PlannedSlice) -> bool:
    """Whether an instance must go before a slice can be made."""
    if old.placement.overlaps(member.placement):
        return True
    before = facts.profile(old.profile_id)
    if before is None:
        return False
    marks = {before.attribute, member.profile.attribute}
    if before.attribute in MEDIA and member.profile.attribute in MEDIA:
        return True
    if ALL_MEDIA in marks:
        return True
    same = [entry for entry in facts.instances if entry.profile_id == member.profile.id]
    full = len(same) >= member.profile.instances_max
    return full and old.profile_id == member.profile.id
