"""Paints rings of petals: outlines, colours and marks, one numpy expression for all petals."""

from typing import Final

import numpy as np
import numpy.typing as npt

from tools.flower.species import Layer

Plane = npt.NDArray[np.float32]
"""One value a pixel, [height, width]."""

MANY: Final = 9
SHADOW_PX: Final = 8
"""Over how many pixels a petal's shadow fades."""

_STEPS: Final = 256
_REACH: Final = 1.25
"""Outlines are tabulated for 0 <= t <= _REACH, t being 0 at the centre and 1 at the tip."""

ROUND_LOBES: Final = {"fused": 0.16, "star": 0.42, "disc": 0.0}
"""Shapes without gaps between petals: how far the outline falls back between two lobes."""


def _outline(points: list[tuple[float, float]]) -> Plane:
    """Return half widths (1 at the widest) over t, from a few points of the outline."""
    t = np.linspace(0.0, _REACH, _STEPS)
    along, across = zip(*points, strict=True)
    # A cosine between the points has no kinks, which the eye would catch.
    at = np.clip(np.searchsorted(along, t, side="right") - 1, 0, len(points) - 2)
    start, end = np.take(along, at), np.take(along, at + 1)
    share = np.clip((t - start) / (end - start), 0.0, 1.0)
    share = 0.5 - 0.5 * np.cos(np.pi * share)
    widths = np.take(across, at) * (1 - share) + np.take(across, at + 1) * share
    return np.asarray(widths, np.float32)


_ROUND: Final = [(0, 0.2), (0.4, 0.8), (0.66, 1), (0.85, 0.8), (0.95, 0.45), (1, -0.02), (1.25, -1)]
SHAPES: Final[dict[str, Plane]] = {
    "round": _outline(_ROUND),
    "notched": _outline(_ROUND),
    "heart": _outline(_ROUND),
    "fringed": _outline([(0, 0.2), (0.5, 0.8), (0.8, 1), (0.95, 0.85), (1, -0.02), (1.25, -1)]),
    "pointed": _outline([(0, 0.3), (0.4, 1), (0.75, 0.55), (1, -0.02), (1.25, -0.4)]),
    "strap": _outline([(0, 0.6), (0.3, 0.95), (0.85, 1), (0.96, 0.6), (1, -0.02), (1.25, -1)]),
    "spoon": _outline([(0, 0.15), (0.45, 0.3), (0.75, 1), (0.92, 0.75), (1, -0.02), (1.25, -1)]),
    "stamen": _outline([(0, 0.1), (0.78, 0.1), (0.9, 0.32), (1, -0.02), (1.25, -1)]),
    "spadix": _outline([(0, 0.12), (0.2, 0.16), (0.8, 0.15), (1, -0.02), (1.25, -0.5)]),
}


def paint(
    canvas: npt.NDArray[np.float32],
    radius: Plane,
    angle: Plane,
    layer: Layer,
    radius_px: float,
    rng: np.random.Generator,
) -> None:
    """
    Paint one ring of petals over `canvas`.

    Args:
        canvas: [3, height, width], 0..1; changed in place.
        radius: Distance of each pixel from the flower's centre, in flower radii.
        angle: Direction of each pixel from there, in radians.
        layer: What to paint.
        radius_px: The flower's radius in pixels, for edges one pixel soft.
        rng: Makes each petal a little different.
    """
    # Where there are many petals, one more or less is the same flower.
    count = layer.petals + (int(rng.integers(-1, 2)) if layer.petals >= MANY else 0)
    lengths = layer.length * (1 + 0.06 * rng.standard_normal(count))
    if count > 2 and rng.random() < 0.15:
        lengths[rng.integers(count)] *= rng.uniform(0.4, 0.9)  # something has eaten of it
    window = _window(radius, float(lengths.max()) * 1.2 + SHADOW_PX / radius_px)
    canvas, radius, angle = canvas[:, *window], radius[window], angle[window]

    which = angle * np.float32(count / (2 * np.pi)) + np.float32(layer.turn)
    nearest = np.rint(which)
    offset = which - nearest  # -0.5 .. 0.5 within a petal's sector
    petal = nearest.astype(np.int16) % count
    # No two petals of a flower are alike.
    length = lengths.astype(np.float32)[petal]
    glow = (1 + 0.05 * rng.standard_normal(count)).astype(np.float32)[petal]
    offset += (0.03 * rng.standard_normal(count)).astype(np.float32)[petal]

    if layer.shape in ROUND_LOBES:
        t = radius / (length * (1 - np.float32(ROUND_LOBES[layer.shape]) * np.abs(2 * offset)))
        across = 2 * offset
        inside = (1 - t) * np.float32(layer.length)
        crease = np.float32(1)
    else:
        t, across, inside = _petal(layer, count, radius, offset, length)
        # Where petals meet, the gap between them is in the shade.
        crease = 1 - np.float32(0.45) * np.clip((np.abs(offset) - 0.4) * 10, 0, 1)

    cover = np.clip(inside * np.float32(radius_px) + np.float32(0.5), 0, 1)
    shadow = np.float32(0.4) * np.clip(
        inside * np.float32(radius_px / SHADOW_PX) + np.float32(0.6), 0, 1
    )
    shade = glow * crease * (1 - np.float32(0.22) * across * across)
    shade *= np.float32(0.78) + np.float32(0.22) * np.clip(t * 1.6, 0, 1)
    blend = np.clip(t * t * (3 - 2 * t), 0, 1)
    mark = _mark(layer.mark, t, across, radius, angle)
    lip = (petal == 0).astype(np.float32) if layer.lip else None
    for channel in range(3):
        base, tip = np.float32(layer.base[channel]), np.float32(layer.tip[channel])
        colour = base + blend * (tip - base)
        if layer.lip and lip is not None:
            colour += lip * (np.float32(layer.lip[channel]) - colour)
        if mark is not None:
            colour += mark * (np.float32(layer.mark_colour[channel]) - colour)
        under = canvas[channel] * (1 - shadow)
        canvas[channel] = under + cover * (colour * shade - under)


def _window(radius: Plane, reach: float) -> tuple[slice, slice]:
    """Return the rows and columns that hold all pixels nearer than `reach`."""
    near = radius < reach
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return slice(0), slice(0)  # all of it is outside the picture, or smaller than a pixel
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _petal(
    layer: Layer, count: int, radius: Plane, offset: Plane, length: Plane
) -> tuple[Plane, Plane, Plane]:
    """Return along (0..1), across (-1..1) and the distance inside the outline, by pixel."""
    sector = 2 * np.pi / count
    half = np.float32(layer.width * layer.length * min(0.62 * sector / 2 * 1.25, 0.55))
    turn = offset * np.float32(sector)
    t = radius * np.cos(turn) / length
    if layer.petals == 1 and layer.shape != "spadix":
        t = (
            np.float32(0.5) + np.float32(0.5) * t
        )  # a single petal has the picture's middle in its own
    across = radius * np.sin(turn) / half
    if layer.shape == "notched":
        t = t / (1 - np.float32(0.16) * np.exp(-(across * across) * 12))
    elif layer.shape == "heart":
        t = t / (1 - np.float32(0.3) * np.clip(1 - np.abs(across) * 1.4, 0, 1))
    elif layer.shape == "fringed":
        t = t * (1 + np.float32(0.06) * np.sin(across * 14))
    step = np.clip(t * np.float32((_STEPS - 1) / _REACH), 0, _STEPS - 1).astype(np.int16)
    inside = (SHAPES[layer.shape][step] - np.abs(across)) * half
    inside = np.minimum(inside, (1 - t) * np.float32(layer.length))
    # Behind the centre, for petals wider than half a turn, there is nothing.
    return t, np.clip(across, -1, 1), np.where(t < 0, np.float32(-1), inside)


def _mark(kind: str, t: Plane, across: Plane, radius: Plane, angle: Plane) -> Plane | None:
    """Return how much of the mark's colour each pixel shows, 0..1; None without a mark."""
    if not kind:
        return None
    share: Plane
    match kind:
        case "stripe":
            share = np.exp(-(across * across) * 24) * np.float32(0.85)
        case "veins":
            lines = np.clip(np.cos(across * 15) * 4 - 2.6, 0, 1)
            share = lines * np.clip(1.2 - t, 0, 1) * np.float32(0.8)
        case "spots":
            grid = np.sin(t * 30) * np.sin(across * 9 + np.floor(t * 4.8) * 2)
            share = np.clip(grid * 4 - 1.6, 0, 1) * ((t > 0.2) & (t < 0.85))
        case "edge":
            sides = np.clip((np.abs(across) - 0.62) * 6, 0, 1)
            share = np.minimum(np.clip((t - 0.78) * 8, 0, 1) + sides, 1)
        case "ring":
            share = np.exp(-(((t - 0.45) / 0.11) ** 2))
        case "blotch":
            share = np.clip((0.5 - t) * 7, 0, 1)
        case "seeds":
            spirals = np.sin(angle * 13 + radius * 70) * np.sin(angle * 8 - radius * 55)
            share = np.clip(spirals, 0, 1)
        case _:
            raise ValueError(f"mark {kind!r} is not known")
    return share
