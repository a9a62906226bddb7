"""
Hopper boards.

Numbers: published `nvidia-smi mig -lgip` listings (H100, GH200), and NVML on an H200 with driver
580. All share their geometry, multiprocessors and engines; only the memory differs. Of the 96 GB
boards and GH200-144 not every row is published; those left are taken from the others by share.
"""

from typing import Final

from launcher.mig import Engines
from launcher.profiles.board import SEVEN_SLICES, Board, BoardProfile, row


def rows(gigabytes: tuple[int, ...], mib: tuple[int, ...]) -> tuple[BoardProfile, ...]:
    """
    Return the seven rows of a Hopper board.

    Args:
        gigabytes: As the names say, of 1g, 2g (and double 1g), 3g and 4g, 7g.
        mib: Frame buffer of the same.
    """
    (one, two, half, whole), (one_mib, two_mib, half_mib, whole_mib) = gigabytes, mib
    return (
        row(SEVEN_SLICES["1g"], f"1g.{one}gb", 16, one_mib, Engines(1, 1, 0, 1, 0)),
        row(SEVEN_SLICES["2g"], f"2g.{two}gb", 32, two_mib, Engines(2, 2, 0, 2, 0)),
        row(SEVEN_SLICES["3g"], f"3g.{half}gb", 60, half_mib, Engines(3, 3, 0, 3, 0)),
        row(SEVEN_SLICES["4g"], f"4g.{half}gb", 64, half_mib, Engines(4, 4, 0, 4, 0)),
        row(SEVEN_SLICES["7g"], f"7g.{whole}gb", 132, whole_mib, Engines(8, 7, 0, 7, 1)),
        row(SEVEN_SLICES["1g+me"], f"1g.{one}gb+me", 16, one_mib, Engines(1, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], f"1g.{two}gb", 26, two_mib, Engines(1, 1, 0, 1, 0)),
    )


H100_80GB: Final = Board(
    key="h100-80gb",
    product="NVIDIA H100 80GB HBM3",
    pci_id=0x233010DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=rows((10, 20, 40, 80), (9984, 20096, 40448, 81152)),
)

H100_94GB: Final = Board(
    key="h100-94gb",
    product="NVIDIA H100 NVL",
    pci_id=0x232110DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=rows((12, 24, 47, 94), (11008, 22144, 47488, 95360)),
)

H100_96GB: Final = Board(
    key="h100-96gb",
    product="NVIDIA H100 96GB HBM3",
    pci_id=0x234210DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=rows((12, 24, 48, 96), (11776, 23552, 47616, 95232)),
)

GH200_144GB: Final = Board(
    key="gh200-144gb",
    product="NVIDIA GH200 144G HBM3e",
    pci_id=0x234810DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=rows((18, 36, 72, 144), (17920, 36096, 72448, 145408)),
)

H200_141GB: Final = Board(
    key="h200-141gb",
    product="NVIDIA H200",
    pci_id=0x233510DE,
    compute_slices=7,
    memory_slices=8,
    mode_needs_reset=False,
    picks_lowest=False,
    profiles=rows((18, 35, 71, 141), (16384, 33280, 71424, 143360)),
)
