"""
Blackwell boards.

Numbers: published `nvidia-smi mig -lgip` listings for the RTX PRO 6000, and for 1g and 2g of B200
and GB200. Of the others NVIDIA publishes the names alone, in mig-parted's default configurations:
their multiprocessors and memory here are in proportion, and the geometry is taken to be A100's.
"""

from typing import Final

from launcher.mig import Engines
from launcher.profiles.board import SEVEN_SLICES, TWELVE_GRID, Board, BoardProfile, row


def rows(
    gigabytes: tuple[int, ...], mib: tuple[int, ...], multiprocessors: tuple[int, ...]
) -> tuple[BoardProfile, ...]:
    """
    Return the seven rows of a data-centre Blackwell.

    Args:
        gigabytes: As the names say, of 1g, 2g (and double 1g), 3g and 4g, 7g.
        mib: Frame buffer of the same.
        multiprocessors: Of 1g, double 1g, 2g, 3g, 4g, 7g.
    """
    (one, two, half, whole), (one_mib, two_mib, half_mib, whole_mib) = gigabytes, mib
    sm = multiprocessors
    return (
        row(SEVEN_SLICES["1g"], f"1g.{one}gb", sm[0], one_mib, Engines(2, 1, 0, 1, 0)),
        row(SEVEN_SLICES["2g"], f"2g.{two}gb", sm[2], two_mib, Engines(4, 2, 0, 2, 0)),
        row(SEVEN_SLICES["3g"], f"3g.{half}gb", sm[3], half_mib, Engines(6, 3, 0, 3, 0)),
        row(SEVEN_SLICES["4g"], f"4g.{half}gb", sm[4], half_mib, Engines(8, 4, 0, 4, 0)),
        row(SEVEN_SLICES["7g"], f"7g.{whole}gb", sm[5], whole_mib, Engines(16, 7, 0, 7, 1)),
        row(SEVEN_SLICES["1g+me"], f"1g.{one}gb+me", sm[0], one_mib, Engines(2, 1, 0, 1, 1)),
        row(SEVEN_SLICES["1g double"], f"1g.{two}gb", sm[1], two_mib, Engines(2, 1, 0, 1, 0)),
    )


def _board(
    key: str, product: str, pci_id: int, profiles: tuple[BoardProfile, ...], grid: int = 8
) -> Board:
    return Board(
        key=key,
        product=product,
        pci_id=pci_id,
        compute_slices=max(entry.profile.compute_slices for entry in profiles),
        memory_slices=grid,
        mode_needs_reset=False,
        picks_lowest=grid != 8,
        profiles=profiles,
    )


B200: Final = _board(
    "b200-180gb", "NVIDIA B200", 0x290110DE,
    rows((23, 45, 90, 180), (22528, 45312, 90880, 182272), (18, 30, 36, 70, 74, 148)),
)  # fmt: skip
GB200: Final = _board(
    "gb200-186gb", "NVIDIA GB200", 0x294110DE,
    rows((23, 47, 93, 186), (22528, 46592, 93440, 188416), (18, 32, 38, 72, 76, 152)),
)  # fmt: skip
B300: Final = _board(
    "b300-269gb", "NVIDIA B300", 0x318210DE,
    rows((34, 67, 135, 269), (33792, 67584, 135936, 274432), (18, 30, 36, 70, 74, 148)),
)  # fmt: skip
GB300: Final = _board(
    "gb300-278gb", "NVIDIA GB300", 0x31C210DE,
    rows((35, 70, 139, 278), (34816, 70144, 140800, 283648), (18, 32, 38, 72, 76, 152)),
)  # fmt: skip
RTX_PRO_6000: Final = _board(
    "rtx-pro-6000-96gb", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 0x2BB510DE,
    (
        row(TWELVE_GRID["1g"], "1g.24gb", 46, 24192, Engines(1, 1, 1, 1, 0)),
        row(TWELVE_GRID["2g"], "2g.48gb", 94, 48512, Engines(2, 2, 2, 2, 0)),
        row(TWELVE_GRID["4g"], "4g.96gb", 188, 97280, Engines(4, 4, 4, 4, 1)),
        row(TWELVE_GRID["1g+me"], "1g.24gb+me", 46, 24192, Engines(1, 1, 1, 1, 1)),
        row(TWELVE_GRID["1g+gfx"], "1g.24gb+gfx", 46, 24192, Engines(1, 1, 1, 1, 0)),
        row(TWELVE_GRID["2g+gfx"], "2g.48gb+gfx", 94, 48512, Engines(2, 2, 2, 2, 0)),
        row(TWELVE_GRID["4g+gfx"], "4g.96gb+gfx", 188, 97280, Engines(4, 4, 4, 4, 1)),
        row(TWELVE_GRID["1g-me"], "1g.24gb-me", 46, 24192, Engines(copy=1)),
        row(TWELVE_GRID["2g-me"], "2g.48gb-me", 94, 48512, Engines(copy=2)),
        row(TWELVE_GRID["1g+me.all"], "1g.24gb+me.all", 46, 24192, Engines(1, 4, 4, 4, 1)),
        row(TWELVE_GRID["2g+me.all"], "2g.48gb+me.all", 94, 48512, Engines(2, 4, 4, 4, 1)),
    ),
    grid=12,
)  # fmt: skip
