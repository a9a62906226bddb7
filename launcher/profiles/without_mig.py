"""Boards that cannot be cut: what NVML then says must be told well, too."""

from typing import Final

from launcher.profiles.board import Board


def _whole(key: str, product: str, pci_id: int) -> Board:
    return Board(
        key=key,
        product=product,
        pci_id=pci_id,
        compute_slices=0,
        memory_slices=0,
        mode_needs_reset=False,
        picks_lowest=False,
        profiles=(),
    )


T4: Final = _whole("t4-16gb", "Tesla T4", 0x1EB810DE)
L4: Final = _whole("l4-24gb", "NVIDIA L4", 0x27B810DE)
A10: Final = _whole("a10-24gb", "NVIDIA A10", 0x223610DE)
