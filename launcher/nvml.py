"""
RealNvml: the host's GPUs through NVIDIA's library, by the package nvidia-ml-py. Thin: one call of
the library for one call here, in the order that nvml.h documents.

Handles of instances die with the instance and at a reset, and may be used again for another: none
is kept, each call begins from the GPU and asks by id.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import pynvml
import structlog

from launcher.cures import OPEN
from launcher.mig import (
    ComputeInstance,
    ComputeInstanceProfile,
    Gpu,
    GpuEvent,
    GpuInstance,
    GpuInstanceProfile,
    GpuProcess,
    Memory,
    MigCode,
    MigDevice,
    MigError,
    Placement,
)
from launcher.nvml_calls import (
    INDEXES_KNOWN,
    MIB,
    by_index,
    call,
    code_of,
    compute_instance,
    compute_profile_info,
    device_at,
    gpu_instance,
    gpu_profile,
    gpu_profile_info,
    needs_reset,
    number,
    perhaps,
    profile_name,
    text,
    uuid_of,
)
from launcher.nvml_events import Events
from launcher.process_table import command_line

log = structlog.get_logger()

NODES_TIMEOUT_S: Final = 30.0
COMPUTE_INDEXES_KNOWN: Final = int(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT)


class RealNvml:
    """Nvml through libnvidia-ml.so.1."""

    def __init__(self) -> None:
        """Raise MigError when there is no driver, or none that answers."""
        call(OPEN, pynvml.nvmlInit)
        self._events = Events()
        self._unusable: dict[int, MigError] = {}

    def gpus(self) -> Sequence["RealGpu"]:
        """Return the GPUs that answer, by index."""
        found = []
        self._unusable = {}
        for index in range(call("count GPUs", pynvml.nvmlDeviceGetCount)):
            try:
                member = RealGpu(index, self._events)
                member.mig_mode()  # a GPU that is lost may still tell its name
            except MigError as error:
                self._unusable[index] = error
            else:
                found.append(member)
        return found

    @property
    def unusable(self) -> Mapping[int, MigError]:
        """Why the others do not answer, by index."""
        return self._unusable

    def wait_event(self, gpu_uuids: Collection[str], timeout_s: float) -> GpuEvent | None:
        """Return the next event; see launcher/nvml_events.py."""
        return self._events.wait(gpu_uuids, timeout_s)

    def undisturbed(self) -> AbstractContextManager[None]:
        """Wait for no events within the block."""
        return self._events.closed()

    def steady(self) -> AbstractContextManager[object]:
        """Have the library stay open within the block."""
        return self._events.library

    def close(self) -> None:
        """Shut the library down; each nvmlInit needs one."""
        with self._events.closed():
            # After a change of MIG mode the library may not have opened again: then it is closed.
            perhaps(pynvml.nvmlShutdown)


class RealGpu:
    """MigDriver of one GPU; see there."""

    def __init__(self, index: int, events: Events) -> None:
        self._uuid = uuid_of(device_at(index))
        self._index = index
        self._events = events
        self._has_looked = False

    @property
    def index(self) -> int:
        """NVML's number of the GPU."""
        return self._index

    # --- what there is ----------------------------------------------------------------------
    def gpu(self) -> Gpu:
        """Return the GPU; its grid is what its own placements reach to."""
        device = self._device()
        profiles = self.profiles()
        ends = [at.end for entry in profiles for at in self.possible_placements(entry.id)]
        pci = perhaps(pynvml.nvmlDeviceGetPciInfo, device)
        return Gpu(
            name=text(call("ask the GPU's name", pynvml.nvmlDeviceGetName, device)),
            uuid=self._uuid,
            compute_slices=max((entry.compute_slices for entry in profiles), default=0),
            memory_slices=max(ends, default=0),
            simulated=False,
            index=self._index,
            pci_id=pci.pciDeviceId if pci else 0,
            mode_needs_reset=needs_reset(device),
            has_mig=self._mode() is not None,
        )

    def profiles(self) -> tuple[GpuInstanceProfile, ...]:
        """Return the profiles; none on a GPU without MIG, nor on drivers that need the mode on."""
        device = self._device()
        return tuple(
            gpu_profile(index, info, places, device) for index, info, places in self._profiles()
        )

    def possible_placements(self, profile_id: int) -> tuple[Placement, ...]:
        """Return where the profile fits on the empty GPU."""
        device, operation = self._device(), f"list placements of profile {profile_id}"
        ask, count = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements, ctypes.c_uint(0)
        call(operation, ask, device, profile_id, None, ctypes.byref(count))
        if count.value == 0:
            return ()
        places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        call(operation, ask, device, profile_id, places, ctypes.byref(count))
        return tuple(Placement(places[i].start, places[i].size) for i in range(count.value))

    def remaining_capacity(self, profile_id: int) -> int:
        """Return how many more of this profile fit."""
        ask = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity
        return int(call("ask remaining capacity", ask, self._device(), profile_id))

    # --- mode -------------------------------------------------------------------------------
    def mig_mode(self) -> tuple[bool, bool]:
        """Return (current, pending); both off on a GPU without MIG."""
        return self._mode() or (False, False)

    def set_mig_mode(self, enabled: bool) -> None:
        """Switch the mode; the call may succeed and its activation fail, which is an error too."""
        operation = f"{'enable' if enabled else 'disable'} MIG mode"
        wanted = pynvml.NVML_DEVICE_MIG_ENABLE if enabled else pynvml.NVML_DEVICE_MIG_DISABLE
        with self._events.closed():
            status = call(operation, pynvml.nvmlDeviceSetMigMode, self._device(), wanted)
            if status != pynvml.NVML_SUCCESS and self._mode() != (enabled, enabled):
                raise MigError(operation, code_of(status), self._users())
            self._open_anew(operation)  # the switch may have reset the GPU
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
        try:
            return gpu_instance(operation, made)
        except MigError:
            perhaps(pynvml.nvmlGpuInstanceDestroy, made)  # nobody would know of it
            raise

    def gpu_instances(self) -> tuple[GpuInstance, ...]:
        """Return all GPU instances by ascending id; NVML lists them by profile."""
        if not self.mig_mode()[0]:
            return ()
        device, found = self._device(), []
        ask = pynvml.nvmlDeviceGetGpuInstances
        for index, info, places in self._profiles():
            # As many as the driver may write, by its own count and by ours.
            room = max(info.instanceCount, len(places))
            handles = (pynvml.c_nvmlGpuInstance_t * room)()
            count = ctypes.c_uint(room)
            operation = f"list instances of profile {index}"
            try:
                call(operation, ask, device, info.id, handles, ctypes.byref(count))
            except MigError as error:
                if error.code is MigCode.NOT_SUPPORTED:  # not in the GPU's present mode (+gfx)
                    continue
                raise
            found += [gpu_instance(operation, handles[i]) for i in range(count.value)]
        return tuple(sorted(found, key=lambda instance: instance.id))

    def destroy_gpu_instance(self, gpu_instance_id: int) -> None:
        """Destroy a GPU instance without compute instances."""
        operation = f"destroy GPU instance {gpu_instance_id}"
        destroy = pynvml.nvmlGpuInstanceDestroy
        self._destroy(operation, destroy, lambda: self._instance(gpu_instance_id))

    # --- compute instances ------------------------------------------------------------------
    def compute_profiles(self, gpu_instance_id: int) -> tuple[ComputeInstanceProfile, ...]:
        """Return the compute instance profiles of one GPU instance."""
        return tuple(
            ComputeInstanceProfile(
                index=index,
                id=info.id,
                name=profile_name(info) or f"{info.sliceCount}c",
                compute_slices=info.sliceCount,
                instances_max=info.instanceCount,
            )
            for index, info in self._compute_profiles(self._instance(gpu_instance_id))
        )

    def create_compute_instance(self, gpu_instance_id: int, profile_id: int) -> ComputeInstance:
        """Create a compute instance."""
        operation = f"create compute instance of profile {profile_id} in {gpu_instance_id}"
        instance = self._instance(gpu_instance_id)
        create = pynvml.nvmlGpuInstanceCreateComputeInstance
        made = self._try(operation, create, instance, profile_id)
        try:
            return compute_instance(operation, gpu_instance_id, made)
        except MigError:
            perhaps(pynvml.nvmlComputeInstanceDestroy, made)
            raise

    def compute_instances(self, gpu_instance_id: int) -> tuple[ComputeInstance, ...]:
        """Return the compute instances of one GPU instance by ascending id."""
        instance, found = self._instance(gpu_instance_id), []
        ask = pynvml.nvmlGpuInstanceGetComputeInstances
        operation = f"list compute instances of {gpu_instance_id}"
        for _, info in self._compute_profiles(instance):
            room = max(info.instanceCount, 1)
            handles = (pynvml.c_nvmlComputeInstance_t * room)()
            count = ctypes.c_uint(room)
            call(operation, ask, instance, info.id, handles, ctypes.byref(count))
            found += [
                compute_instance(operation, gpu_instance_id, handles[i]) for i in range(count.value)
            ]
        return tuple(sorted(found, key=lambda entry: entry.id))

    def destroy_compute_instance(self, gpu_instance_id: int, compute_instance_id: int) -> None:
        """Destroy a compute instance that nobody uses."""
        operation = f"destroy compute instance {compute_instance_id} of {gpu_instance_id}"
        by_id = pynvml.nvmlGpuInstanceGetComputeInstanceById

        def find() -> Any:
            return call(operation, by_id, self._instance(gpu_instance_id), compute_instance_id)

        self._destroy(operation, pynvml.nvmlComputeInstanceDestroy, find)

    def mig_devices(self) -> tuple[MigDevice, ...]:
        """Return the MIG devices. Their indexes may have holes, and shift: they are not kept."""
        device, found = self._device(), []
        self._has_looked = True
        for index in range(
            call("count MIG devices", pynvml.nvmlDeviceGetMaxMigDeviceCount, device)
        ):
            try:
                member = call(
                    f"find MIG device {index}",
                    pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device, index,
                )  # fmt: skip
            except MigError as error:
                if error.code is MigCode.NOT_FOUND:
                    continue
                raise
            operation = f"ask about MIG device {index}"
            has = perhaps(pynvml.nvmlDeviceGetAttributes, member)  # R460 and later
            found.append(
                MigDevice(
                    uuid=text(call(operation, pynvml.nvmlDeviceGetUUID, member)),
                    name=text(perhaps(pynvml.nvmlDeviceGetName, member) or ""),
                    gpu_instance_id=call(operation, pynvml.nvmlDeviceGetGpuInstanceId, member),
                    compute_instance_id=call(
                        operation, pynvml.nvmlDeviceGetComputeInstanceId, member
                    ),
                    memory_mib=has.memorySizeMB if has else 0,
                    multiprocessors=has.multiprocessorCount if has else 0,
                )
            )
        return tuple(sorted(found, key=lambda at: (at.gpu_instance_id, at.compute_instance_id)))

    # --- who, how much, and device nodes ----------------------------------------------------
    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the compute processes; none where the driver does not tell."""
        device = self._device()
        running = perhaps(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, device)
        if running is None:  # drivers before R510
            running = perhaps(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, device) or []
        return tuple(
            GpuProcess(
                entry.pid,
                number(getattr(entry, "gpuInstanceId", None)),
                number(getattr(entry, "computeInstanceId", None)),
                entry.usedGpuMemory // MIB if entry.usedGpuMemory is not None else None,
            )
            for entry in running
        )

    def memory(self, mig_uuid: str = "") -> Memory | None:
        """Return the memory of the GPU, or of the MIG device with this UUID."""
        device: Any = self._device()
        if mig_uuid:
            self._has_looked = True
            device = perhaps(pynvml.nvmlDeviceGetHandleByUUID, mig_uuid)
        info = perhaps(pynvml.nvmlDeviceGetMemoryInfo, device) if device is not None else None
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
        device = device_at(self._index)
        if uuid_of(device) == self._uuid:
            return device
        for index in range(call("count GPUs", pynvml.nvmlDeviceGetCount)):
            device = device_at(index)
            if uuid_of(device) == self._uuid:
                self._index = index
                return device
        raise MigError(f"find GPU {self._uuid}", MigCode.GPU_NOT_FOUND)

    def _mode(self) -> tuple[bool, bool] | None:
        """Return (current, pending); None on a GPU without MIG."""
        try:
            mode = call("ask MIG mode", pynvml.nvmlDeviceGetMigMode, self._device())
        except MigError as error:
            # Drivers before R450 know nothing of MIG.
            if error.code in (MigCode.NOT_SUPPORTED, MigCode.FUNCTION_NOT_FOUND):
                return None
            raise
        return bool(mode[0]), bool(mode[1])

    def _profiles(self) -> Iterator[tuple[int, Any, tuple[Placement, ...]]]:
        """Return index, structure and placements of each GPU instance profile."""
        device = self._device()

        def ask(operation: str, index: int) -> tuple[Any, tuple[Placement, ...]]:
            info = gpu_profile_info(operation, device, index)
            return info, self.possible_placements(info.id)

        for index, (info, places) in by_index(ask, "profile", INDEXES_KNOWN):
            yield index, info, places

    def _compute_profiles(self, instance: Any) -> Iterator[tuple[int, Any]]:
        """Return index and structure of each compute instance profile."""

        def ask(operation: str, index: int) -> Any:
            return compute_profile_info(operation, instance, index)

        return by_index(ask, "compute profile", COMPUTE_INDEXES_KNOWN)

    def _instance(self, gpu_instance_id: int) -> Any:
        by_id = pynvml.nvmlDeviceGetGpuInstanceById
        return call(f"find GPU instance {gpu_instance_id}", by_id, self._device(), gpu_instance_id)

    def _destroy(
        self, operation: str, function: Callable[..., Any], find: Callable[[], Any]
    ) -> None:
        try:
            self._try(operation, function, find())
            return
        except MigError as error:
            if error.code is not MigCode.IN_USE or not self._has_looked:
                raise
        # Who has looked at a MIG device may count as its client, and be in his own way. A library
        # that is opened anew has looked at nothing.
        with self._events.closed():
            self._open_anew(operation)
            self._has_looked = False
            self._try(operation, function, find())

    def _open_anew(self, operation: str) -> None:
        """Handles, minor numbers and what the library holds of the GPU are asked for anew."""
        call(operation, pynvml.nvmlShutdown)
        call(OPEN, pynvml.nvmlInit)

    def _try(self, operation: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call that changes something; who is in the way is told when it is refused."""
        try:
            return call(operation, function, *arguments)
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
