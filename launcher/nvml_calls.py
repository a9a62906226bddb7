"""
NVML's single calls for launcher/nvml.py: errors as MigError, older structures where a driver has no
newer, structures as records.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pynvml
import structlog

from launcher.mig import (
    ATTRIBUTES,
    ComputeInstance,
    Engines,
    GpuInstance,
    GpuInstanceProfile,
    MigCode,
    MigError,
    Placement,
)

log = structlog.get_logger()

INDEXES_KNOWN: Final = int(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)
"""Profile indexes that nvml.h names; each is asked for, whatever is said of the one before."""
INDEXES_MAX: Final = 64
"""Asked for at most, as later drivers may know more: up to the first that they do not know."""
NO_INSTANCE: Final = 0xFFFFFFFF
RESETLESS_FIELD: Final = 184
"""NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED: 1 where MIG mode changes without a reset."""
AMPERE: Final = 8
"""Compute capability 8.x changes MIG mode by a reset; 9.0 and later at once."""
MIB: Final = 1024 * 1024


def call(operation: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call. Raises MigError."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise MigError(operation, code_of(error.value), _unlisted(error.value)) from None


def perhaps(function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a call whose answer is welcome and not needed; None when it is refused."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        log.debug("nvml.refused", call=function.__name__, code=error.value)
        return None


def code_of(value: int) -> MigCode:
    """Return the code; UNKNOWN for one that is not listed."""
    return MigCode(value) if value in MigCode.__members__.values() else MigCode.UNKNOWN


def _unlisted(value: int) -> str:
    return "" if value in MigCode.__members__.values() else f"NVML's code {value}"


def device_at(index: int) -> Any:
    """Return the handle of a GPU."""
    return call(f"find GPU {index}", pynvml.nvmlDeviceGetHandleByIndex, index)


def uuid_of(device: Any) -> str:
    """Return the UUID of a GPU or a MIG device."""
    return text(call("ask a UUID", pynvml.nvmlDeviceGetUUID, device))


def text(value: str | bytes) -> str:
    """Return text; the package gives some as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def number(value: int | None) -> int | None:
    """Return the id of an instance; None where NVML says that there is none."""
    return None if value is None or value == NO_INSTANCE else value


def needs_reset(device: Any) -> bool:
    """Return whether MIG mode changes by a reset; older drivers do not tell, boards do."""
    told = perhaps(pynvml.nvmlDeviceGetFieldValues, device, [RESETLESS_FIELD])
    if told and told[0].nvmlReturn == pynvml.NVML_SUCCESS:
        return not told[0].value.uiVal
    capability = perhaps(pynvml.nvmlDeviceGetCudaComputeCapability, device)
    return capability is not None and capability[0] <= AMPERE


def by_index(ask: Callable[[str, int], Any], what: str, known: int) -> Iterator[tuple[int, Any]]:
    """
    Return (index, answer) for each index that exists.

    Args:
        ask: Called with the operation in words and an index.
        what: What is listed, in words.
        known: Indexes that every driver may be asked for.
    """
    for index in range(INDEXES_MAX):
        try:
            answer = ask(f"list {what} {index}", index)
        except MigError as error:
            if error.code is MigCode.NOT_SUPPORTED:
                continue
            if error.code is MigCode.INVALID_ARGUMENT:
                if index < known:
                    continue  # older drivers know fewer, and boards have gaps
                return
            raise
        yield index, answer


def gpu_profile_info(operation: str, device: Any, index: int) -> Any:
    """Ask version 2 of the structure, which has the name; version 1 of drivers before R515."""
    ask = pynvml.nvmlDeviceGetGpuInstanceProfileInfo
    return _newest(operation, lambda version: ask(device, index, version=version))


def compute_profile_info(operation: str, instance: Any, index: int) -> Any:
    """The same for compute instances, of the one engine profile that there is."""
    ask = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    shared = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    return _newest(operation, lambda version: ask(instance, index, shared, version=version))


def _newest(operation: str, ask: Callable[[int], Any]) -> Any:
    try:
        return call(operation, ask, 2)
    except MigError as error:
        if error.code not in (MigCode.FUNCTION_NOT_FOUND, MigCode.ARGUMENT_VERSION_MISMATCH):
            raise
    return call(operation, ask, 1)


def gpu_profile(
    index: int, info: Any, places: Sequence[Placement], device: Any
) -> GpuInstanceProfile:
    """Return the record of a GPU instance profile."""
    # NVML's count was wrong on A30: no more exist than fit side by side.
    side_by_side = len({at.start // at.size for at in places})
    counts = [count for count in (info.instanceCount, side_by_side) if count > 0]
    return GpuInstanceProfile(
        index=index,
        id=info.id,
        name=profile_name(info) or _name(index, info, device),
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


def profile_name(info: Any) -> str:
    """Return the name in a profile's structure; empty in version 1, which has none."""
    return text(getattr(info, "name", "")).removeprefix("MIG ")


def _name(index: int, info: Any, device: Any) -> str:
    """Return the name that NVIDIA's tools give: memory in eighths of the GPU, rounded up."""
    memory = call("ask the GPU's memory", pynvml.nvmlDeviceGetMemoryInfo, device)
    total_mib = memory.total / MIB
    eighths = -(-8 * info.memorySizeMB // total_mib)
    gigabytes = int(eighths / 8 * -(-total_mib // 1024) + 0.5)  # a half is rounded up
    return f"{info.sliceCount}g.{gigabytes}gb{ATTRIBUTES.get(index, '')}"


def gpu_instance(operation: str, handle: Any) -> GpuInstance:
    """Return the record of a GPU instance."""
    info = call(operation, pynvml.nvmlGpuInstanceGetInfo, handle)
    at = Placement(info.placement.start, info.placement.size)
    return GpuInstance(info.id, info.profileId, at)


def compute_instance(operation: str, gpu_instance_id: int, handle: Any) -> ComputeInstance:
    """Return the record of a compute instance."""
    info = call(operation, pynvml.nvmlComputeInstanceGetInfo, handle)
    at = Placement(info.placement.start, info.placement.size)
    return ComputeInstance(gpu_instance_id, info.id, info.profileId, at)
