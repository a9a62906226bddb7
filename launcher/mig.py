"""
MIG as NVML describes it: the records, the errors, and the one seam to a GPU.

NVIDIA's words are kept. A *profile* is a size; its *index* (0, 1, 2, …) asks NVML for it, its *id*
(19, 14, 9, …) creates it, and an *instance id* names what was created: three different numbers.
A *GPU instance* (GI) owns memory and compute slices; a *compute instance* (CI) inside it is what a
program runs on; a *MIG device* is one CI with its UUID. A *placement* is `start:size` in memory
slices of the GPU (of which an A100 has 8, with 7 compute slices).
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

ATTRIBUTES: Final = {
    7: "+me", 8: "+me", 10: "+gfx", 11: "+gfx", 12: "+gfx", 17: "+gfx",
    13: "-me", 14: "-me", 15: "+me.all", 16: "+me.all",
}  # fmt: skip
"""What a profile index adds to the base size: NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1 is +me, …"""
DOUBLE_MEMORY_INDEX: Final = 9
"""GPU instance profile 1_SLICE_REV2: a 1g with the memory of a 2g."""


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """A run of memory slices: the first, and how many."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The memory slice after the last."""
        return self.start + self.size

    def overlaps(self, other: "Placement") -> bool:
        """Whether the two share a memory slice."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.size}"


@dataclass(frozen=True, slots=True)
class Engines:
    """Fixed-function engines of a GPU instance, as `nvidia-smi mig -lgip` counts them."""

    copy: int = 0
    decoder: int = 0
    encoder: int = 0
    jpeg: int = 0
    ofa: int = 0


@dataclass(frozen=True, slots=True)
class GpuInstanceProfile:
    """
    A size of GPU instance on one board.

    Attributes:
        index: Argument of NVML's GetGpuInstanceProfileInfo; equal for the same kind everywhere.
        id: Argument of create; differs from board to board (a 1g is 19 on A100 and 14 on A30).
        name: `1g.5gb`, `1g.5gb+me`: differs by board, driver and ECC.
        compute_slices: What the share of the work is measured in.
        instances_max: How many the empty GPU holds.
        multiprocessors: SMs of one instance.
        memory_mib: Frame buffer of one instance.
    """

    index: int
    id: int
    name: str
    compute_slices: int
    instances_max: int
    multiprocessors: int
    memory_mib: int
    engines: Engines = Engines()

    @property
    def attribute(self) -> str:
        """`+me`, `+me.all`, `-me` or `+gfx`; empty for a base profile. Told by the index: drivers
        change names, never indexes."""
        return ATTRIBUTES.get(self.index, "")

    @property
    def is_base(self) -> bool:
        """Whether it is the plain profile of its size: no attribute, no doubled memory."""
        return not self.attribute and self.index != DOUBLE_MEMORY_INDEX


@dataclass(frozen=True, slots=True)
class ComputeInstanceProfile:
    """A size of compute instance inside one GPU instance; `id` equals `index` here (NVML)."""

    index: int
    id: int
    name: str
    compute_slices: int
    instances_max: int


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """A GPU instance that exists. Its id is opaque: some boards number the halves swapped."""

    id: int
    profile_id: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class ComputeInstance:
    """A compute instance that exists; its placement counts compute slices within the GI."""

    gpu_instance_id: int
    id: int
    profile_id: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class MigDevice:
    """
    One compute instance as programs see it. Indexes shift, UUIDs do not: use the UUID.

    Attributes:
        memory_mib: Of the GPU instance, as made: by slot a little more or less than the profile's.
        multiprocessors: SMs of the compute instance.
    """

    uuid: str
    name: str
    gpu_instance_id: int
    compute_instance_id: int
    memory_mib: int = 0
    multiprocessors: int = 0


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """
    A process on a GPU, as far as the driver tells.

    Attributes:
        gpu_instance_id, compute_instance_id: Where it runs; None: on the whole GPU.
        memory_mib: What it uses; None where the driver does not say.
    """

    pid: int
    gpu_instance_id: int | None
    compute_instance_id: int | None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """
    What a GPU told on its own.

    Attributes:
        gpu_uuid: Which GPU.
        xid: NVIDIA's number of an error; None: its MIG instances or its mode have changed.
        gpu_instance_id, compute_instance_id: Where the error was; None: on the whole GPU, or the
            driver cannot tell.
    """

    gpu_uuid: str
    xid: int | None = None
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Frame buffer of a GPU or a MIG device."""

    total_mib: int
    used_mib: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """
    One physical GPU, or one on paper.

    Attributes:
        name: NVML's product name, with `(simulated)` where it exists on paper only.
        uuid: `GPU-…`.
        compute_slices: 7 on A100 and Hopper, 4 on A30, 0 on a board without MIG.
        memory_slices: The grid that placements count in: 8 on A100 and Hopper, 4 on A30.
        simulated: On paper; shown wherever the GPU is shown.
        index: NVML's number of it on this host.
        pci_id: Device and vendor, `0x20B010DE` on an A100-40GB; 0 where it is not known.
        mode_needs_reset: MIG mode changes by a GPU reset (Ampere); later boards switch at once.
        has_mig: Whether it has a MIG mode at all; without one it has no profiles either.
    """

    name: str
    uuid: str
    compute_slices: int
    memory_slices: int
    simulated: bool
    index: int = 0
    pci_id: int = 0
    mode_needs_reset: bool = False
    has_mig: bool = True


class MigCode(enum.IntEnum):
    """NVML's return codes (nvmlReturn_t)."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    ALREADY_INITIALIZED = 5
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    INSUFFICIENT_POWER = 8
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    IRQ_ISSUE = 11
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    CORRUPTED_INFOROM = 14
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    IN_USE = 19
    MEMORY = 20
    NO_DATA = 21
    VGPU_ECC_NOT_SUPPORTED = 22
    INSUFFICIENT_RESOURCES = 23
    FREQ_NOT_SUPPORTED = 24
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26
    NOT_READY = 27
    GPU_NOT_FOUND = 28
    INVALID_STATE = 29
    RESET_TYPE_NOT_SUPPORTED = 30
    UNKNOWN = 999


SPECIAL_WORDS: Final = {
    MigCode.NO_PERMISSION: "Insufficient Permissions",
    MigCode.INSUFFICIENT_POWER: "Insufficient External Power",
    MigCode.IRQ_ISSUE: "Interrupt Request Issue",
    MigCode.LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    MigCode.CORRUPTED_INFOROM: "Corrupted infoROM",
    MigCode.GPU_IS_LOST: "GPU is lost",
    MigCode.RESET_REQUIRED: "GPU requires reset",
    MigCode.OPERATING_SYSTEM: "The operating system has blocked the request",
    MigCode.LIB_RM_VERSION_MISMATCH: "Driver/library version mismatch",
    MigCode.IN_USE: "In use by another client",
    MigCode.MEMORY: "Insufficient Memory",
    MigCode.VGPU_ECC_NOT_SUPPORTED: "vGPU not supported with ECC",
    MigCode.UNKNOWN: "Unknown Error",
}


def words(code: MigCode) -> str:
    """Return a code as nvidia-smi says it."""
    return SPECIAL_WORDS.get(code, code.name.replace("_", " ").title())


class MigError(Exception):
    """
    A call that the GPU refused.

    Attributes:
        operation: What was tried, in words: `create GPU instance 1g.5gb at 0:1`.
        code: NVML's reason; launcher/cures.py says what to do about it.
        detail: What is known beyond the code, such as who holds the device.
    """

    def __init__(self, operation: str, code: MigCode, detail: str = "") -> None:
        super().__init__(operation, code, detail)
        self.operation = operation
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.operation}: {words(self.code)}{detail}"


class MigDriver(Protocol):
    """
    One GPU. Every call may raise MigError; every call asks the GPU, nothing is remembered.

    Source: NVML's MIG functions, one to one, with Python records for its structures.
    """

    @property
    def index(self) -> int:
        """NVML's number of the GPU on this host, as last seen."""

    def gpu(self) -> Gpu:
        """Return what the GPU is."""

    def mig_mode(self) -> tuple[bool, bool]:
        """Return (current, pending); they differ while a reset is awaited (Ampere)."""

    def set_mig_mode(self, enabled: bool) -> None:
        """
        Switch MIG mode.

        Raises:
            MigError: IN_USE or RESET_REQUIRED (it is pending now), NO_PERMISSION, NOT_SUPPORTED.
        """

    def profiles(self) -> tuple[GpuInstanceProfile, ...]:
        """Return the GPU instance profiles by ascending index; empty without MIG."""

    def possible_placements(self, profile_id: int) -> tuple[Placement, ...]:
        """Return where the profile fits on the empty GPU."""

    def remaining_capacity(self, profile_id: int) -> int:
        """Return how many more of this profile fit beside what exists."""

    def create_gpu_instance(
        self, profile_id: int, placement: Placement | None = None
    ) -> GpuInstance:
        """
        Create a GPU instance; without a placement the driver picks one.

        Raises:
            MigError: INSUFFICIENT_RESOURCES (no room), INVALID_ARGUMENT (no such profile or
                placement), IN_USE (a client holds the whole GPU), NOT_SUPPORTED (mode off),
                NO_PERMISSION.
        """

    def gpu_instances(self) -> tuple[GpuInstance, ...]:
        """Return all GPU instances, with and without compute instances, by ascending id."""

    def destroy_gpu_instance(self, gpu_instance_id: int) -> None:
        """Destroy it. Raises MigError: IN_USE while it has a compute instance, NOT_FOUND."""

    def compute_profiles(self, gpu_instance_id: int) -> tuple[ComputeInstanceProfile, ...]:
        """Return the compute instance profiles of one GPU instance."""

    def create_compute_instance(self, gpu_instance_id: int, profile_id: int) -> ComputeInstance:
        """Create one. Raises MigError: INSUFFICIENT_RESOURCES, NOT_SUPPORTED, NOT_FOUND."""

    def compute_instances(self, gpu_instance_id: int) -> tuple[ComputeInstance, ...]:
        """Return those of one GPU instance by ascending id."""

    def destroy_compute_instance(self, gpu_instance_id: int, compute_instance_id: int) -> None:
        """Destroy it. Raises MigError: IN_USE while a process is on it, NOT_FOUND."""

    def mig_devices(self) -> tuple[MigDevice, ...]:
        """Return one entry for each compute instance, by GPU instance id, then CI id."""

    def processes(self) -> tuple[GpuProcess, ...]:
        """Return who runs on this GPU, as far as the driver can see them; never refused."""

    def memory(self, mig_uuid: str = "") -> Memory | None:
        """Return the memory of a MIG device, or of the GPU; None where it cannot be told."""

    def publish(self) -> None:
        """Make what was cut visible to programs: device nodes. Called once after each cut."""


class Nvml(Protocol):
    """The GPUs of one host. Two implementations: launcher/nvml.py, launcher/simulated.py."""

    def gpus(self) -> Sequence[MigDriver]:
        """Return one driver for each GPU that answers, by index. Raises MigError."""

    @property
    def unusable(self) -> Mapping[int, MigError]:
        """Why the others did not answer, by index, as `gpus` has found."""

    def wait_event(self, gpu_uuids: Collection[str], timeout_s: float) -> GpuEvent | None:
        """
        Return what one of these GPUs tells next, None when there is nothing in time. For one thread,
        the others may go on; nothing is told of what was before the first call.

        Raises:
            MigError: The driver has no events, or a GPU is lost.
        """

    def undisturbed(self) -> AbstractContextManager[None]:
        """Wait for no events within the block: for cuts, in whose way that might stand."""

    def steady(self) -> AbstractContextManager[object]:
        """Have nobody cut within the block: for a thread that asks beside the one that may."""

    def close(self) -> None:
        """Let go of the library."""
