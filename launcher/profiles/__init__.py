"""
Boards on paper: for the simulator, and for tests that compare them with NVML on hardware.

On a real GPU nothing here is asked: NVML decides.
"""

from launcher.profiles.ampere import A30_24GB, A100_40GB, A100_80GB
from launcher.profiles.board import Board, BoardProfile, compute_profiles
from launcher.profiles.hopper import H100_80GB, H100_94GB, H200_141GB

BOARDS = {
    board.key: board for board in (A100_40GB, A100_80GB, A30_24GB, H100_80GB, H100_94GB, H200_141GB)
}

__all__ = ["BOARDS", "Board", "BoardProfile", "compute_profiles"]
