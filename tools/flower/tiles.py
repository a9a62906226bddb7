"""
Draws the pictures of the flower client: `python -m tools.flower.tiles gateway/pages/flowers`.

Each is a PNG with a palette of 256 colours and unfiltered rows: small, and gateway.flowers.pictures
can read it with the standard library alone.
"""

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tools.flower.draw import SIZE, UNSEEN_SEEDS, draw
from tools.flower.sheet import chunk
from tools.flower.species import species

TILES: Final = 40
STEP: Final = 35
"""Through the 102 species, so that neighbours differ and none comes twice."""
SEED: Final = UNSEEN_SEEDS + 500
COLOURS: Final = 256

Pixels = npt.NDArray[np.uint8]


def reduced(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """
    Return (palette [256, 3], index of each pixel [n]) for pixels [n, 3], by median cut.

    The box whose colours differ most is cut in the middle, until there are 256.
    """
    boxes = [np.arange(len(pixels))]
    spreads = [_spread(pixels[boxes[0]])]
    while len(boxes) < COLOURS:
        at = int(np.argmax(spreads))
        box = boxes[at]
        values = pixels[box]
        channel = int(np.argmax(values.std(axis=0)))
        order = np.argsort(values[:, channel], kind="stable")
        halves = box[order[: len(box) // 2]], box[order[len(box) // 2 :]]
        boxes[at : at + 1] = halves
        spreads[at : at + 1] = [_spread(pixels[half]) for half in halves]
    palette = np.array([pixels[box].mean(axis=0).round() for box in boxes], np.uint8)
    index = np.zeros(len(pixels), np.uint8)
    for number, box in enumerate(boxes):
        index[box] = number
    return palette, index


def _spread(values: Pixels) -> float:
    return float(values.var(axis=0).max() * len(values)) if len(values) > 1 else 0.0


def png(palette: Pixels, index: Pixels) -> bytes:
    """Return a square picture as a PNG file. Source: PNG specification, third edition, 5 and 9."""
    rows = np.insert(index.reshape(SIZE, SIZE), 0, 0, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def main(arguments: list[str]) -> int:
    """Write the pictures and their list into the folder given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tools.flower.tiles FOLDER\n")
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    names = species()
    for tile in range(TILES):
        which = tile * STEP % len(names)
        palette, index = reduced(draw(which, SEED + tile).reshape(-1, 3))
        file = f"{tile:02}.png"
        (folder / file).write_bytes(png(palette, index))
        listed.append({"file": file, "name": names[which].name})
    (folder / "pictures.json").write_text(json.dumps(listed, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
