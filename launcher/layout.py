"""
Layouts: how users name the slices they want, pure.

A profile is named exactly (`1g.5gb`, `1g.5gb+me`), or by its size (`1g` is whatever this GPU calls
it: 1g.5gb on A100-40GB, 1g.18gb on H200; `1g+me`, `1g-me`, `1g+me.all`, `1g+gfx` likewise). A
layout is a list of them with counts (`3g,2g,2x1g`) and places (`3g@4`, or `3g@4:4` with the size),
`all-NAME` (as many as the empty GPU holds), `balanced` (some of each size), or `none`.

Several GPUs: one layout for all, or `SELECTOR=LAYOUT;SELECTOR=LAYOUT` with an index, a UUID, or
`all` for those not named.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from launcher.errors import PlanError
from launcher.mig import Gpu, GpuInstanceProfile, Placement

ALL: Final = "all-"
ALONE: Final = ("balanced", "all-balanced", "none")
"""Layouts of one word that stand alone, as `all-…` does."""
EVERY_GPU: Final = "all"
BY_SIZE: Final = re.compile(r"(\d)g((?:[+.-](?:me|gfx)[a-z.]*)?)")
BY_MEMORY: Final = re.compile(r"(\d)g\.(\d+)gb((?:[+.-](?:me|gfx)[a-z.]*)?)")
COUNTED: Final = re.compile(
    r"(?:(\d{1,2})\s*[x*]\s*)?([^@*]+?)(?:\s*@\s*(\d{1,2})(?::(\d{1,2}))?)?"
)
COMPUTE_SPLIT: Final = re.compile(r"\d+c\.\d+g(\..*)?")
NAMES_MAX: Final = 64
"""More than any GPU holds; a bound on what a typing mistake can make us do."""
NAME_TOLERANCE: Final = 0.06
"""Drivers and ECC name one board's profile 1g.23gb or 1g.24gb, 3g.93gb or 3g.95gb."""

Names = tuple[str, ...]
Layouts = dict[str, Names]
"""By selector of a GPU."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One slice that is wanted: its profile, and its place where the user named one."""

    profile: GpuInstanceProfile
    start: int | None = None
    size: int | None = None

    def admits(self, at: Placement) -> bool:
        """Whether the place is one that was asked for."""
        return self.start in (None, at.start) and self.size in (None, at.size)

    def __str__(self) -> str:
        place = "" if self.start is None else f"@{self.start}"
        return f"{self.profile.name}{place}"


def parse(text: str) -> Layouts:
    """
    Split a layout as typed; names are judged when a GPU is known.

    Raises:
        ValueError: A name is empty, a word that stands alone does not, or there are too many.
    """
    if "=" not in text:
        return {EVERY_GPU: parse_names(text)}
    layouts: Layouts = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        selector, _, names = part.partition("=")
        selector = selector.strip()
        if selector in layouts:
            raise ValueError(f"{text!r} names GPU {selector} twice")
        if not selector:
            raise ValueError(f"{part!r} names no GPU; write 0={names or 'all-1g'}")
        layouts[selector] = parse_names(names)
    return layouts


def parse_names(text: str) -> Names:
    """Split the layout of one GPU into names, one for each slice. Raises ValueError."""
    names: list[str] = []
    for part in text.split(","):
        found = COUNTED.fullmatch(part.strip().lower())
        if found is None:
            raise ValueError(f"{text!r} has an empty name; write a list such as 3g,2g,1g,1g")
        count = int(found[1] or 1)
        place = "".join(
            f"{mark}{word}" for mark, word in zip("@:", (found[3], found[4]), strict=True) if word
        )
        if count > 1 and place:
            raise ValueError(f"{part.strip()!r}: {count} instances cannot be at one place")
        names += [found[2] + place] * count
    if len(names) > 1 and any(name.startswith(ALL) or name in ALONE for name in names):
        raise ValueError(f"{text!r}: {ALL}NAME, balanced and none stand alone")
    if len(names) > NAMES_MAX:
        raise ValueError(f"{text!r} has {len(names)} slices; {NAMES_MAX} at most")
    return tuple(names)


def from_document(value: object) -> Layouts:
    """
    Read the layout of a configuration file: text, a list of names, or a mapping of selectors to
    such, or to mappings of names to counts as NVIDIA's mig-parted has them.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, Mapping):
        return {str(selector): _names(entry) for selector, entry in value.items()}
    if isinstance(value, str):
        return parse(value)
    return {EVERY_GPU: _names(value)}


def _names(value: Any) -> Names:
    if isinstance(value, Mapping):
        counts = {str(name): count for name, count in value.items()}
        if not all(isinstance(n, int) and 0 <= n <= NAMES_MAX for n in counts.values()):
            raise ValueError(f"{value!r}: counts are numbers from 0 to {NAMES_MAX}")
        given = ",".join(f"{count}x{name}" for name, count in counts.items() if count)
        return parse_names(given or "none")
    if isinstance(value, str):
        return parse_names(value)
    if isinstance(value, Sequence) and value and all(isinstance(name, str) for name in value):
        return parse_names(",".join(value))
    raise ValueError(f"{value!r} is no layout; write all-1g, or a list such as 3g,2g,1g,1g")


def select(layouts: Mapping[str, Names], gpus: Sequence[Gpu]) -> dict[str, Names]:
    """
    Return the layout of each GPU by its UUID; GPUs that none is for are left out.

    Raises:
        PlanError: A selector fits no GPU.
    """
    chosen: dict[str, Names] = {}
    by_name = {str(gpu.index): gpu for gpu in gpus} | {gpu.uuid: gpu for gpu in gpus}
    for selector, names in layouts.items():
        if selector == EVERY_GPU:
            continue
        if selector not in by_name:
            there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
            raise PlanError(f"the layout names GPU {selector!r}; there are {there}")
        chosen[by_name[selector].uuid] = names
    if EVERY_GPU in layouts:
        for gpu in gpus:
            # A GPU without MIG is passed over when others are meant too.
            if gpu.uuid not in chosen and (gpu.has_mig or len(gpus) == 1):
                chosen[gpu.uuid] = layouts[EVERY_GPU]
    if not chosen:
        raise PlanError(
            f"none of these GPUs can be cut: {', '.join(gpu.name for gpu in gpus)} have no MIG"
        )
    return {gpu.uuid: chosen[gpu.uuid] for gpu in gpus if gpu.uuid in chosen}


def resolve(
    names: Sequence[str], profiles: Sequence[GpuInstanceProfile], gpu: Gpu
) -> tuple[Wish, ...]:
    """
    Return what is wanted for each slice, in the order asked for.

    Raises:
        PlanError: This GPU has no such profile; the message lists those it has.
    """
    if not gpu.has_mig:
        raise PlanError(f"{gpu.name} cannot be cut: it has no MIG; `--gpu mps` shares it out")
    if not profiles:
        raise PlanError(
            f"{gpu.name} does not tell its MIG profiles: its driver does so only while MIG mode is "
            "on, which --enable-mig switches on"
        )
    first = names[0]
    if first == "none":
        return ()
    if first in ALONE:
        return tuple(Wish(profile) for profile in _balanced(profiles, gpu))
    if first.startswith(ALL):
        profile = find_profile(first.removeprefix(ALL), profiles, gpu)
        return (Wish(profile),) * profile.instances_max
    return tuple(_wish(name, profiles, gpu) for name in names)


def _wish(name: str, profiles: Sequence[GpuInstanceProfile], gpu: Gpu) -> Wish:
    kind, at, place = name.partition("@")
    profile = find_profile(kind, profiles, gpu)
    if not at:
        return Wish(profile)
    start, _, size = place.partition(":")
    return Wish(profile, int(start), int(size) if size else None)


def _balanced(profiles: Sequence[GpuInstanceProfile], gpu: Gpu) -> tuple[GpuInstanceProfile, ...]:
    """Return mig-parted's all-balanced: 3g, 2g, 1g, 1g of seven slices; 2g, 1g, 1g of four."""
    sizes = {profile.compute_slices for profile in profiles if profile.is_base}
    names = [name for name in ("3g", "2g", "1g", "1g") if int(name[0]) in sizes]
    return tuple(find_profile(name, profiles, gpu) for name in names)


def find_profile(name: str, profiles: Sequence[GpuInstanceProfile], gpu: Gpu) -> GpuInstanceProfile:
    """Return the profile a user means by `name`. Raises PlanError."""
    for profile in profiles:
        if name in (profile.name, _label(profile.name)):
            return profile
    size = BY_SIZE.fullmatch(name)
    if size:
        same = _same(profiles, size[1], size[2])
        if same:
            # The one with the least memory: a 1g also exists with double memory.
            return min(same, key=lambda profile: profile.memory_mib)
    full = BY_MEMORY.fullmatch(name)
    if full:
        wanted = int(full[2])
        near = [
            (abs(_gigabytes(profile) - wanted), profile.memory_mib, profile)
            for profile in _same(profiles, full[1], full[3])
            if abs(_gigabytes(profile) - wanted) <= NAME_TOLERANCE * wanted
        ]
        if near:
            return min(near, key=lambda entry: entry[:2])[2]
    if COMPUTE_SPLIT.fullmatch(name):
        raise PlanError(
            f"{name} is a part of a GPU instance; slices are whole GPU instances here, "
            f"for example {name.partition('.')[2]}"
        )
    known = ", ".join(profile.name for profile in profiles)
    raise PlanError(f"{gpu.name} has no profile {name!r}; it has {known}")


def _same(
    profiles: Sequence[GpuInstanceProfile], slices: str, attribute: str
) -> list[GpuInstanceProfile]:
    mark = f"+{attribute[1:]}" if attribute.startswith(".") else attribute
    return [
        profile
        for profile in profiles
        if profile.compute_slices == int(slices) and profile.attribute == mark
    ]


def _label(name: str) -> str:
    """Return the name as labels of Kubernetes have it, where no `+` can stand."""
    return name.replace("+", ".")


def _gigabytes(profile: GpuInstanceProfile) -> int:
    found = BY_MEMORY.fullmatch(profile.name)
    return int(found[2]) if found else round(profile.memory_mib / 1024)
