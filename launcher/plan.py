"""
What to do to get from a GPU as it is to the slices that are wanted: pure, printable, comparable.

GPU facts + layout + addresses → Plan. Nothing is asked of a GPU and nothing is changed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contract.slice_spec import Endpoint
from launcher import layout
from launcher.errors import PlanError
from launcher.mig import Gpu, GpuInstance, GpuInstanceProfile, Placement
from launcher.placement import fit

PORT_STEP: Final = 10
"""Slice i has base + 10 i (HTTP), + 1 (gRPC), + 2 (metrics)."""
PORT_MAX: Final = 65535


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """A profile and where it fits on the empty GPU."""

    profile: GpuInstanceProfile
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU as found."""

    gpu: Gpu
    mig_mode: bool
    profiles: tuple[ProfileFacts, ...]
    instances: tuple[GpuInstance, ...]

    def profile_name(self, profile_id: int) -> str:
        """Return the name of a profile id, or the id in words where the GPU lists none."""
        for entry in self.profiles:
            if entry.profile.id == profile_id:
                return entry.profile.name
        return f"profile {profile_id}"


@dataclass(frozen=True, slots=True)
class Owned:
    """A GPU instance this launcher made earlier, and for which slice."""

    slice_name: str
    gpu_instance_id: int


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """
    One slice: a GPU instance, its compute instance (all of it), and a server.

    Attributes:
        name: s0, s1, … in order of ports.
        keep: The GPU instance that exists already and is used as it is; None: to be created.
    """

    name: str
    profile: GpuInstanceProfile
    placement: Placement
    keep: GpuInstance | None
    http: Endpoint
    grpc: Endpoint
    metrics: Endpoint

    @property
    def weight(self) -> float:
        """Share of the work: the compute slices."""
        return float(self.profile.compute_slices)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Steps in their order: enable MIG mode, destroy, create, then one server for each slice.

    Attributes:
        gpu: The GPU to cut.
        enable_mig: Whether the mode must be switched on first.
        destroy: Instances in the way: this launcher's own of an earlier layout, and with force
            those of others.
        slices: What is to exist afterwards.
    """

    gpu: Gpu
    enable_mig: bool
    destroy: tuple[GpuInstance, ...]
    slices: tuple[PlannedSlice, ...]

    @property
    def create(self) -> tuple[PlannedSlice, ...]:
        """Slices whose GPU instance does not exist yet, largest first (fits most easily)."""
        missing = [member for member in self.slices if member.keep is None]
        return tuple(sorted(missing, key=lambda member: -member.profile.compute_slices))


def make(
    facts: GpuFacts,
    wanted: Sequence[str],
    host: str,
    port_base: int,
    owned: Sequence[Owned] = (),
    force: bool = False,
) -> Plan:
    """
    Plan `wanted` on the GPU.

    Args:
        facts: The GPU as it is.
        wanted: Profile names as `layout.parse` gives them.
        host: Address that servers listen on.
        port_base: HTTP port of the first slice.
        owned: Instances among the facts' that this launcher made: kept where they fit the layout,
            destroyed otherwise.
        force: Destroy instances of others where the layout does not fit beside them.

    Raises:
        PlanError: Unknown profile, no room, ports above 65535.
    """
    profiles = layout.resolve(wanted, [entry.profile for entry in facts.profiles], facts.gpu)
    if port_base + PORT_STEP * (len(profiles) - 1) + 2 > PORT_MAX:
        raise PlanError(f"port base {port_base} leaves no ports for {len(profiles)} slices")
    by_id = {instance.id: instance for instance in facts.instances}
    mine = {entry.slice_name: by_id[entry.gpu_instance_id] for entry in owned}
    foreign = [instance for instance in facts.instances if instance not in mine.values()]
    chosen = _place(facts, profiles, mine, foreign)
    if chosen is None and force and foreign:
        foreign = []
        chosen = _place(facts, profiles, mine, foreign)
    if chosen is None:
        raise PlanError(_no_room(facts, profiles, mine, foreign))
    slices = _slices(profiles, chosen, mine, host, port_base)
    stay = {*foreign, *(member.keep for member in slices)}
    return Plan(
        gpu=facts.gpu,
        enable_mig=not facts.mig_mode,
        destroy=tuple(instance for instance in facts.instances if instance not in stay),
        slices=slices,
    )


def _place(
    facts: GpuFacts,
    profiles: Sequence[GpuInstanceProfile],
    mine: dict[str, GpuInstance],
    foreign: Sequence[GpuInstance],
) -> tuple[Placement, ...] | None:
    """Return a placement for each slice, in their order; None when there is none."""
    for profile in set(profiles):
        others = sum(instance.profile_id == profile.id for instance in foreign)
        if profiles.count(profile) + others > profile.instances_max:
            return None
    possible = {entry.profile.id: entry.placements for entry in facts.profiles}

    def preferred(i: int) -> list[Placement]:
        """List where slice i can go: its own instance of before, any other of ours, the rest."""
        same = {
            name: instance.placement
            for name, instance in mine.items()
            if instance.profile_id == profiles[i].id
        }
        own = same.get(_name(i))
        first = ([own] if own else []) + list(same.values())
        return list(dict.fromkeys([*first, *possible[profiles[i].id]]))

    order = sorted(range(len(profiles)), key=lambda i: -possible[profiles[i].id][0].size)
    found = fit([preferred(i) for i in order], [instance.placement for instance in foreign])
    if found is None:
        return None
    placement_of = dict(zip(order, found, strict=True))
    return tuple(placement_of[i] for i in range(len(profiles)))


def _slices(
    profiles: Sequence[GpuInstanceProfile],
    chosen: Sequence[Placement],
    mine: dict[str, GpuInstance],
    host: str,
    port_base: int,
) -> tuple[PlannedSlice, ...]:
    existing = {(entry.profile_id, entry.placement): entry for entry in mine.values()}
    slices = []
    for i, (profile, placement) in enumerate(zip(profiles, chosen, strict=True)):
        port = port_base + PORT_STEP * i
        slices.append(
            PlannedSlice(
                name=_name(i),
                profile=profile,
                placement=placement,
                keep=existing.get((profile.id, placement)),
                http=Endpoint(host, port),
                grpc=Endpoint(host, port + 1),
                metrics=Endpoint(host, port + 2),
            )
        )
    return tuple(slices)


def _no_room(
    facts: GpuFacts,
    profiles: Sequence[GpuInstanceProfile],
    mine: dict[str, GpuInstance],
    foreign: Sequence[GpuInstance],
) -> str:
    """Say why the layout does not fit, and what to do."""
    asked = ", ".join(profile.name for profile in profiles)
    if foreign and _place(facts, profiles, mine, []) is not None:
        there = ", ".join(
            f"{facts.profile_name(instance.profile_id)} at {instance.placement}"
            for instance in foreign
        )
        return (
            f"{facts.gpu.name}: {asked} does not fit beside what others made there ({there}); "
            "ask for less, or destroy theirs with --force"
        )
    need = sum(profile.compute_slices for profile in profiles)
    if need > facts.gpu.compute_slices:
        return (
            f"{facts.gpu.name}: {asked} needs {need} compute slices, "
            f"the GPU has {facts.gpu.compute_slices}; drop some"
        )
    for profile in profiles:
        if profiles.count(profile) > profile.instances_max:
            return (
                f"{facts.gpu.name}: {profiles.count(profile)} times {profile.name}, "
                f"the GPU holds {profile.instances_max}"
            )
    return (
        f"{facts.gpu.name}: there are no placements for {asked} that do not overlap; "
        "`mig-launcher profiles` lists where each fits"
    )


def _name(i: int) -> str:
    return f"s{i}"
