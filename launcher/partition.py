"""
The seam to what makes slices of GPUs: MIG (real or on paper), or shares of a whole GPU by MPS.

A partitioner plans in stages, carries stages out, and undoes all of it; the servers are not its
business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from launcher.config import LauncherConfig
from launcher.mig import GpuEvent
from launcher.plan import Plan
from launcher.shares import SharePlan
from launcher.stages import Stage
from launcher.state import State, StateStore


@dataclass(frozen=True, slots=True)
class Device:
    """
    What a server is bound to.

    Attributes:
        mig_uuid: Of the MIG device; empty when it is not on one.
        environment: Variables of the server.
    """

    mig_uuid: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Division:
    """
    A plan for all GPUs of a host.

    Attributes:
        plan: For people and `--json`.
        stages: In their order.
        into: What it is cut into, in words.
    """

    plan: Plan | SharePlan
    stages: tuple[Stage, ...]
    into: str


@dataclass(frozen=True, slots=True)
class Affected:
    """
    What an event of a GPU is about.

    Attributes:
        gpu_index: NVML's number of the GPU.
        slices: Those on it, or on the part of it that the event names.
        surely: The error was in just these slices, so that what ran there is known to be dead.
    """

    gpu_index: int
    slices: tuple[str, ...]
    surely: bool


class Partitioner(Protocol):
    """Makes slices of the GPUs of one host."""

    def divide(
        self, config: LauncherConfig, state: State | None, force: bool, enable_mig: bool
    ) -> Division:
        """Plan what the configuration wants; changes nothing. Raises PlanError, GpuError."""

    def prepare(self, begin: Callable[[], StateStore], enable_mig: bool) -> None:
        """
        Make ready what planning itself needs, if anything.

        Args:
            begin: Called before anything is changed; returns where that is written down.
            enable_mig: MIG mode may be switched on.

        Raises:
            GpuError: Refused.
        """

    def cut(self, work: Sequence[object], store: StateStore) -> dict[str, Device]:
        """Carry a stage's work out. Raises GpuError: refused, and undone as far as it could be."""

    def missing(self, state: State) -> tuple[str, ...]:
        """
        Return the slices whose device is gone although nobody here removed it: somebody ran
        nvidia-smi, the GPU was reset, the MPS daemon died. May be called in a thread.

        Raises:
            GpuError: The driver does not answer.
        """

    def wait_event(self, timeout_s: float) -> GpuEvent | None:
        """
        Return what one of the GPUs tells next, None when there is nothing in time. For one thread.

        Raises:
            MigError: The driver has no events, or a GPU is lost.
        """

    def affected(self, event: GpuEvent, state: State) -> Affected:
        """Return what an event is about."""

    def uncut(self, store: StateStore) -> None:
        """Remove what the state file claims, and restore what was found. Raises GpuError."""

    def close(self) -> None:
        """Let go of the driver."""
