"""
RealNvml: the host's GPUs through NVIDIA's library, by the package nvidia-ml-py. Thin: one call of
the library for one call here, in the order that nvml.h documents.

Handles of instances die with the instance and at a reset, and may be used again for another: none
is kept, each call begins from the GPU and asks by id.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

import pynvml
import structlog

from launcher.cures import OPEN
from launcher.mig import (
    ATTRIBUTES,
    ComputeInstance,
    ComputeInstanceProfile,
    Engines,
    Gpu,
    GpuInstance,
    GpuInstanceProfile,
    GpuProcess,
    Memory,
    MigCode,
    MigDevice,
    MigError,
    Placement,
)
from launcher.process_table import command_line

log = structlog.get_logger()

INDEXES_MAX: Final = 64
"""Profile indexes asked for at most; NVML says INVALID_ARGUMENT past its last (17 on R580)."""
NO_INSTANCE: Final = 0xFFFFFFFF
RESETLESS_FIELD: Final = 184
"""NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED: 1 where MIG mode changes without a reset."""
AMPERE: Final = 8
"""Compute capability 8.x changes MIG mode by a reset; 9.0 and later at once."""
NODES_TIMEOUT_S: Final = 30.0
MIB: Final = 1024 * 1024


class RealNvml:
    """Nvml through libnvidia-ml.so.1."""

    def __init__(self) -> None:
        """Raise MigError when there is no driver, or none that answers."""
        _ask(OPEN, pynvml.nvmlInit)

    def gpus(self) -> Sequence["RealGpu"]:
        """Return the GPUs by index."""
        count = _ask("count GPUs", pynvml.nvmlDeviceGetCount)
        return [RealGpu(index) for index in range(count)]

    def close(self) -> None:
        """Shut the library down; each nvmlInit needs one."""
        _ask("close the NVIDIA driver", pynvml.nvmlShutdown)


class RealGpu:
    """MigDriver of one GPU; see there."""

    def __init__(self, index: int) -> None:
        self._uuid = _uuid(_handle(index))
        self._index = index

    # --- what there is ----------------------------------------------------------------------
    def gpu(self) -> Gpu:
        """Return the GPU; its grid is what its own placements reach to."""
        device = self._device()
        profiles = self.profiles()
        ends = [at.end for entry in profiles for at in self.possible_placements(entry.id)]
        pci = _perhaps(pynvml.nvmlDeviceGetPciInfo, device)
        return Gpu(
            name=_text(_ask("ask the GPU's name", pynvml.nvmlDeviceGetName, device)),
            uuid=self._uuid,
            compute_slices=max((entry.compute_slices for entry in profiles), default=0),
            memory_slices=max(ends, default=0),
            simulated=False,
            index=self._index,
            pci_id=pci.pciDeviceId if pci else 0,
            mode_needs_reset=_needs_reset(device),
            has_mig=_perhaps(pynvml.nvmlDeviceGetMigMode, device) is not None,
        )

    def profiles(self) -> tuple[GpuInstanceProfile, ...]:
        """Return the profiles; none on a GPU without MIG, nor on drivers that need the mode on."""
        device = self._device()
        found = []
        for index in range(INDEXES_MAX):
            try:
                info = _ask(f"list profile {index}", _profile_info, device, index)
                places = self.possible_placements(info.id)
            except MigError as error:
                if error.code is MigCode.NOT_SUPPORTED:
                    continue
                if error.code is MigCode.INVALID_ARGUMENT:
                    break
                raise
            found.append(_profile(index, info, places, device))
        return tuple(found)

    def possible_placements(self, profile_id: int) -> tuple[Placement, ...]:
        """Return where the profile fits on the empty GPU."""
        device, operation = self._device(), f"list placements of profile {profile_id}"
        ask, count = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, ctypes.c_uint(0)
        _ask(operation, ask, device, profile_id, None, ctypes.byref(count))
        if count.value == 0:
            return ()
        places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        _ask(operation, ask, device, profile_id, places, ctypes.byref(count))
        return tuple(Placement(places[i].start, places[i].size) for i in range(count.value))

    def remaining_capacity(self, profile_id: int) -> int:
        """Return how many more of this profile fit."""
        ask = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity
        return int(_ask("ask remaining capacity", ask, self._device(), profile_id))

    # --- mode -------------------------------------------------------------------------------
    def mig_mode(self) -> tuple[bool, bool]:
        """Return (current, pending); both off on a GPU without MIG."""
        try:
            mode = _ask("ask MIG mode", pynvml.nvmlDeviceGetMigMode, self._device())
        except MigError as error:
            if error.code is MigCode.NOT_SUPPORTED:
                return False, False
            raise
        return bool(mode[0]), bool(mode[1])

    def set_mig_mode(self, enabled: bool) -> None:
        """Switch the mode; the call may succeed and its activation fail, which is an error too."""
        operation = f"{'enable' if enabled else 'disable'} MIG mode"
        wanted = pynvml.NVML_DEVICE_MIG_ENABLE if enabled else pynvml.NVML_DEVICE_MIG_DISABLE
        status = _ask(operation, pynvml.nvmlDeviceSetMigMode, self._device(), wanted)
        if status != pynvml.NVML_SUCCESS:
            raise MigError(operation, _code(status), self._users())
        # The switch may have reset the GPU, which changes handles and minor numbers.
        pynvml.nvmlShutdown()
        _ask(OPEN, pynvml.nvmlInit)
        if self.mig_mode()[0] is not enabled:
            raise MigError(operation, MigCode.RESET_REQUIRED, "the mode is pending")

    # --- GPU instances ----------------------------------------------------------------------
    def create_gpu_instance(
        self, profile_id: int, placement: Placement | None = None
    ) -> GpuInstance:
        """Create a GPU instance where asked, or where the driver likes."""
        where = f" at {placement}" if placement else ""
        operation = f"create GPU instance of profile {profile_id}{where}"
        device = self._device()
        if placement is None:
            made = self._try(operation, pynvml.nvmlDeviceCreateGpuInstance, device, profile_id)
        else:
            at = pynvml.c_nvmlGpuInstancePlacement_t(start=placement.start, size=placement.size)
            create = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement
            made = self._try(operation, create, device, profile_id, ctypes.byref(at))
        return _instance(_ask(operation, pynvml.nvmlGpuInstanceGetInfo, made))

    def gpu_instances(self) -> tuple[GpuInstance, ...]:
        """Return all GPU instances by ascending id; NVML lists them by profile."""
        if not self.mig_mode()[0]:
            return ()
        device, found = self._device(), []
        ask = pynvml.nvmlDeviceGetGpuInstances
        for profile in self.profiles():
            room = max(profile.instances_max, len(self.possible_placements(profile.id)))
            handles = (pynvml.c_nvmlGpuInstance_t * room)()
            count = ctypes.c_uint(room)
            operation = f"list instances of {profile.name}"
            try:
                _ask(operation, ask, device, profile.id, handles, ctypes.byref(count))
            except MigError as error:
                if error.code is MigCode.NOT_SUPPORTED:  # not in the GPU's present mode (+gfx)
                    continue
                raise
            found += [
                _instance(_ask(operation, pynvml.nvmlGpuInstanceGetInfo, handles[i]))
                for i in range(count.value)
            ]
        return tuple(sorted(found, key=lambda instance: instance.id))

    def destroy_gpu_instance(self, gpu_instance_id: int) -> None:
        """Destroy a GPU instance without compute instances."""
        operation = f"destroy GPU instance {gpu_instance_id}"
        self._try(operation, pynvml.nvmlGpuInstanceDestroy, self._instance(gpu_instance_id))

    # --- compute instances ------------------------------------------------------------------
    def compute_profiles(self, gpu_instance_id: int) -> tuple[ComputeInstanceProfile, ...]:
        """Return the compute instance profiles of one GPU instance."""
        instance, found = self._instance(gpu_instance_id), []
        for index in range(INDEXES_MAX):
            try:
                info = _ask(f"list compute profile {index}", _compute_info, instance, index)
            except MigError as error:
                if error.code is MigCode.NOT_SUPPORTED:
                    continue
                if error.code is MigCode.INVALID_ARGUMENT:
                    break
                raise
            name = _text(getattr(info, "name", "")).removeprefix("MIG ") or f"{info.sliceCount}c"
            found.append(
                ComputeInstanceProfile(index, info.id, name, info.sliceCount, info.instanceCount)
            )
        return tuple(found)

    def create_compute_instance(self, gpu_instance_id: int, profile_id: int) -> ComputeInstance:
        """Create a compute instance."""
        operation = f"create compute instance of profile {profile_id} in {gpu_instance_id}"
        instance = self._instance(gpu_instance_id)
        create = pynvml.nvmlGpuInstanceCreateComputeInstance
        made = self._try(operation, create, instance, profile_id)
        info = _ask(operation, pynvml.nvmlComputeInstanceGetInfo, made)
        return _compute(gpu_instance_id, info)

    def compute_instances(self, gpu_instance_id: int) -> tuple[ComputeInstance, ...]:
        """Return the compute instances of one GPU instance by ascending id."""
        instance, found = self._instance(gpu_instance_id), []
        ask = pynvml.nvmlGpuInstanceGetComputeInstances
        for profile in self.compute_profiles(gpu_instance_id):
            room = max(profile.instances_max, 1)
            handles = (pynvml.c_nvmlComputeInstance_t * room)()
            count = ctypes.c_uint(room)
            operation = f"list compute instances of {gpu_instance_id}"
            _ask(operation, ask, instance, profile.id, handles, ctypes.byref(count))
            found += [
                _compute(
                    gpu_instance_id,
                    _ask(operation, pynvml.nvmlComputeInstanceGetInfo, handles[i]),
                )
                for i in range(count.value)
            ]
        return tuple(sorted(found, key=lambda entry: entry.id))

    def destroy_compute_instance(self, gpu_instance_id: int, compute_instance_id: int) -> None:
        """Destroy a compute instance that nobody uses."""
        operation = f"destroy compute instance {compute_instance_id} of {gpu_instance_id}"
        instance = self._instance(gpu_instance_id)
        by_id = pynvml.nvmlGpuInstanceGetComputeInstanceById
        inside = _ask(operation, by_id, instance, compute_instance_id)
        self._try(operation, pynvml.nvmlComputeInstanceDestroy, inside)

    def mig_devices(self) -> tuple[MigDevice, ...]:
        """Return the MIG devices. Their indexes may have holes, and shift: they are not kept."""
        device, found = self._device(), []
        for index in range(
            _ask("count MIG devices", pynvml.nvmlDeviceGetMaxMigDeviceCount, device)
        ):
            try:
                member = _ask(
                    f"find MIG device {index}",
                    pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device, index,
                )  # fmt: skip
            except MigError as error:
                if error.code is MigCode.NOT_FOUND:
                    continue
                raise
            operation = f"ask about MIG device {index}"
            has = _ask(operation, pynvml.nvmlDeviceGetAttributes, member)
            found.append(
                MigDevice(
                    uuid=_text(_ask(operation, pynvml.nvmlDeviceGetUUID, member)),
                    name=_text(_perhaps(pynvml.nvmlDeviceGetName, member) or ""),
                    gpu_instance_id=_ask(operation, pynvml.nvmlDeviceGetGpuInstanceId, member),
                    compute_instance_id=_ask(
                        operation, pynvml.nvmlDeviceGetComputeInstanceId, member
                    ),
                    memory_mib=has.memorySizeMB,
                    multiprocessors=has.multiprocessorCount,
                )
            )
        return tuple(sorted(found, key=lambda at: (at.gpu_instance_id, at.compute_instance_id)))

    # --- who, how much, and device nodes ----------------------------------------------------
    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the compute processes; none where the driver does not tell."""
        device = self._device()
        running = _perhaps(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, device)
        if running is None:  # drivers before R510
            running = _perhaps(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, device) or []
        return tuple(
            GpuProcess(
                entry.pid,
                _number(getattr(entry, "gpuInstanceId", None)),
                _number(getattr(entry, "computeInstanceId", None)),
                entry.usedGpuMemory // MIB if entry.usedGpuMemory is not None else None,
            )
            for entry in running
        )

    def memory(self, mig_uuid: str = "") -> Memory | None:
        """Return the memory of the GPU, or of the MIG device with this UUID."""
        device: Any = self._device()
        if mig_uuid:
            device = _perhaps(pynvml.nvmlDeviceGetHandleByUUID, mig_uuid)
        info = _perhaps(pynvml.nvmlDeviceGetMemoryInfo, device) if device is not None else None
        return Memory(info.total // MIB, info.used // MIB) if info else None

    def publish(self) -> None:
        """Make the device nodes of new instances: any nvidia-smi does, as root."""
        program = shutil.which("nvidia-smi")
        if program is None:
            log.warning("device_nodes.not_made", reason="there is no nvidia-smi on PATH")
            return
        try:
            done = subprocess.run(  # noqa: S603 - found on PATH, fixed arguments
                [program, "-L"], capture_output=True, timeout=NODES_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("device_nodes.not_made", reason=str(error))
            return
        if done.returncode != 0:
            log.warning("device_nodes.not_made", reason=f"nvidia-smi -L: exit {done.returncode}")

    # --- inside -----------------------------------------------------------------------------
    def _device(self) -> Any:
        """Return the handle, by index; where a reset has moved the GPU, by its UUID."""
        device = _handle(self._index)
        if _uuid(device) == self._uuid:
            return device
        for index in range(_ask("count GPUs", pynvml.nvmlDeviceGetCount)):
            device = _handle(index)
            if _uuid(device) == self._uuid:
                self._index = index
                return device
        raise MigError(f"find GPU {self._uuid}", MigCode.GPU_NOT_FOUND)

    def _instance(self, gpu_instance_id: int) -> Any:
        by_id = pynvml.nvmlDeviceGetGpuInstanceById
        return _ask(f"find GPU instance {gpu_instance_id}", by_id, self._device(), gpu_instance_id)

    def _try(self, operation: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call that changes something; who is in the way is told when it is refused."""
        try:
            return _ask(operation, function, *arguments)
        except MigError as error:
            if error.code is not MigCode.IN_USE:
                raise
            raise MigError(operation, error.code, self._users()) from error

    def _users(self) -> str:
        """Return who uses the GPU, in words; empty where nobody can be seen."""
        seen = []
        for entry in self.processes():
            where = f" on GPU instance {entry.gpu_instance_id}"
            program = command_line(entry.pid).partition(" ")[0] or "of another container"
            seen.append(
                f"process {entry.pid} {program}{where if entry.gpu_instance_id is not None else ''}"
            )
        return ", ".join(seen)


def _ask(operation: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call. Raises MigError."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise MigError(operation, _code(error.value), _unlisted(error.value)) from None


def _perhaps(function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call whose answer is welcome and not needed; None when it is refused."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        log.debug("nvml.refused", call=function.__name__, code=error.value)
        return None


def _code(value: int) -> MigCode:
    return MigCode(value) if value in MigCode.__members__.values() else MigCode.UNKNOWN


def _unlisted(value: int) -> str:
    return "" if value in MigCode.__members__.values() else f"NVML's code {value}"


def _handle(index: int) -> Any:
    return _ask(f"find GPU {index}", pynvml.nvmlDeviceGetHandleByIndex, index)


def _uuid(device: Any) -> str:
    return _text(_ask("ask a UUID", pynvml.nvmlDeviceGetUUID, device))


def _needs_reset(device: Any) -> bool:
    """Return whether MIG mode changes by a reset; older drivers do not tell, boards do."""
    told = _perhaps(pynvml.nvmlDeviceGetFieldValues, device, [RESETLESS_FIELD])
    if told and told[0].nvmlReturn == pynvml.NVML_SUCCESS:
        return not told[0].value.uiVal
    capability = _perhaps(pynvml.nvmlDeviceGetCudaComputeCapability, device)
    return capability is not None and capability[0] <= AMPERE


def _profile_info(device: Any, index: int) -> Any:
    """Ask version 2 of the structure, which has the name; version 1 of drivers before R515."""
    try:
        return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(device, index)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetGpuInstanceProfileInfo(device, index, version=1)


def _compute_info(instance: Any, index: int) -> Any:
    ask = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    shared = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    try:
        return ask(instance, index, shared)
    except pynvml.NVMLError_FunctionNotFound:
        return ask(instance, index, shared, version=1)


def _profile(index: int, info: Any, places: Sequence[Placement], device: Any) -> GpuInstanceProfile:
    # NVML's count was wrong on A30: no more exist than fit side by side.
    side_by_side = len({at.start // at.size for at in places})
    counts = [count for count in (info.instanceCount, side_by_side) if count > 0]
    return GpuInstanceProfile(
        index=index,
        id=info.id,
        name=_text(getattr(info, "name", "")).removeprefix("MIG ") or _name(index, info, device),
        compute_slices=info.sliceCount,
        instances_max=min(counts, default=0),
        multiprocessors=info.multiprocessorCount,
        memory_mib=info.memorySizeMB,
        engines=Engines(
            copy=info.copyEngineCount,
            decoder=info.decoderCount,
            encoder=info.encoderCount,
            jpeg=info.jpegCount,
            ofa=info.ofaCount,
        ),
    )


def _name(index: int, info: Any, device: Any) -> str:
    """Return the name that NVIDIA's tools give: memory in eighths of the GPU, rounded up."""
    memory = _ask("ask the GPU's memory", pynvml.nvmlDeviceGetMemoryInfo, device)
    total_mib = memory.total / MIB
    eighths = -(-8 * info.memorySizeMB // total_mib)
    gigabytes = round(eighths / 8 * -(-total_mib // 1024))
    return f"{info.sliceCount}g.{gigabytes}gb{ATTRIBUTES.get(index, '')}"


def _instance(info: Any) -> GpuInstance:
    return GpuInstance(
        info.id, info.profileId, Placement(info.placement.start, info.placement.size)
    )


def _compute(gpu_instance_id: int, info: Any) -> ComputeInstance:
    at = Placement(info.placement.start, info.placement.size)
    return ComputeInstance(gpu_instance_id, info.id, info.profileId, at)


def _number(value: int | None) -> int | None:
    return None if value is None or value == NO_INSTANCE else value


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
