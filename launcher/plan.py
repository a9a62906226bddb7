"""
What to do to get from GPUs as they are to the slices that are wanted: pure, printable, comparable.

GPU facts + layouts + addresses → Plan. Nothing is asked of a GPU and nothing is changed here.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from contract.slice_spec import Endpoint
from launcher import layout, nearest
from launcher.errors import PlanError
from launcher.layout import Names, Wish
from launcher.mig import Gpu, GpuInstance, GpuInstanceProfile, Placement
from launcher.placement import Room, fit, media_engines_suffice

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
    mig_pending: bool = False
    """Whether MIG mode will be on after a reset, as it is now or differently."""

    def profile(self, profile_id: int) -> GpuInstanceProfile | None:
        """Return the profile with this id; None where the GPU lists none."""
        for entry in self.profiles:
            if entry.profile.id == profile_id:
                return entry.profile
        return None

    def profile_name(self, profile_id: int) -> str:
        """Return the name of a profile id, or the id in words where the GPU lists none."""
        found = self.profile(profile_id)
        return found.name if found else f"profile {profile_id}"


@dataclass(frozen=True, slots=True)
class Owned:
    """A GPU instance this launcher made earlier, and for which slice."""

    slice_name: str
    gpu_uuid: str
    gpu_instance_id: int


@dataclass(frozen=True, slots=True)
class PlannedSlice:
    """
    One slice: a GPU instance, its compute instance (all of it), and a server.

    Attributes:
        name: s0, s1, …; an instance that is kept keeps its slice's name, so that its server stays,
            and one that takes the place of another its name.
        gpu_uuid: Of which GPU.
        keep: The GPU instance that exists already and is used as it is; None: to be created.
    """

    name: str
    gpu_uuid: str
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
class GpuPlan:
    """
    One GPU's steps in their order: enable MIG mode, destroy, create.

    Attributes:
        facts: The GPU as found.
        enable_mig: Whether the mode must be switched on first.
        destroy: Instances in the way: this launcher's own of an earlier layout, and with force
            those of others.
        foreign: Those of others among `destroy`.
        slices: What is to exist afterwards, in order of their names.
        owners: The slice of each instance of ours, as found.
    """

    facts: GpuFacts
    enable_mig: bool
    destroy: tuple[GpuInstance, ...]
    foreign: tuple[GpuInstance, ...]
    slices: tuple[PlannedSlice, ...]
    owners: tuple[Owned, ...]

    @property
    def gpu(self) -> Gpu:
        """Which GPU."""
        return self.facts.gpu

    @property
    def create(self) -> tuple[PlannedSlice, ...]:
        """Slices whose GPU instance does not exist yet, largest first (fits most easily)."""
        missing = [member for member in self.slices if member.keep is None]
        return tuple(sorted(missing, key=lambda member: -member.profile.compute_slices))

    @property
    def stay(self) -> tuple[GpuInstance, ...]:
        """Instances that are not touched, others' among them."""
        return tuple(entry for entry in self.facts.instances if entry not in self.destroy)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of all GPUs, then one server for each slice."""

    gpus: tuple[GpuPlan, ...]

    @property
    def slices(self) -> tuple[PlannedSlice, ...]:
        """All slices, in order of GPUs."""
        return tuple(member for part in self.gpus for member in part.slices)

    @property
    def create(self) -> tuple[PlannedSlice, ...]:
        """Slices whose GPU instance does not exist yet."""
        return tuple(member for part in self.gpus for member in part.create)

    @property
    def destroy(self) -> tuple[GpuInstance, ...]:
        """All instances that go."""
        return tuple(instance for part in self.gpus for instance in part.destroy)

    @property
    def enable_mig(self) -> bool:
        """Whether any GPU's mode must be switched on."""
        return any(part.enable_mig for part in self.gpus)

    @property
    def simulated(self) -> bool:
        """Whether any GPU exists on paper only."""
        return any(part.gpu.simulated for part in self.gpus)


@dataclass(frozen=True, slots=True)
class Addresses:
    """
    Where servers listen.

    Attributes:
        host: Address.
        port_base: HTTP port of slice s0.
    """

    host: str
    port_base: int

    def of(self, number: int) -> tuple[Endpoint, Endpoint, Endpoint]:
        """Return HTTP, gRPC and metrics of slice `s{number}`. Raises PlanError."""
        port = self.port_base + PORT_STEP * number
        if port + 2 > PORT_MAX:
            raise PlanError(f"port base {self.port_base} leaves no ports for slice s{number}")
        return tuple(Endpoint(self.host, port + i) for i in range(3))  # type: ignore[return-value]


def make(
    facts: Sequence[GpuFacts],
    layouts: Mapping[str, Names],
    addresses: Addresses,
    owned: Sequence[Owned] = (),
    force: bool = False,
) -> Plan:
    """
    Plan the layouts on the GPUs.

    Args:
        facts: The GPUs as they are; those that no layout is for are left alone.
        layouts: Profile names by UUID of the GPU, as `layout.select` gives them.
        addresses: Where servers listen.
        owned: Instances among the facts' that this launcher made: kept where they fit the layout,
            destroyed otherwise.
        force: Destroy instances of others where the layout does not fit beside them.

    Raises:
        PlanError: Unknown profile, no room, ports above 65535.
    """
    # Where this launcher made something and nothing is wanted any more, it is removed.
    ours = {entry.gpu_uuid for entry in owned}
    parts = [
        (known, _one(known, layouts.get(known.gpu.uuid, ("none",)), owned, force))
        for known in facts
        if known.gpu.uuid in layouts or known.gpu.uuid in ours
    ]
    # Names of instances that go are not given to slices elsewhere: each stage of a re-cut must stand
    # for itself, so that the others serve meanwhile.
    taken = {entry.slice_name for entry in owned}
    fresh = (number for number in itertools.count() if f"s{number}" not in taken)
    made = (_with_servers(known, part, fresh, addresses, owned) for known, part in parts)
    return Plan(tuple(made))


@dataclass(frozen=True, slots=True)
class _Placed:
    """A GPU's slices before they have addresses; `names` has "" where a new one is to be found."""

    wishes: tuple[Wish, ...]
    places: tuple[Placement, ...]
    keep: tuple[GpuInstance | None, ...]
    names: tuple[str, ...]
    destroy: tuple[GpuInstance, ...]
    foreign: tuple[GpuInstance, ...]


def _one(known: GpuFacts, names: Names, owned: Sequence[Owned], force: bool) -> _Placed:
    wishes = layout.resolve(names, [entry.profile for entry in known.profiles], known.gpu)
    by_id = {instance.id: instance for instance in known.instances}
    mine = {
        by_id[entry.gpu_instance_id]: entry.slice_name
        for entry in owned
        if entry.gpu_uuid == known.gpu.uuid
    }
    foreign = [instance for instance in known.instances if instance not in mine]
    stay, places = _room_beside(known, wishes, list(mine), foreign, force)
    if places is None:
        raise PlanError(nearest.refusal(known.gpu, wishes, _fits(known), stay_text(known, foreign)))
    mine_at = {(entry.profile_id, entry.placement): entry for entry in mine}
    keep = tuple(
        mine_at.get((wish.profile.id, at)) for wish, at in zip(wishes, places, strict=True)
    )
    return _Placed(
        wishes=wishes,
        places=places,
        keep=keep,
        names=_names(keep, places, mine),
        destroy=tuple(e for e in known.instances if e not in stay and e not in keep),
        foreign=tuple(entry for entry in foreign if entry not in stay),
    )


def _names(
    keep: Sequence[GpuInstance | None],
    places: Sequence[Placement],
    mine: Mapping[GpuInstance, str],
) -> tuple[str, ...]:
    """Name what is kept as before, and what is new after something of ours that makes way for it."""
    given = {mine[entry] for entry in keep if entry}
    names = []
    for kept, at in zip(keep, places, strict=True):
        before = [name for entry, name in mine.items() if entry.placement.overlaps(at)]
        free = sorted(set(before) - given, key=_number)
        name = mine[kept] if kept else (free[0] if free else "")
        given.add(name)
        names.append(name)
    return tuple(names)


def _number(name: str) -> int:
    return int(name.removeprefix("s"))


def _room_beside(
    known: GpuFacts,
    wishes: Sequence[Wish],
    mine: Sequence[GpuInstance],
    foreign: Sequence[GpuInstance],
    force: bool,
) -> tuple[tuple[GpuInstance, ...], tuple[Placement, ...] | None]:
    """Return which of others' instances stay, and the placements; with force as many as can."""
    most_that_go = len(foreign) if force else 0
    for gone in range(most_that_go + 1):
        for going in itertools.combinations(foreign, gone):
            stay = tuple(entry for entry in foreign if entry not in going)
            places = _place(known, wishes, mine, stay)
            if places is not None:
                return stay, places
    return tuple(foreign), None


def _place(
    known: GpuFacts,
    wishes: Sequence[Wish],
    mine: Sequence[GpuInstance],
    stay: Sequence[GpuInstance],
) -> tuple[Placement, ...] | None:
    """Return a placement for each wish, in their order; None when there is none."""
    there = [known.profile(entry.profile_id) for entry in stay]
    every = [wish.profile for wish in wishes] + [profile for profile in there if profile]
    if any(every.count(profile) > profile.instances_max for profile in set(every)):
        return None
    if not media_engines_suffice(every):
        return None
    possible = {entry.profile.id: entry.placements for entry in known.profiles}
    rooms = [
        Room(wish.profile.id, tuple(at for at in possible[wish.profile.id] if wish.admits(at)))
        for wish in wishes
    ]
    preferred = {(entry.profile_id, entry.placement) for entry in mine}
    return fit(rooms, [entry.placement for entry in stay], possible, preferred)


def _fits(known: GpuFacts) -> nearest.Fits:
    """Return how to ask whether wishes fit on this GPU beside those that stay."""

    def fits(wishes: Sequence[Wish], stay: Sequence[GpuInstance]) -> bool:
        return _place(known, wishes, (), stay) is not None

    return nearest.Fits(fits, [entry.profile for entry in known.profiles])


def stay_text(known: GpuFacts, foreign: Sequence[GpuInstance]) -> nearest.Others:
    """Return others' instances, and how they are called."""
    text = ", ".join(f"{known.profile_name(e.profile_id)} at {e.placement}" for e in foreign)
    return nearest.Others(tuple(foreign), text)


def _with_servers(
    known: GpuFacts,
    part: _Placed,
    fresh: Iterator[int],
    addresses: Addresses,
    owned: Sequence[Owned],
) -> GpuPlan:
    slices = []
    for wish, at, keep, name in zip(part.wishes, part.places, part.keep, part.names, strict=True):
        named = name or f"s{next(fresh)}"
        http, grpc, metrics = addresses.of(_number(named))
        slices.append(
            PlannedSlice(named, known.gpu.uuid, wish.profile, at, keep, http, grpc, metrics)
        )
    return GpuPlan(
        facts=known,
        enable_mig=not known.mig_mode and bool(slices),
        destroy=part.destroy,
        foreign=part.foreign,
        slices=tuple(sorted(slices, key=lambda member: _number(member.name))),
        owners=tuple(entry for entry in owned if entry.gpu_uuid == known.gpu.uuid),
    )
