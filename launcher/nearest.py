"""Why a layout does not fit, and the nearest that does: pure."""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from launcher.layout import Wish
from launcher.mig import Gpu, GpuInstance, GpuInstanceProfile
from launcher.placement import media_engines_suffice

EDIT_COST: Final = 1
SLICE_COST: Final = 10
"""A layout is near when few compute slices are lost; then when few wishes are changed."""
LOOKED_AT_MAX: Final = 2000
"""Layouts tried at most. The 64 names that a layout may have lose one after the other in that."""


@dataclass(frozen=True, slots=True)
class Fits:
    """
    How to ask whether wishes fit.

    Attributes:
        ask: (wishes, instances that stay) → whether there are placements.
        profiles: The GPU's.
    """

    ask: Callable[[Sequence[Wish], Sequence[GpuInstance]], bool]
    profiles: Sequence[GpuInstanceProfile]


@dataclass(frozen=True, slots=True)
class Others:
    """Instances that are not ours, and how they are called."""

    instances: tuple[GpuInstance, ...]
    text: str


def refusal(gpu: Gpu, wishes: Sequence[Wish], fits: Fits, others: Others) -> str:
    """Return why `wishes` do not fit, and what to ask for instead."""
    near = nearest(wishes, fits, others.instances)
    advice = f"; the nearest that fits: {', '.join(map(str, near))}" if near else ""
    asked = ", ".join(map(str, wishes))
    if others.instances and fits.ask(wishes, ()):
        return (
            f"{gpu.name}: {asked} does not fit beside what others made there ({others.text})"
            f"{advice}; or destroy theirs with --force"
        )
    return f"{gpu.name}: {_why(gpu, wishes, asked)}{advice}"


def _why(gpu: Gpu, wishes: Sequence[Wish], asked: str) -> str:
    need = sum(wish.profile.compute_slices for wish in wishes)
    if need > gpu.compute_slices:
        return f"{asked} needs {need} compute slices, the GPU has {gpu.compute_slices}"
    profiles = [wish.profile for wish in wishes]
    for profile in profiles:
        if profiles.count(profile) > profile.instances_max:
            return (
                f"{profiles.count(profile)} times {profile.name}, "
                f"the GPU holds {profile.instances_max}"
            )
    if not media_engines_suffice(profiles):
        return (
            f"{asked} share out media engines that the GPU has once: one instance can have +me, "
            "and beside +me.all all others must be -me"
        )
    return (
        f"there are no placements for {asked} that do not overlap "
        "(`mig-launcher profiles` lists where each fits)"
    )


def nearest(
    wishes: Sequence[Wish], fits: Fits, stay: Sequence[GpuInstance] = ()
) -> tuple[Wish, ...]:
    """
    Return the layout nearest to `wishes` that fits: with the fewest compute slices lost, then the
    fewest changes. A change gives up a place, makes an instance smaller, or leaves it out.

    Returns:
        Empty when nothing was found that fits.
    """
    order = itertools.count()
    queue = [(0, next(order), tuple(wishes))]
    seen = {_key(tuple(wishes))}
    for _ in range(LOOKED_AT_MAX):
        if not queue:
            return ()
        cost, _, tried = heapq.heappop(queue)
        if tried and fits.ask(tried, stay):
            return tried
        for i, wish in enumerate(tried):
            if i and wish == tried[i - 1]:
                continue  # the same change as before
            for changed, lost in _changes(wish, fits.profiles):
                made = (*tried[:i], *changed, *tried[i + 1 :])
                key = _key(made)
                if key not in seen:
                    seen.add(key)
                    step = cost + EDIT_COST + SLICE_COST * lost
                    heapq.heappush(queue, (step, next(order), made))
    return ()


def _changes(
    wish: Wish, profiles: Sequence[GpuInstanceProfile]
) -> list[tuple[tuple[Wish, ...], int]]:
    """Return what may stand for a wish, and the compute slices lost by it."""
    size = wish.profile.compute_slices
    changes: list[tuple[tuple[Wish, ...], int]] = [((), size)]
    if wish.start is not None:
        changes.append(((Wish(wish.profile),), 0))
    smaller = [p for p in profiles if p.is_base and p.compute_slices < size]
    if smaller:
        next_size = max(smaller, key=lambda profile: profile.compute_slices)
        changes.append(((Wish(next_size),), size - next_size.compute_slices))
    if not wish.profile.is_base:
        plain = [p for p in profiles if p.is_base and p.compute_slices == size]
        changes += [((Wish(profile),), 0) for profile in plain]
    return changes


def _key(wishes: tuple[Wish, ...]) -> tuple[str, ...]:
    return tuple(sorted(map(str, wishes)))
