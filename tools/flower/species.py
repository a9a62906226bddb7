"""The 102 species: their names in the order of the classes, and how each is drawn."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).with_name("species.csv")
CLASSES: Final = 102
"""The names and their order are those of the Oxford 102 flowers; class 0 here is label 1 there."""

Colour = tuple[float, float, float]
"""Red, green, blue from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Layer:
    """
    A ring of equal petals. Lengths are in flower radii.

    Attributes:
        petals: How many in the ring.
        shape: A key of `petals.SHAPES`.
        length: From the flower's centre to the petal's tip.
        width: Half the widest part, as a share of what one petal may take without overlap.
        tip: Colour of the outer end.
        base: Colour at the centre.
        mark: A key of `petals.MARKS`, or empty.
        mark_colour: Colour of the mark.
        lip: Colour of the first petal where it differs, as an orchid's does.
        turn: Turn against the layer below, in petals.
    """

    petals: int
    shape: str
    length: float
    width: float
    tip: Colour
    base: Colour
    mark: str = ""
    mark_colour: Colour = (0.0, 0.0, 0.0)
    lip: Colour | None = None
    turn: float = 0.0


@dataclass(frozen=True, slots=True)
class Species:
    """
    One class of flower.

    Attributes:
        name: Its common name.
        layers: From the lowest to the uppermost.
    """

    name: str
    layers: tuple[Layer, ...]


@cache
def species() -> tuple[Species, ...]:
    """
    Return all species, ordered by class.

    Raises:
        ValueError: The table does not hold CLASSES rows.
    """
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = tuple(_species(row) for row in csv.DictReader(file))
    if len(rows) != CLASSES:
        raise ValueError(f"{TABLE.name}: {len(rows)} species, expected {CLASSES}")
    return rows


def _species(row: dict[str, str]) -> Species:
    tip, base = _colour(row["tip"]), _colour(row["base"])
    inner = _colour(row["inner"]) if row["inner"] else None
    rings = int(row["layers"])
    layers = []
    for ring in range(rings):
        uppermost = ring == rings - 1
        layers.append(
            Layer(
                petals=int(row["petals"]),
                shape=row["shape"],
                length=1.0 - 0.78 * ring / rings,
                width=float(row["width"]),
                tip=inner if inner and uppermost and rings > 1 else tip,
                base=base,
                mark=row["mark"],
                mark_colour=_colour(row["mark_colour"] or "#000000"),
                lip=_colour(row["lip"]) if row["lip"] else None,
                turn=0.5 * ring,
            )
        )
    if inner and rings == 1:
        # A second whorl of another colour, as the sepals and petals of an orchid.
        first = layers[0]
        layers.append(Layer(first.petals, "pointed", 0.72, 0.7, inner, first.base, turn=0.5))
    heart = _heart(row["heart"], float(row["heart_size"]), _colour(row["heart_colour"]))
    return Species(row["name"], (*layers, *heart))


def _heart(kind: str, size: float, colour: Colour) -> tuple[Layer, ...]:
    """Return the layers of a flower's centre, which reaches to `size` flower radii."""
    dark = _mixed(colour, (0.0, 0.0, 0.0), 0.45)
    light = _mixed(colour, (1.0, 1.0, 1.0), 0.45)
    match kind:
        case "none":
            return ()
        case "dot":
            return (Layer(5, "disc", size, 1.0, dark, light),)
        case "seeds":
            rim = Layer(30, "strap", size, 0.8, dark, colour)
            return (rim, Layer(21, "disc", size * 0.85, 1.0, colour, dark, "seeds", light))
        case "stamens":
            return (
                Layer(11, "stamen", size, 1.0, colour, light),
                Layer(5, "disc", size * 0.28, 1.0, light, dark),
            )
        case "trumpet":
            mouth = Layer(12, "fringed", size, 1.2, light, colour)
            return (mouth, Layer(6, "disc", size * 0.72, 1.0, colour, dark))
        case "star":
            return (
                Layer(5, "pointed", size, 0.8, colour, light),
                Layer(5, "disc", size * 0.3, 1.0, dark, colour),
            )
        case "spadix":
            return (Layer(1, "spadix", size, 1.0, colour, dark, "seeds", light),)
        case "fringe":
            ring = Layer(32, "strap", size, 0.55, colour, light)
            return (ring, Layer(5, "star", size * 0.45, 1.0, light, dark))
        case _:
            raise ValueError(f"{TABLE.name}: heart {kind!r} is not known")


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a + (b - a) * share for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _colour(text: str) -> Colour:
    """Read `#rrggbb`. Raises ValueError when it is anything else."""
    if len(text) != 7 or text[0] != "#":
        raise ValueError(f"{TABLE.name}: colour {text!r} is not #rrggbb")
    red, green, blue = (int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
