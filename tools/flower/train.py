"""
Trains the flower model and measures it: `python -m tools.flower.train`.

Draws the training pictures, fits two layers with Adam, measures on pictures that were not trained
on, and writes the weights and the labels into the model repository. `--check` only measures the
weights that are there. Two runs with the same numpy on the same kind of processor write the same
bytes; another processor may round differently, to the same accuracy.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from tools.flower.draw import UNSEEN_SEEDS, picture
from tools.flower.species import CLASSES, species

MODEL: Final = Path(__file__).parents[2] / "configs" / "models" / "flower"
WEIGHTS: Final = MODEL / "1" / "weights.npz"
LABELS: Final = MODEL / "labels.txt"

TRAINING_PER_CLASS: Final = 120
MEASURED_PER_CLASS: Final = 20
HIDDEN: Final = 128
EPOCHS: Final = 40
BATCH: Final = 128
RATE: Final = 2e-3
DECAY: Final = 2e-2
SMOOTHING: Final = 0.05
"""Share of each target spread over all classes, so that the network stays unsure of itself."""

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]


@cache
def network_module() -> ModuleType:
    """Import the model's own network.py, so that what is trained is what is served."""
    spec = importlib.util.spec_from_file_location("flower_network", MODEL / "1" / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _features_of(seed: int) -> Array:
    """Return the features of one picture of each class, [CLASSES, FEATURES]."""
    features = network_module().features
    return np.concatenate([features(picture(index, seed)[None]) for index in range(CLASSES)])


def _processes(count: int) -> ProcessPoolExecutor:
    # Not forked: a fork of a process in which numpy has threads may hang, and keeps its settings.
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def dataset(first_seed: int, per_class: int) -> tuple[Array, Labels]:
    """
    Draw pictures with seeds from `first_seed` on and return their features and classes.

    Returns:
        [per_class * CLASSES, FEATURES] and [per_class * CLASSES].
    """
    with _processes(min(per_class, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(_features_of, range(first_seed, first_seed + per_class)))
    return np.concatenate(parts), np.tile(np.arange(CLASSES), per_class)


def _gradients(
    weights: dict[str, Array], inputs: Array, labels: Labels, keep: Array
) -> dict[str, Array]:
    """Return the loss's slope by each weight, for one batch with `keep` of the inputs."""
    inputs = inputs * keep
    hidden = np.maximum(inputs @ weights["hidden"].T + weights["hidden_bias"], 0)
    scores = hidden @ weights["output"].T + weights["output_bias"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope = powers / powers.sum(axis=1, keepdims=True)
    slope -= SMOOTHING / CLASSES
    slope[np.arange(len(labels)), labels] -= 1 - SMOOTHING
    slope /= len(labels)
    back = (slope @ weights["output"]) * (hidden > 0)
    return {
        "hidden": back.T @ inputs,
        "hidden_bias": back.sum(axis=0),
        "output": slope.T @ hidden,
        "output_bias": slope.sum(axis=0),
    }


def fit(inputs: Array, labels: Labels, epochs: int = EPOCHS) -> dict[str, Array]:
    """Return the weights after training on features [N, FEATURES] and classes [N]."""
    rng = np.random.default_rng(0)
    mean = inputs.mean(axis=0)
    scale = 1 / (inputs.std(axis=0) + np.float32(1e-3))
    inputs = (inputs - mean) * scale

    def start(rows: int, columns: int) -> Array:
        return rng.standard_normal((rows, columns), np.float32) * np.float32((2 / columns) ** 0.5)

    weights = {
        "hidden": start(HIDDEN, inputs.shape[1]),
        "hidden_bias": np.zeros(HIDDEN, np.float32),
        "output": start(CLASSES, HIDDEN),
        "output_bias": np.zeros(CLASSES, np.float32),
    }
    first = {name: np.zeros_like(array) for name, array in weights.items()}
    second = {name: np.zeros_like(array) for name, array in weights.items()}
    batches = len(inputs) // BATCH
    order = np.arange(len(inputs))
    for step in range(1, epochs * batches + 1):
        if step % batches == 1 % batches:
            order = rng.permutation(len(inputs))
        at = (step - 1) % batches * BATCH
        chosen = order[at : at + BATCH]
        keep = (rng.random((len(chosen), inputs.shape[1]), np.float32) < 0.8) * np.float32(1.25)
        slopes = _gradients(weights, inputs[chosen], labels[chosen], keep)
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / (epochs * batches)))
        for name, slope in slopes.items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope * slope
            move = first[name] / (1 - 0.9**step)
            move /= np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            weights[name] -= (rate * (move + DECAY * weights[name])).astype(np.float32)
    return {"mean": mean, "scale": scale, **weights}


def accuracy(inputs: Array, labels: Labels) -> tuple[float, float, Labels]:
    """Measure the weights on disk: shares right first and among the first five, and the guesses."""
    network = network_module().Network.load(WEIGHTS)
    ranked = np.argsort(-network.classify(inputs), axis=1, kind="stable")
    right = ranked[:, :5] == labels[:, None]
    return float(right[:, 0].mean()), float(right.any(axis=1).mean()), ranked[:, 0]


def _report() -> None:
    inputs, labels = dataset(UNSEEN_SEEDS, MEASURED_PER_CLASS)
    top_1, top_5, guesses = accuracy(inputs, labels)
    out = sys.stdout
    out.write(f"{len(labels)} new pictures: top-1 {top_1:.1%}, top-5 {top_5:.1%}\n")
    names = [member.name for member in species()]
    shares = [float((guesses[labels == index] == index).mean()) for index in range(CLASSES)]
    out.write("hardest:\n")
    for index in sorted(range(CLASSES), key=shares.__getitem__)[:5]:
        others = guesses[(labels == index) & (guesses != index)]
        taken_for = sorted({names[other] for other in others})
        out.write(f"  {names[index]} {shares[index]:.0%}, taken for {', '.join(taken_for)}\n")


def main() -> int:
    """Train, write and measure; with `--check` only measure."""
    parser = argparse.ArgumentParser(prog="python -m tools.flower.train", description=__doc__)
    parser.add_argument("--check", action="store_true", help="measure the weights that are there")
    if not parser.parse_args().check:
        # BLAS rounds differently with each number of threads, so the same weights take the same
        # number; it is read when numpy is first imported, therefore in a process of its own.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        with _processes(1) as pool:
            weights = pool.submit(fit, *dataset(0, TRAINING_PER_CLASS)).result()
        np.savez(WEIGHTS, **{name: array.astype(np.float16) for name, array in weights.items()})
        LABELS.write_text("".join(f"{member.name}\n" for member in species()), encoding="utf-8")
    _report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
