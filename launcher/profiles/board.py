"""What a board can be cut into: profiles, placements, and the compute instances inside."""

from dataclasses import dataclass
from typing import Final

from launcher.mig import (
    DOUBLE_MEMORY_INDEX,
    ComputeInstanceProfile,
    Engines,
    GpuInstanceProfile,
    Placement,
)


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """A GPU instance profile and where it fits on the empty board."""

    profile: GpuInstanceProfile
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """
    One GPU model.

    Attributes:
        key: How `--gpu simulated:KEY` names it.
        product: NVML's product name.
        compute_slices: 7, or 4 on A30 and RTX PRO; 0 without MIG.
        memory_slices: The grid of placements: 8, 4 on A30, 12 on RTX PRO.
        mode_needs_reset: MIG mode changes by a GPU reset and survives a reboot (Ampere); later
            boards switch at once and forget at reboot.
        picks_lowest: The driver takes the lowest free start (A30) instead of the one that spoils
            least.
        profiles: By ascending index; none on a board without MIG.
        pci_id: Device and vendor, as NVIDIA's mig-parted filters by; 0 where unknown.
    """

    key: str
    product: str
    compute_slices: int
    memory_slices: int
    mode_needs_reset: bool
    picks_lowest: bool
    profiles: tuple[BoardProfile, ...]
    pci_id: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where one kind of profile fits, and NVML's numbers for it."""

    index: int
    id: int
    compute_slices: int
    instances_max: int
    size: int
    starts: tuple[int, ...]


# Placements of the seven-slice boards as `nvidia-smi mig -lgipp` lists them on A100, H100 and H200.
# A 2g does not exist at 6:2: that would be an eighth compute slice.
SEVEN_SLICES: Final = {
    "1g": Geometry(0, 19, 1, 7, 1, (0, 1, 2, 3, 4, 5, 6)),
    "2g": Geometry(1, 14, 2, 3, 2, (0, 2, 4)),
    "3g": Geometry(2, 9, 3, 2, 4, (0, 4)),
    "4g": Geometry(3, 5, 4, 1, 4, (0,)),
    "7g": Geometry(4, 0, 7, 1, 8, (0,)),
    "1g+me": Geometry(7, 20, 1, 1, 1, (0, 1, 2, 3, 4, 5, 6)),
    "1g double": Geometry(9, 15, 1, 4, 2, (0, 2, 4, 6)),
}
# A30. The indexes of RTX PRO's profiles are those that nvml.h gives each kind.
FOUR_SLICES: Final = {
    "1g": Geometry(0, 14, 1, 4, 1, (0, 1, 2, 3)),
    "2g": Geometry(1, 5, 2, 2, 2, (0, 2)),
    "4g": Geometry(3, 0, 4, 1, 4, (0,)),
    "1g+me": Geometry(7, 21, 1, 1, 1, (0, 1, 2, 3)),
    "2g+me": Geometry(8, 6, 2, 1, 2, (0, 2)),
}
TWELVE_GRID: Final = {
    "1g": Geometry(0, 14, 1, 4, 3, (0, 3, 6, 9)),
    "2g": Geometry(1, 5, 2, 2, 6, (0, 6)),
    "4g": Geometry(3, 0, 4, 1, 12, (0,)),
    "1g+me": Geometry(7, 21, 1, 1, 3, (0, 3, 6, 9)),
    "1g+gfx": Geometry(10, 47, 1, 4, 3, (0, 3, 6, 9)),
    "2g+gfx": Geometry(11, 35, 2, 2, 6, (0, 6)),
    "4g+gfx": Geometry(12, 32, 4, 1, 12, (0,)),
    "1g-me": Geometry(13, 67, 1, 4, 3, (0, 3, 6, 9)),
    "2g-me": Geometry(14, 66, 2, 2, 6, (0, 6)),
    "1g+me.all": Geometry(15, 65, 1, 1, 3, (0, 3, 6, 9)),
    "2g+me.all": Geometry(16, 64, 2, 1, 6, (0, 6)),
}


def row(
    geometry: Geometry, name: str, multiprocessors: int, memory_mib: int, engines: Engines
) -> BoardProfile:
    """Join where a kind fits with a board's numbers for it."""
    profile = GpuInstanceProfile(
        index=geometry.index,
        id=geometry.id,
        name=name,
        compute_slices=geometry.compute_slices,
        instances_max=geometry.instances_max,
        multiprocessors=multiprocessors,
        memory_mib=memory_mib,
        engines=engines,
    )
    return BoardProfile(profile, tuple(Placement(at, geometry.size) for at in geometry.starts))


COMPUTE_INDEX_BY_SLICES: Final = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}
"""NVML_COMPUTE_INSTANCE_PROFILE_n_SLICE."""


def compute_profiles(profile: GpuInstanceProfile) -> tuple[ComputeInstanceProfile, ...]:
    """
    Return the compute instance profiles inside one GPU instance.

    C compute slices of a GPU instance of G exist when C = G, or C < G and 2C <= G + 1: so there is
    a 1c, 2c, 3c and 4c of 7g, but no 3c of 4g.
    """
    if profile.index == DOUBLE_MEMORY_INDEX:  # its only compute profile is 1_SLICE_REV1, not 0
        return (ComputeInstanceProfile(7, 7, profile.name, 1, 1),)
    whole = profile.compute_slices
    return tuple(
        ComputeInstanceProfile(
            index=index,
            id=index,
            name=profile.name if slices == whole else f"{slices}c.{profile.name}",
            compute_slices=slices,
            instances_max=whole // slices,
        )
        for slices, index in COMPUTE_INDEX_BY_SLICES.items()
        if slices == whole or (slices < whole and 2 * slices <= whole + 1)
    )
