"""
Hopper boards.

Numbers: published `nvidia-smi mig -lgip` listings (H100), and NVML on an H200 with driver 580. The
three share their geometry, multiprocessors and engines; only the memory differs.
"""

from typing import Final

from launcher.mig import Engines
from launcher.profiles.board import SEVEN_SLICES, Board, row

H100_80GB: Final = Board(
    key="h100-80gb",
    product="NVIDIA H100 80GB HBM3",
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=(
        row(SEVEN_SLICES["1g"], "1g.10gb", 16, 9984, Engines(1, 1, 0, 1, 0)),
        row(SEVEN_SLICES["2g"], "2g.20gb", 32, 20096, Engines(2, 2, 0, 2, 0)),
        row(SEVEN_SLICES["3g"], "3g.40gb", 60, 40448, Engines(3, 3, 0, 3, 0)),
        row(SEVEN_SLICES["4g"], "4g.40gb", 64, 40448, Engines(4, 4, 0, 4, 0)),
        row(SEVEN_SLICES["7g"], "7g.80gb", 132, 81152, Engines(8, 7, 0, 7, 1)),
        row(SEVEN_SLICES["1g+me"], "1g.10gb+me", 16, 9984, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], "1g.20gb", 26, 20096, Engines(1, 1, 0, 1, 0)),
    ),
)

H100_94GB: Final = Board(
    key="h100-94gb",
    product="NVIDIA H100 NVL",
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=(
        row(SEVEN_SLICES["1g"], "1g.12gb", 16, 11008, Engines(1, 1, 0, 1, 0)),
        row(SEVEN_SLICES["2g"], "2g.24gb", 32, 22144, Engines(2, 2, 0, 2, 0)),
        row(SEVEN_SLICES["3g"], "3g.47gb", 60, 47488, Engines(3, 3, 0, 3, 0)),
        row(SEVEN_SLICES["4g"], "4g.47gb", 64, 47488, Engines(4, 4, 0, 4, 0)),
        row(SEVEN_SLICES["7g"], "7g.94gb", 132, 95360, Engines(8, 7, 0, 7, 1)),
        row(SEVEN_SLICES["1g+me"], "1g.12gb+me", 16, 11008, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], "1g.24gb", 26, 22144, Engines(1, 1, 0, 1, 0)),
    ),
)

H200_141GB: Final = Board(
    key="h200-141gb",
    product="NVIDIA H200",
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=(
        row(SEVEN_SLICES["1g"], "1g.18gb", 16, 16384, Engines(1, 1, 0, 1, 0)),
        row(SEVEN_SLICES["2g"], "2g.35gb", 32, 33280, Engines(2, 2, 0, 2, 0)),
        row(SEVEN_SLICES["3g"], "3g.71gb", 60, 71424, Engines(3, 3, 0, 3, 0)),
        row(SEVEN_SLICES["4g"], "4g.71gb", 64, 71424, Engines(4, 4, 0, 4, 0)),
        row(SEVEN_SLICES["7g"], "7g.141gb", 132, 143360, Engines(8, 7, 0, 7, 1)),
        row(SEVEN_SLICES["1g+me"], "1g.18gb+me", 16, 16384, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], "1g.35gb", 26, 33280, Engines(1, 1, 0, 1, 0)),
    ),
)
