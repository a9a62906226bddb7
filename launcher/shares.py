"""
Shares of whole GPUs by MPS: for GPUs without MIG, or without the right to cut them. Pure.

A share is an upper bound on a process's part of the GPU's multiprocessors, in percent
(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE), and on its memory (CUDA_MPS_PINNED_DEVICE_MEM_LIMIT): no wall as
MIG's, but neighbours run at once instead of by turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import PlanError
from launcher.plan import Addresses
from launcher.stages import Planned


@dataclass(frozen=True, slots=True)
class SharedGpu:
    """A GPU as far as sharing it out goes."""

    index: int
    uuid: str
    name: str
    memory_mib: int
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """
    One server's part of a GPU.

    Attributes:
        percentage: Of its multiprocessors.
        memory_mib: Of its memory; None: no limit.
    """

    gpu: SharedGpu
    percentage: float
    memory_mib: int | None
    server: Planned


@dataclass(frozen=True, slots=True)
class SharePlan:
    """All shares of a host; one MPS control daemon serves them."""

    shares: tuple[Share, ...]

    @property
    def simulated(self) -> bool:
        """Whether any GPU exists on paper only."""
        return any(share.gpu.simulated for share in self.shares)


def make(
    gpus: Sequence[SharedGpu],
    weights: Sequence[float],
    addresses: Addresses,
    limit_memory: bool,
) -> SharePlan:
    """
    Share out each GPU by the same weights.

    Args:
        gpus: At least one.
        weights: As `parse` gave them.
        addresses: Where servers listen.
        limit_memory: Give each its part of the memory, and no more.

    Raises:
        PlanError: No GPU, or ports above 65535.
    """
    if not gpus:
        raise PlanError("there is no NVIDIA GPU to share out here")
    if limit_memory and not all(gpu.memory_mib for gpu in gpus):
        raise PlanError("the driver does not tell how much memory there is to be shared out")
    total = sum(weights)
    made: list[Share] = []
    for gpu in gpus:
        for weight in weights:
            number = len(made)
            http, grpc, metrics = addresses.of(number)
            percentage = round(100 * weight / total, 2)
            memory_mib = int(gpu.memory_mib * weight / total) if limit_memory else None
            name = f"mps.{percentage:g}pct"
            server = Planned(f"s{number}", name, weight, http, grpc, metrics, gpu.simulated)
            made.append(Share(gpu, percentage, memory_mib, server))
    return SharePlan(tuple(made))
