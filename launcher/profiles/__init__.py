"""
Boards on paper: for the simulator, and for tests that compare them with NVML on hardware.

On a real GPU nothing here is asked: NVML decides.
"""

from launcher.profiles.ampere import A30_24GB, A100_40GB, A100_80GB
from launcher.profiles.blackwell import B200, B300, GB200, GB300, RTX_PRO_6000
from launcher.profiles.board import Board, BoardProfile, compute_profiles
from launcher.profiles.hopper import GH200_144GB, H100_80GB, H100_94GB, H100_96GB, H200_141GB
from launcher.profiles.without_mig import A10, L4, T4

BOARDS = {
    board.key: board
    for board in (
        A100_40GB, A100_80GB, A30_24GB,
        H100_80GB, H100_94GB, H100_96GB, GH200_144GB, H200_141GB,
        B200, GB200, B300, GB300, RTX_PRO_6000,
        T4, L4, A10,
    )
}  # fmt: skip

__all__ = ["BOARDS", "Board", "BoardProfile", "compute_profiles"]
