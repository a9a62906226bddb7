"""Pictures as the flower model takes them: [1, 3, 224, 224] FP32, RGB, ImageNet-normalised."""

import json
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "pages" / "flowers"
SIDE: Final = 224
PIXELS: Final = SIDE * SIDE
RGB_BYTES: Final = 3 * PIXELS
TENSOR_BYTES: Final = 4 * RGB_BYTES
# What networks of torchvision are trained with, by channel, of values 0..1; see docs/models.md.
_MEANS: Final = (0.485, 0.456, 0.406)
_DEVIATIONS: Final = (0.229, 0.224, 0.225)
_NORMALISED: Final = tuple(
    tuple((value / 255 - mean) / deviation for value in range(256))
    for mean, deviation in zip(_MEANS, _DEVIATIONS, strict=True)
)
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PALETTE: Final = 3


class PictureError(ValueError):
    """Not a picture that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture that comes with the gateway, and the flower on it."""

    file: Path
    name: str


def listed() -> list[Listed]:
    """Return the pictures that come with the gateway."""
    entries = json.loads((FOLDER / "pictures.json").read_text(encoding="utf-8"))
    return [Listed(FOLDER / entry["file"], entry["name"]) for entry in entries]


def tensor_of_rgb(pixels: bytes) -> bytes:
    """Return the tensor of pixels row by row: red, green, blue, a byte each. Raises PictureError."""
    if len(pixels) != RGB_BYTES:
        raise PictureError(f"{len(pixels)} bytes; {SIDE} x {SIDE} pixels of 3 take {RGB_BYTES}")
    return _joined([(pixels[at::3], table) for at, table in enumerate(_NORMALISED)])


def tensor_of_png(data: bytes) -> bytes:
    """
    Return the tensor of a PNG file with a palette and unfiltered rows, as tools.flower.tiles writes.

    Raises:
        PictureError: Another kind of PNG, or none.
    """
    chunks = _chunks(data)
    width, height, depth, kind = struct.unpack(">IIBB", chunks.get("IHDR", b"")[:10].ljust(10))
    if (width, height, depth, kind) != (SIDE, SIDE, 8, _PALETTE):
        raise PictureError(f"no PNG of {SIDE} x {SIDE} pixels with a palette")
    rows = zlib.decompress(chunks["IDAT"])
    if len(rows) != (SIDE + 1) * SIDE or any(rows[:: SIDE + 1]):
        raise PictureError("its rows are filtered")
    index = b"".join(rows[at + 1 : at + 1 + SIDE] for at in range(0, len(rows), SIDE + 1))
    palette = chunks["PLTE"].ljust(3 * 256, b"\0")
    return _joined(
        [
            (index, tuple(table[value] for value in palette[at::3]))
            for at, table in enumerate(_NORMALISED)
        ]
    )


def _joined(planes: list[tuple[bytes, tuple[float, ...]]]) -> bytes:
    parts = []
    for plane, table in planes:
        values = array("f", map(table.__getitem__, plane))
        if sys.byteorder == "big":
            values.byteswap()  # tensors are little-endian on the wire
        parts.append(values.tobytes())
    return b"".join(parts)


def _chunks(data: bytes) -> dict[str, bytes]:
    if not data.startswith(_SIGNATURE):
        raise PictureError("no PNG file")
    found: dict[str, bytes] = {}
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        name = kind.decode("latin-1")
        found[name] = found.get(name, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    return found
