"""Draws the contact sheet of all flowers: `python -m tools.flower.sheet docs/images/flowers.png`."""

import struct
import sys
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tools.flower.draw import SIZE, UNSEEN_SEEDS, draw
from tools.flower.species import CLASSES

COLUMNS: Final = 17
SHRINK: Final = 4
"""Thumbnails are 56 pixels a side, so that the sheet fits a page and a small file."""

COARSE: Final = np.uint8(0xF8)
"""32 steps a colour: no eye sees it in thumbnails, and the file is half as large."""


def sheet() -> npt.NDArray[np.uint8]:
    """Return all classes in reading order, 17 a row: pixels [336, 952, 3]."""
    side = SIZE // SHRINK
    pixels = np.zeros((CLASSES // COLUMNS * side, COLUMNS * side, 3), np.uint8)
    for index in range(CLASSES):
        flower = draw(index, UNSEEN_SEEDS, studio=True)
        small = flower.reshape(side, SHRINK, side, SHRINK, 3).mean((1, 3)).astype(np.uint8)
        small &= COARSE
        row, column = divmod(index, COLUMNS)
        pixels[row * side : (row + 1) * side, column * side : (column + 1) * side] = small
    return pixels


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """
    Return pixels [height, width, 3] as a PNG file.

    Each row is stored as differences to the row above (filter type 2), which deflate packs well.
    Source: PNG specification, third edition, sections 5 and 9.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    differences = np.diff(rows, axis=0, prepend=np.zeros((1, width * 3), np.uint8))
    filtered = np.insert(differences, 0, 2, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def main(arguments: list[str]) -> int:
    """Write the sheet to the path given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tools.flower.sheet PNG\n")
        return 2
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(sheet()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
