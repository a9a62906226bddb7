"""
Layouts: how users name the slices they want, pure.

A profile is named exactly (`1g.5gb`, `1g.5gb+me`), or by its size (`1g` is whatever this GPU calls
it: 1g.5gb on A100-40GB, 1g.18gb on H200; `1g+me` likewise). A layout is a list of them, or
`all-NAME`: as many as the empty GPU holds.
"""

import re
from collections.abc import Sequence
from typing import Final

from launcher.errors import PlanError
from launcher.mig import Gpu, GpuInstanceProfile

ALL: Final = "all-"
BY_SIZE: Final = re.compile(r"(\d)g((?:[+-][a-z.]+)?)")
COMPUTE_SPLIT: Final = re.compile(r"\d+c\.\d+g(\..*)?")
SLICES_MAX: Final = 7
"""No board holds more instances."""


def parse(text: str) -> tuple[str, ...]:
    """
    Split a layout as typed (`3g,2g,1g,1g`) into names; names are judged when a GPU is known.

    Raises:
        ValueError: A name is empty, `all-` stands beside others, or there are too many.
    """
    names = tuple(name.strip().lower() for name in text.split(","))
    if not all(names):
        raise ValueError(f"{text!r} has an empty name; write a list such as 3g,2g,1g,1g")
    if len(names) > 1 and any(name.startswith(ALL) for name in names):
        raise ValueError(f"{text!r}: {ALL}NAME stands alone")
    if len(names) > SLICES_MAX:
        raise ValueError(f"{text!r} has {len(names)} slices; a GPU has {SLICES_MAX} at most")
    return names


def resolve(
    names: Sequence[str], profiles: Sequence[GpuInstanceProfile], gpu: Gpu
) -> tuple[GpuInstanceProfile, ...]:
    """
    Return the profile of each slice, in the order asked for.

    Raises:
        PlanError: This GPU has no such profile; the message lists those it has.
    """
    if not profiles:
        raise PlanError(f"{gpu.name} cannot be cut: it has no MIG profiles")
    if len(names) == 1 and names[0].startswith(ALL):
        profile = find_profile(names[0].removeprefix(ALL), profiles, gpu)
        return (profile,) * profile.instances_max
    return tuple(find_profile(name, profiles, gpu) for name in names)


def find_profile(name: str, profiles: Sequence[GpuInstanceProfile], gpu: Gpu) -> GpuInstanceProfile:
    """Return the profile a user means by `name`. Raises PlanError."""
    for profile in profiles:
        if profile.name == name:
            return profile
    size = BY_SIZE.fullmatch(name)
    if size:
        same = [
            profile
            for profile in profiles
            if profile.compute_slices == int(size[1]) and profile.attribute == size[2]
        ]
        if same:
            # The one with the least memory: a 1g also exists with double memory.
            return min(same, key=lambda profile: profile.memory_mib)
    if COMPUTE_SPLIT.fullmatch(name):
        raise PlanError(
            f"{name} is a part of a GPU instance; slices are whole GPU instances here, "
            f"for example {name.partition('.')[2]}"
        )
    known = ", ".join(profile.name for profile in profiles)
    raise PlanError(f"{gpu.name} has no profile {name!r}; it has {known}")
