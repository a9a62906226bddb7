"""
Draws pictures of flowers, each different, each the same for the same class and seed.

What varies is what varies in photographs: place, size, direction, tilt, light, white balance,
background, sensor noise, now and then a blade of grass in front, and the petals themselves.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tools.flower.petals import Plane, paint
from tools.flower.species import CLASSES, Layer, species

SIZE: Final = 224
"""Pixels a side: what ResNet-50 and most ImageNet networks take."""

IMAGENET_MEAN: Final = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
IMAGENET_DEVIATION: Final = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
"""The normalisation that torchvision's networks are trained with, by channel, of values 0..1."""

UNSEEN_SEEDS: Final = 1_000_000
"""Training uses seeds below this one; pictures from here on are new to the trained network."""

GROUNDS: Final = (
    ((0.10, 0.24, 0.08), (0.36, 0.52, 0.20)),  # meadow
    ((0.05, 0.13, 0.07), (0.17, 0.32, 0.19)),  # hedge
    ((0.24, 0.18, 0.12), (0.44, 0.40, 0.24)),  # soil
    ((0.28, 0.40, 0.42), (0.58, 0.68, 0.66)),  # haze
)


def picture(class_index: int, seed: int) -> npt.NDArray[np.float32]:
    """
    Return what the flower model takes: one picture, [3, 224, 224], RGB, ImageNet-normalised.

    Args and errors are those of `draw`.
    """
    return normalised(draw(class_index, seed))


def normalised(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return pixels [224, 224, 3], 0..255, as [3, 224, 224], ImageNet-normalised."""
    planes = np.moveaxis(pixels, -1, 0).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((planes - IMAGENET_MEAN) / IMAGENET_DEVIATION)


def draw(class_index: int, seed: int, *, studio: bool = False) -> npt.NDArray[np.uint8]:
    """
    Draw one flower.

    Args:
        class_index: 0..101, a row of `species()`.
        seed: 0 or more; the same seed and class give the same picture.
        studio: In even light and without noise, for people to look at.

    Returns:
        Pixels [224, 224, 3], red, green, blue, 0..255.

    Raises:
        ValueError: No such class, or a negative seed.
    """
    if not 0 <= class_index < CLASSES:
        raise ValueError(f"class {class_index} is not within 0..{CLASSES - 1}")
    rng = np.random.default_rng([seed, class_index])
    canvas = _background(rng)
    radius_px = rng.uniform(0.31, 0.47) * SIZE
    radius, angle = _pose(rng, radius_px)
    hue = rng.normal(0, 0.06, 3)
    for layer in species()[class_index].layers:
        paint(canvas, radius, angle, _tinted(layer, hue), radius_px, rng)
    if rng.random() < 0.3:
        _blade(canvas, rng)
    return _camera(canvas, rng, studio)


def _tinted(layer: Layer, hue: npt.NDArray[np.float64]) -> Layer:
    """Return the layer with its petals' colours shifted: plants of one species differ."""
    red, green, blue = (float(shift) for shift in hue)
    tip, base = layer.tip, layer.base
    return replace(
        layer,
        tip=(tip[0] + red, tip[1] + green, tip[2] + blue),
        base=(base[0] + red, base[1] + green, base[2] + blue),
    )


def _pose(rng: np.random.Generator, radius_px: float) -> tuple[Plane, Plane]:
    """Return each pixel's polar coordinates around a flower shifted, turned and tilted."""
    centre = SIZE / 2 + rng.uniform(-0.05, 0.05, 2) * SIZE
    axis, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 1.3)
    line = np.arange(SIZE, dtype=np.float32)
    x = ((line - centre[0]) / radius_px).astype(np.float32)[None, :]
    y = ((line - centre[1]) / radius_px).astype(np.float32)[:, None]
    cos, sin = np.float32(np.cos(axis)), np.float32(np.sin(axis))
    # Seen from the side a flower is narrower across the axis that it is tilted around.
    along, across = x * cos + y * sin, (y * cos - x * sin) * np.float32(squeeze)
    turn = np.float32(rng.uniform(0, 2 * np.pi))
    return np.hypot(along, across), np.arctan2(across, along) + turn


def _smooth(rng: np.random.Generator, cells: int) -> Plane:
    """Return a plane of soft blobs, 0..1, about SIZE / cells pixels each."""
    # Not a matrix product: that would start BLAS threads, which spin between pictures.
    at = np.linspace(0, cells - 1.001, SIZE)
    low = at.astype(int)
    share = ((at - low) ** 2 * (3 - 2 * (at - low))).astype(np.float32)
    grid = rng.random((cells, cells), np.float32)
    rows = grid[low] + (grid[low + 1] - grid[low]) * share[:, None]
    return np.asarray(rows[:, low] + (rows[:, low + 1] - rows[:, low]) * share, np.float32)


def _background(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    dark, light = GROUNDS[rng.integers(len(GROUNDS))]
    blobs = np.float32(0.65) * _smooth(rng, 5) + np.float32(0.35) * _smooth(rng, 14)
    low = np.array(dark, np.float32).reshape(3, 1, 1)
    high = np.array(light, np.float32).reshape(3, 1, 1)
    return low + blobs * (high - low)


def _blade(canvas: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Paint a blade of grass across the picture, beside the flower's centre."""
    line = np.linspace(-1, 1, SIZE, dtype=np.float32)
    way = rng.uniform(0, 2 * np.pi)
    across = line[None, :] * np.float32(np.cos(way)) + line[:, None] * np.float32(np.sin(way))
    along = line[:, None] * np.float32(np.cos(way)) - line[None, :] * np.float32(np.sin(way))
    middle = np.float32(rng.uniform(0.35, 0.8)) + np.float32(0.12) * along * along
    cover = np.clip((np.float32(rng.uniform(0.015, 0.05)) - np.abs(across - middle)) * 90, 0, 1)
    for channel, green in enumerate((0.25, 0.45, 0.15)):
        canvas[channel] += cover * (np.float32(green) - canvas[channel])


def _camera(
    canvas: npt.NDArray[np.float32], rng: np.random.Generator, studio: bool
) -> npt.NDArray[np.uint8]:
    """Expose the picture: light from one side, brightness, white balance, noise."""
    line = np.linspace(-0.12, 0.12, SIZE, dtype=np.float32)
    way = rng.uniform(0, 2 * np.pi)
    light = 1 + line[None, :] * np.float32(np.cos(way)) + line[:, None] * np.float32(np.sin(way))
    gain = rng.uniform(0.6, 1.2) * rng.uniform(0.9, 1.1, (3, 1, 1))
    strength = np.float32(rng.uniform(0.0, 0.07))
    if not studio:
        canvas *= light * gain.astype(np.float32)
        canvas += rng.standard_normal(canvas.shape, np.float32) * strength
    pixels = np.clip(canvas * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
