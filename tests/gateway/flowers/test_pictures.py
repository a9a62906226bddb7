"""The tensors are those that the model was trained with."""

import numpy as np
import pytest

from gateway.flowers.pictures import (
    RGB_BYTES,
    PictureError,
    listed,
    tensor_of_png,
    tensor_of_rgb,
)
from tools.flower.draw import UNSEEN_SEEDS, draw, normalised
from tools.flower.species import species
from tools.flower.tiles import COLOURS, png, reduced


def test_pixels_become_what_the_model_takes() -> None:
    pixels = draw(53, UNSEEN_SEEDS + 1)
    tensor = np.frombuffer(tensor_of_rgb(pixels.tobytes()), np.float32).reshape(3, 224, 224)
    np.testing.assert_allclose(tensor, normalised(pixels), atol=1e-6)


def test_a_picture_with_a_palette_is_read_as_its_colours() -> None:
    palette, index = reduced(draw(10, UNSEEN_SEEDS + 2).reshape(-1, 3))
    assert palette.shape == (COLOURS, 3)
    pixels = palette[index].reshape(224, 224, 3)
    tensor = np.frombuffer(tensor_of_png(png(palette, index)), np.float32).reshape(3, 224, 224)
    np.testing.assert_allclose(tensor, normalised(pixels), atol=1e-6)


def test_the_pictures_that_come_with_the_gateway_are_flowers_of_the_model() -> None:
    names = {one.name for one in species()}
    pictures = listed()
    assert len(pictures) == 40
    assert len({picture.name for picture in pictures} & names) == 40
    tensor_of_png(pictures[-1].file.read_bytes())


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0"])
def test_what_is_no_such_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        tensor_of_png(data)


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(PictureError, match=str(RGB_BYTES)):
        tensor_of_rgb(b"\0" * 12)
