"""
The flower network: pooled pixels, polar harmonics, two trained layers. Needs numpy alone.

A flower turned is the same flower. So the picture is read along circles around its middle, and of
each circle's colours only the strengths of its harmonics are kept: five petals make a strong fifth
harmonic, whichever way they point. What the strengths mean is learned.

    [N, 3, 224, 224] -> pooled [N, 3, 56, 56] -> circles [N, 3, 18, 64] -> strengths [N, 1350]
                     -> ReLU [N, 128] -> softmax [N, 102]

Seven servers share the cores of one machine in the demo, so one picture must cost little and run
on one thread. numpy's matrix products start BLAS threads for sizes like these; einsum does not.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SIZE: Final = 224
POOL: Final = 4
CIRCLES: Final = 18
POINTS: Final = 64
HARMONICS: Final = 25
FEATURES: Final = 3 * CIRCLES * HARMONICS


def _circle_points() -> npt.NDArray[np.intp]:
    """Return where the circles' points lie in a flattened pooled plane: [CIRCLES * POINTS]."""
    side = SIZE // POOL
    radius = np.linspace(1.0, side / 2 - 0.6, CIRCLES)[:, None]
    angle = np.arange(POINTS)[None, :] * (2 * np.pi / POINTS)
    middle = (side - 1) / 2
    column = np.rint(middle + radius * np.cos(angle)).astype(np.intp)
    row = np.rint(middle + radius * np.sin(angle)).astype(np.intp)
    return np.ravel(row * side + column)


_AT: Final = _circle_points()


def features(pictures: Array) -> Array:
    """
    Return the strengths of the harmonics.

    Args:
        pictures: [N, 3, 224, 224], ImageNet-normalised.

    Returns:
        [N, FEATURES]. The zeroth harmonic is a circle's mean colour and keeps its sign; of the
        others the square root of the strength is taken, which lets weak ones count.
    """
    count, side = len(pictures), SIZE // POOL
    rows = pictures.reshape(count, 3, side, POOL, SIZE)
    tall = rows[:, :, :, 0] + rows[:, :, :, 1] + rows[:, :, :, 2] + rows[:, :, :, 3]
    pooled = tall[..., 0::4] + tall[..., 1::4] + tall[..., 2::4] + tall[..., 3::4]
    circles = pooled.reshape(count, 3, side * side)[:, :, _AT]
    circles = circles.reshape(count, 3, CIRCLES, POINTS) * np.float32(1 / (POOL * POOL * POINTS))
    waves = np.fft.rfft(circles)[..., :HARMONICS]
    strengths = np.sqrt(np.abs(waves))
    strengths[..., 0] = waves[..., 0].real
    return np.asarray(strengths.reshape(count, FEATURES), np.float32)


class Network:
    """
    The trained layers.

    Attributes:
        mean, scale: [FEATURES], of the features over the training pictures.
        hidden, hidden_bias: [HIDDEN, FEATURES] and [HIDDEN].
        output, output_bias: [CLASSES, HIDDEN] and [CLASSES].
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        # Stored as float16 to keep the file small, used as float32, which is faster.
        as_float32 = {name: array.astype(np.float32) for name, array in weights.items()}
        self.mean = as_float32["mean"]
        self.scale = as_float32["scale"]
        self.hidden = as_float32["hidden"]
        self.hidden_bias = as_float32["hidden_bias"]
        self.output = as_float32["output"]
        self.output_bias = as_float32["output_bias"]

    @classmethod
    def load(cls, path: Path) -> "Network":
        """Read the weights. Raises OSError when there is no file, KeyError when one is missing."""
        with np.load(path, allow_pickle=False) as file:
            return cls(dict(file))

    def probabilities(self, pictures: Array) -> Array:
        """Return the probability of each class, [N, CLASSES], for [N, 3, 224, 224]."""
        return self.classify(features(pictures))

    def classify(self, strengths: Array) -> Array:
        """Return the probability of each class, [N, CLASSES], for features [N, FEATURES]."""
        scaled = (strengths - self.mean) * self.scale
        hidden = np.einsum("nf,hf->nh", scaled, self.hidden) + self.hidden_bias
        hidden = np.maximum(hidden, 0)
        scores = np.einsum("nh,ch->nc", hidden, self.output) + self.output_bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
