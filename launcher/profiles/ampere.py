"""
Ampere boards.

Numbers: published `nvidia-smi mig -lgip` and `-lgipp` listings and NVIDIA's MIG User Guide. Memory
differs a little by driver and ECC (an A100-40GB's 7g was seen with 39.25 to 39.50 GiB).
"""

from typing import Final

from launcher.mig import Engines
from launcher.profiles.board import FOUR_SLICES, SEVEN_SLICES, Board, row

A100_40GB: Final = Board(
    key="a100-40gb",
    product="NVIDIA A100-SXM4-40GB",
    pci_id=0x20B010DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=True,
    picks_lowest=False,
    profiles=(
        row(SEVEN_SLICES["1g"], "1g.5gb", 14, 4864, Engines(copy=1)),
        row(SEVEN_SLICES["2g"], "2g.10gb", 28, 9856, Engines(copy=2, decoder=1)),
        row(SEVEN_SLICES["3g"], "3g.20gb", 42, 19968, Engines(copy=3, decoder=2)),
        row(SEVEN_SLICES["4g"], "4g.20gb", 56, 19968, Engines(copy=4, decoder=2)),
        row(SEVEN_SLICES["7g"], "7g.40gb", 98, 40192, Engines(7, 5, 0, 1, 1)),
        row(SEVEN_SLICES["1g+me"], "1g.5gb+me", 14, 4864, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], "1g.10gb", 14, 9856, Engines(copy=1, decoder=1)),
    ),
)

A100_80GB: Final = Board(
    key="a100-80gb",
    product="NVIDIA A100-SXM4-80GB",
    pci_id=0x20B210DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=True,
    picks_lowest=False,
    profiles=(
        row(SEVEN_SLICES["1g"], "1g.10gb", 14, 9728, Engines(copy=1)),
        row(SEVEN_SLICES["2g"], "2g.20gb", 28, 19968, Engines(copy=2, decoder=1)),
        row(SEVEN_SLICES["3g"], "3g.40gb", 42, 40192, Engines(copy=3, decoder=2)),
        row(SEVEN_SLICES["4g"], "4g.40gb", 56, 40192, Engines(copy=4, decoder=2)),
        row(SEVEN_SLICES["7g"], "7g.80gb", 98, 80384, Engines(7, 5, 0, 1, 1)),
        row(SEVEN_SLICES["1g+me"], "1g.10gb+me", 14, 9728, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], "1g.20gb", 14, 19968, Engines(copy=1, decoder=1)),
    ),
)

A30_24GB: Final = Board(
    key="a30-24gb",
    product="NVIDIA A30",
    pci_id=0x20B710DE,
    compute_slices=4,
    memory_slices=4,
    mode_needs_reset=True,
    picks_lowest=True,
    profiles=(
        row(FOUR_SLICES["1g"], "1g.6gb", 14, 5952, Engines(copy=1)),
        row(FOUR_SLICES["2g"], "2g.12gb", 28, 11968, Engines(copy=2, decoder=2)),
        row(FOUR_SLICES["4g"], "4g.24gb", 56, 24000, Engines(4, 4, 0, 1, 1)),
        row(FOUR_SLICES["1g+me"], "1g.6gb+me", 14, 5952, Engines(1, 1, 0, 1, 1)),
        row(FOUR_SLICES["2g+me"], "2g.12gb+me", 28, 11968, Engines(2, 2, 0, 1, 1)),
    ),
)
