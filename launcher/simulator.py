"""
A GPU on paper that answers as NVML does.

Its state is one JSON file beside a lock file, so that `up`, `status` and `down` in different
processes see the same GPU, and instances outlive the process that made them. What is true of real
GPUs is true here: profile ids are not indexes, the driver picks the placement that spoils least, a
compute instance cannot be destroyed while a process is on it (one that was started with its UUID
in CUDA_VISIBLE_DEVICES), nor a GPU instance that has one, and nothing can be made while MIG mode
is off. What it cannot do is compute: servers on a simulated device run on the CPU.
"""

import fcntl
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from contract.files import write_atomically
from launcher import process_table
from launcher.errors import GpuError
from launcher.mig import (
    DOUBLE_MEMORY_INDEX,
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
from launcher.placement import free_placements, least_spoiling, media_engines_suffice
from launcher.profiles import Board, BoardProfile, compute_profiles

VERSION: Final = 1
UUID_NAMESPACE: Final = uuid.UUID("6d69672d-6761-5465-8761-792d73696d00")
"""Ours, so that simulated UUIDs repeat from run to run and are nobody else's."""
DOUBLE_MEMORY_LAST: Final = Placement(6, 2)
"""Where the driver puts a double-memory 1g only when nothing else is free (published listings)."""

Holders = Callable[[str], Sequence[int]]
"""Who uses the device with this UUID: process ids."""


def environment_holders(device_uuid: str) -> Sequence[int]:
    """Return the processes that were started on a device: CUDA binds by this variable."""
    return process_table.pids_with_environment("CUDA_VISIBLE_DEVICES", device_uuid)


@dataclass(frozen=True, slots=True)
class PaperGpu:
    """
    What the file holds. Immutable: a change is a new one, written whole.

    Attributes:
        answers_only: What every call is refused with: GPU_IS_LOST, RESET_REQUIRED.
    """

    version: int
    board: str
    gpu_uuid: str
    mode: bool = False
    mode_pending: bool = False
    answers_only: MigCode | None = None
    instances: tuple[GpuInstance, ...] = ()
    compute: tuple[ComputeInstance, ...] = ()


PAPER_GPU: Final = TypeAdapter(PaperGpu)
EVENT: Final = TypeAdapter(GpuEvent)


def events_path(path: Path) -> Path:
    """Return the file to which a paper GPU's events are added, one JSON object a line."""
    return path.with_name(f"{path.name}.events")


@dataclass(slots=True)
class Simulator:
    """
    MigDriver on paper.

    Attributes:
        path: State file; made by the first change, not by reading.
        board: What it can be cut into.
        holders: Who uses a device.
        privileged: Whether changes are permitted, as for root.
        halves_swapped: Instance ids as on boards whose halves are swapped by floor-sweeping.
        faults: For tests: errors that the next calls of a method raise, by method name; None
            for a call that passes.
        index: NVML's number of the GPU on its host.
        mode_at_first: MIG mode of a GPU whose file does not exist yet.
        answers_when_off: Profiles can be listed with MIG mode off, as on driver 580 and not on 535.
    """

    path: Path
    board: Board
    holders: Holders = environment_holders
    privileged: bool = True
    halves_swapped: bool = False
    faults: dict[str, list[MigCode | None]] = field(default_factory=dict)
    index: int = 0
    mode_at_first: bool = False
    answers_when_off: bool = True

    # --- what there is ----------------------------------------------------------------------
    def gpu(self) -> Gpu:
        """Return the GPU; its name says that it is simulated."""
        return Gpu(
            name=f"{self.board.product} (simulated)",
            uuid=self._read_well().gpu_uuid,
            compute_slices=self.board.compute_slices,
            memory_slices=self.board.memory_slices,
            simulated=True,
            index=self.index,
            pci_id=self.board.pci_id,
            mode_needs_reset=self.board.mode_needs_reset,
            has_mig=bool(self.board.profiles),
        )

    def profiles(self) -> tuple[GpuInstanceProfile, ...]:
        """Return the board's profiles, with MIG mode off as far as the driver does."""
        if not (self.answers_when_off or self._read_well().mode):
            return ()
        return tuple(entry.profile for entry in self.board.profiles)

    def possible_placements(self, profile_id: int) -> tuple[Placement, ...]:
        """Return where the profile fits on the empty GPU."""
        return self._profile(profile_id, "list placements").placements

    def remaining_capacity(self, profile_id: int) -> int:
        """Return how many more of this profile fit beside what exists."""
        entry = self._profile(profile_id, "ask remaining capacity")
        state = self._read_well()
        # A profile of which one is allowed (+me) has many free places, and room for one.
        return min(len(self._free(state, entry)), self._left(state, entry))

    def gpu_instances(self) -> tuple[GpuInstance, ...]:
        """Return all GPU instances by ascending id."""
        return self._read_well().instances

    def compute_profiles(self, gpu_instance_id: int) -> tuple[ComputeInstanceProfile, ...]:
        """Return the compute instance profiles of one GPU instance."""
        instance = self._instance(self._read_well(), gpu_instance_id, "list compute profiles")
        return compute_profiles(self._profile(instance.profile_id, "").profile)

    def compute_instances(self, gpu_instance_id: int) -> tuple[ComputeInstance, ...]:
        """Return the compute instances of one GPU instance by ascending id."""
        state = self._read_well()
        self._instance(state, gpu_instance_id, "list compute instances")
        return tuple(ci for ci in state.compute if ci.gpu_instance_id == gpu_instance_id)

    def mig_devices(self) -> tuple[MigDevice, ...]:
        """Return the compute instances as devices; a GPU instance without one is not among them."""
        state = self._read_well()
        profile_of = {gi.id: self._profile(gi.profile_id, "").profile for gi in state.instances}
        return tuple(
            MigDevice(
                uuid=_device_uuid(state, ci),
                name=f"{self.board.product} MIG {profile_of[ci.gpu_instance_id].name} (simulated)",
                gpu_instance_id=ci.gpu_instance_id,
                compute_instance_id=ci.id,
                memory_mib=profile_of[ci.gpu_instance_id].memory_mib,
                multiprocessors=profile_of[ci.gpu_instance_id].multiprocessors,
            )
            for ci in state.compute
        )

    # --- mode -------------------------------------------------------------------------------
    def mig_mode(self) -> tuple[bool, bool]:
        """Return (current, pending)."""
        state = self._read_well()
        return state.mode, state.mode_pending

    def set_mig_mode(self, enabled: bool) -> None:
        """Switch the mode: at once, or on Ampere by a reset, which needs the GPU to be idle."""
        operation = f"{'enable' if enabled else 'disable'} MIG mode"
        with self._change("set_mig_mode", operation) as edit:
            state = edit.state
            if not self.board.profiles:
                raise MigError(operation, MigCode.NOT_SUPPORTED, "the board has no MIG")
            if enabled == state.mode:
                edit.state = replace(state, mode_pending=enabled)
                return
            if state.instances:
                raise MigError(operation, MigCode.IN_USE, "it still has GPU instances")
            pids = self.holders(state.gpu_uuid)
            if pids:
                if self.board.mode_needs_reset:
                    # The call succeeds and the activation fails: the wish stays on record.
                    edit.state = replace(state, mode_pending=enabled)
                    edit.keep_on_error = True
                raise MigError(operation, MigCode.IN_USE, _held(pids))
            edit.state = replace(state, mode=enabled, mode_pending=enabled)

    def reset(self) -> None:
        """Reset the GPU: instances are gone, a pending mode becomes current, and it answers again."""
        with self._change("reset", "reset the GPU") as edit:
            mode = edit.state.mode_pending
            edit.state = replace(edit.state, mode=mode, answers_only=None, instances=(), compute=())

    def fail(self, code: MigCode) -> None:
        """Answer everything with this code until it is reset: GPU_IS_LOST, RESET_REQUIRED."""
        with self._change("fail", "fail") as edit:
            edit.state = replace(edit.state, answers_only=code)

    def tell(self, xid: int, gpu_instance_id: int | None = None, ci_id: int | None = None) -> None:
        """Have the GPU tell of an error, as a line in its file of events."""
        event = GpuEvent(self._read().gpu_uuid, xid, gpu_instance_id, ci_id)
        with events_path(self.path).open("ab") as file:
            file.write(EVENT.dump_json(event) + b"\n")

    def reboot(self) -> None:
        """Restart the machine: Ampere keeps its MIG mode, later boards forget it."""
        with self._change("reboot", "reboot") as edit:
            mode = edit.state.mode_pending and self.board.mode_needs_reset
            edit.state = replace(edit.state, mode=mode, mode_pending=mode, instances=(), compute=())

    # --- GPU instances ----------------------------------------------------------------------
    def create_gpu_instance(
        self, profile_id: int, placement: Placement | None = None
    ) -> GpuInstance:
        """Create a GPU instance where asked, or where it spoils least."""
        entry = self._profile(profile_id, f"create GPU instance with profile {profile_id}")
        where = f" at {placement}" if placement else ""
        operation = f"create GPU instance {entry.profile.name}{where}"
        with self._change("create_gpu_instance", operation) as edit:
            state = edit.state
            if not state.mode:
                raise MigError(operation, MigCode.NOT_SUPPORTED, "MIG mode is off")
            pids = self.holders(state.gpu_uuid)
            if pids:
                raise MigError(operation, MigCode.IN_USE, _held(pids))
            if placement is not None and placement not in entry.placements:
                raise MigError(operation, MigCode.INVALID_ARGUMENT, "no such placement")
            free = self._free(state, entry)
            if not free or (placement is not None and placement not in free):
                raise MigError(operation, MigCode.INSUFFICIENT_RESOURCES)
            chosen = placement or self._driver_choice(state, entry, free)
            created = GpuInstance(self._instance_id(chosen), profile_id, chosen)
            edit.state = replace(
                state, instances=tuple(sorted((*state.instances, created), key=lambda gi: gi.id))
            )
            return created

    def destroy_gpu_instance(self, gpu_instance_id: int) -> None:
        """Destroy a GPU instance that has no compute instance."""
        operation = f"destroy GPU instance {gpu_instance_id}"
        with self._change("destroy_gpu_instance", operation) as edit:
            state = edit.state
            self._instance(state, gpu_instance_id, operation)
            if any(ci.gpu_instance_id == gpu_instance_id for ci in state.compute):
                raise MigError(operation, MigCode.IN_USE, "it has a compute instance")
            left = tuple(gi for gi in state.instances if gi.id != gpu_instance_id)
            edit.state = replace(state, instances=left)

    # --- compute instances ------------------------------------------------------------------
    def create_compute_instance(self, gpu_instance_id: int, profile_id: int) -> ComputeInstance:
        """Create a compute instance at the lowest free compute slices of the GPU instance."""
        operation = f"create compute instance with profile {profile_id} in {gpu_instance_id}"
        with self._change("create_compute_instance", operation) as edit:
            state = edit.state
            instance = self._instance(state, gpu_instance_id, operation)
            whole = self._profile(instance.profile_id, operation).profile
            profile = {entry.id: entry for entry in compute_profiles(whole)}.get(profile_id)
            if profile is None:
                raise MigError(operation, MigCode.NOT_SUPPORTED)
            inside = [ci for ci in state.compute if ci.gpu_instance_id == gpu_instance_id]
            size = profile.compute_slices
            starts = range(0, whole.compute_slices - size + 1, size)
            free = free_placements(
                [Placement(at, size) for at in starts], [ci.placement for ci in inside]
            )
            if not free:
                raise MigError(operation, MigCode.INSUFFICIENT_RESOURCES)
            used = {ci.id for ci in inside}
            number = next(n for n in range(len(used) + 1) if n not in used)
            created = ComputeInstance(gpu_instance_id, number, profile_id, free[0])
            every = sorted((*state.compute, created), key=lambda ci: (ci.gpu_instance_id, ci.id))
            edit.state = replace(state, compute=tuple(every))
            return created

    def destroy_compute_instance(self, gpu_instance_id: int, compute_instance_id: int) -> None:
        """Destroy a compute instance that no process is on."""
        operation = f"destroy compute instance {compute_instance_id} of {gpu_instance_id}"
        with self._change("destroy_compute_instance", operation) as edit:
            state = edit.state
            key = (gpu_instance_id, compute_instance_id)
            found = [ci for ci in state.compute if (ci.gpu_instance_id, ci.id) == key]
            if not found:
                raise MigError(operation, MigCode.NOT_FOUND)
            pids = self.holders(_device_uuid(state, found[0]))
            if pids:
                raise MigError(operation, MigCode.IN_USE, _held(pids))
            left = tuple(ci for ci in state.compute if ci not in found)
            edit.state = replace(state, compute=left)

    # --- who, how much ----------------------------------------------------------------------
    def processes(self) -> tuple[GpuProcess, ...]:
        """Return who was started on the GPU or on one of its devices."""
        state = self._read_well()
        whole = [GpuProcess(pid, None, None) for pid in self.holders(state.gpu_uuid)]
        inside = [
            GpuProcess(pid, ci.gpu_instance_id, ci.id)
            for ci in state.compute
            for pid in self.holders(_device_uuid(state, ci))
        ]
        return (*whole, *inside)

    def memory(self, mig_uuid: str = "") -> Memory | None:
        """Return no memory in use: what runs on a paper GPU uses the host's."""
        for device in self.mig_devices():
            if device.uuid == mig_uuid:
                return Memory(device.memory_mib, 0)
        return None

    def publish(self) -> None:
        """Do nothing: paper has no device nodes."""

    # --- inside -----------------------------------------------------------------------------
    def _profile(self, profile_id: int, operation: str) -> BoardProfile:
        for entry in self.board.profiles:
            if entry.profile.id == profile_id:
                return entry
        raise MigError(operation, MigCode.INVALID_ARGUMENT, f"no profile {profile_id}")

    def _instance(self, state: PaperGpu, gpu_instance_id: int, operation: str) -> GpuInstance:
        for instance in state.instances:
            if instance.id == gpu_instance_id:
                return instance
        raise MigError(operation, MigCode.NOT_FOUND)

    def _free(self, state: PaperGpu, entry: BoardProfile) -> tuple[Placement, ...]:
        """Return the free placements, none once as many exist as the profile allows."""
        profile_of = {each.profile.id: each.profile for each in self.board.profiles}
        there = [profile_of[gi.profile_id] for gi in state.instances]
        if self._left(state, entry) == 0 or not media_engines_suffice([*there, entry.profile]):
            return ()
        return free_placements(entry.placements, [gi.placement for gi in state.instances])

    def _left(self, state: PaperGpu, entry: BoardProfile) -> int:
        exist = sum(gi.profile_id == entry.profile.id for gi in state.instances)
        return entry.profile.instances_max - exist

    def _driver_choice(
        self, state: PaperGpu, entry: BoardProfile, free: Sequence[Placement]
    ) -> Placement:
        if self.board.picks_lowest:
            return min(free)
        if entry.profile.index == DOUBLE_MEMORY_INDEX and len(free) > 1:
            free = [at for at in free if at != DOUBLE_MEMORY_LAST]
        possible = {each.profile.id: each.placements for each in self.board.profiles}
        return least_spoiling(free, [gi.placement for gi in state.instances], possible)

    def _instance_id(self, placement: Placement) -> int:
        """Whole 0, halves 1 and 2, quarters 3 to 6, eighths from 7 (open-gpu-kernel-modules)."""
        parts = self.board.memory_slices // placement.size
        start = placement.start ^ (self.board.memory_slices // 2 if self._swaps(parts) else 0)
        return parts - 1 + start // placement.size

    def _swaps(self, parts: int) -> bool:
        return self.halves_swapped and parts > 1

    @contextmanager
    def _change(self, method: str, operation: str) -> Iterator["_Edit"]:
        """Read, let the caller change, write: alone, whatever other processes do."""
        pending = self.faults.get(method)
        fault = pending.pop(0) if pending else None
        if fault is not None:
            raise MigError(operation, fault, "injected")
        if not self.privileged:
            raise MigError(operation, MigCode.NO_PERMISSION, "cutting a GPU needs root")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            broken = method in ("reset", "fail")
            before = self._read() if broken else self._read_well()
            edit = _Edit(before)
            try:
                yield edit
            except MigError:
                if edit.keep_on_error:
                    self._write(edit.state)
                raise
            if edit.state != before:
                self._write(edit.state)

    def _write(self, state: PaperGpu) -> None:
        write_atomically(self.path, PAPER_GPU.dump_json(state, indent=2).decode() + "\n")

    def _read(self) -> PaperGpu:
        try:
            state = PAPER_GPU.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            on = self.mode_at_first and bool(self.board.profiles)
            return PaperGpu(VERSION, self.board.key, _gpu_uuid(self.board, self.path), on, on)
        except ValidationError as error:
            raise GpuError(
                f"{self.path} is no simulated GPU ({error.error_count()} errors); "
                "remove it to start with a fresh one"
            ) from error
        if state.version != VERSION or state.board != self.board.key:
            raise GpuError(
                f"{self.path} holds a simulated {state.board} (version {state.version}), "
                f"not {self.board.key} (version {VERSION}); remove it to start with a fresh one"
            )
        return state

    def _read_well(self) -> PaperGpu:
        state = self._read()
        if state.answers_only is not None:
            raise MigError(f"find GPU {self.index}", state.answers_only)
        return state


@dataclass(slots=True)
class _Edit:
    """A change in the making."""

    state: PaperGpu
    keep_on_error: bool = False


def _held(pids: Sequence[int]) -> str:
    return f"process {', '.join(map(str, pids))}"


def _gpu_uuid(board: Board, path: Path) -> str:
    """Return a UUID that is this file's own: two simulated GPUs never share devices."""
    return f"GPU-{uuid.uuid5(UUID_NAMESPACE, f'{board.key} {path.resolve()}')}"


def _device_uuid(state: PaperGpu, instance: ComputeInstance) -> str:
    """Return the version-5 UUID of GPU, GI and CI: made again, an instance has it again."""
    key = f"{state.gpu_uuid}/{instance.gpu_instance_id}/{instance.id}"
    return f"MIG-{uuid.uuid5(UUID_NAMESPACE, key)}"
