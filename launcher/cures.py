"""Every error NVML can give, as a sentence with its cure: pure."""

from typing import Final

from launcher.mig import MigCode, MigError

OPEN: Final = "open the NVIDIA driver"
"""The one operation in which no GPU has had a say yet."""
CONFIG_CAPABILITY: Final = "/proc/driver/nvidia/capabilities/mig/config"
CURES: Final[dict[MigCode, str]] = {
    MigCode.UNINITIALIZED: "this is a mistake of mig-launcher's own: please report it",
    MigCode.INVALID_ARGUMENT: (
        "the GPU changed under us, or has no such profile or placement: look with "
        "`mig-launcher profiles` and run this again"
    ),
    MigCode.NOT_SUPPORTED: (
        "this GPU or its driver cannot do that: MIG mode must be on (`--enable-mig`), the GPU must "
        "be one with MIG, and not a virtual one"
    ),
    MigCode.NO_PERMISSION: (
        "MIG mode needs root (CAP_SYS_ADMIN); creating and destroying instances needs root, or "
        f"access to the capability {CONFIG_CAPABILITY} (/dev/nvidia-caps/nvidia-cap1; in a "
        "container: privileged, with NVIDIA_MIG_CONFIG_DEVICES=all)"
    ),
    MigCode.ALREADY_INITIALIZED: "this is a mistake of mig-launcher's own: please report it",
    MigCode.NOT_FOUND: (
        "it is gone: somebody else cut the GPU, or it was reset; run this again, which looks anew"
    ),
    MigCode.INSUFFICIENT_SIZE: "this is a mistake of mig-launcher's own: please report it",
    MigCode.INSUFFICIENT_POWER: "connect the GPU's external power cables",
    MigCode.DRIVER_NOT_LOADED: (
        "the NVIDIA driver is not loaded: `nvidia-smi` must work first (try `modprobe nvidia`)"
    ),
    MigCode.TIMEOUT: "the GPU did not answer in time: run this again, and see `dmesg | grep NVRM`",
    MigCode.IRQ_ISSUE: "the GPU's interrupts do not arrive: see `dmesg | grep NVRM`",
    MigCode.LIBRARY_NOT_FOUND: (
        "libnvidia-ml.so.1 is not installed here: install the NVIDIA driver (in a container: start "
        "it with --gpus and NVIDIA_DRIVER_CAPABILITIES=utility), or use --gpu simulated"
    ),
    MigCode.FUNCTION_NOT_FOUND: "the driver is too old for this: install R525 or later",
    MigCode.CORRUPTED_INFOROM: "the GPU's infoROM is damaged: ask the vendor for service",
    MigCode.GPU_IS_LOST: (
        "the GPU fell off the bus or is inaccessible: see `dmesg | grep Xid`, then reset it or "
        "restart the machine"
    ),
    MigCode.RESET_REQUIRED: (
        "it does nothing more until it is reset: `mig-launcher down`, stop what else uses it, "
        "`nvidia-smi -i GPU --gpu-reset` (in a virtual machine: restart that), then run this again"
    ),
    MigCode.OPERATING_SYSTEM: "a cgroup or the kernel forbids it: check the container's devices",
    MigCode.LIB_RM_VERSION_MISMATCH: (
        "the driver was updated while loaded: restart the machine, or reload the nvidia modules"
    ),
    MigCode.IN_USE: "stop what uses it, then run this again",
    MigCode.MEMORY: "the GPU or the host is out of memory: free some and run this again",
    MigCode.NO_DATA: "the driver has nothing to tell about it",
    MigCode.VGPU_ECC_NOT_SUPPORTED: "switch ECC off, or do without virtual GPUs",
    MigCode.INSUFFICIENT_RESOURCES: (
        "there is no room for it beside what exists: see `mig-launcher profiles` for what is free"
    ),
    MigCode.FREQ_NOT_SUPPORTED: "the GPU has no such clock",
    MigCode.ARGUMENT_VERSION_MISMATCH: (
        "the driver and the package nvidia-ml-py do not fit: update the older one"
    ),
    MigCode.DEPRECATED: "this driver has dropped the call: update mig-launcher",
    MigCode.NOT_READY: "the GPU is starting or resetting: run this again in a moment",
    MigCode.GPU_NOT_FOUND: "there is no such GPU here: `nvidia-smi -L` lists them",
    MigCode.INVALID_STATE: "the GPU is in no state for that: wait, or reset it",
    MigCode.RESET_TYPE_NOT_SUPPORTED: "restart the machine instead of resetting the GPU",
    MigCode.UNKNOWN: "the driver does not say why: see `dmesg | grep NVRM`, and run this again",
}
GONE: Final = (MigCode.GPU_IS_LOST, MigCode.GPU_NOT_FOUND)
"""What is answered for a GPU that cannot refuse anything any more."""
PENDING: Final = (
    "MIG mode is pending until the GPU is reset: stop all that uses it, "
    "`nvidia-smi -i GPU --gpu-reset` (in a virtual machine: restart that), then run this again"
)
AMPERE_PENDING: Final = (
    "MIG mode is pending: on Ampere it changes by a reset, which needs the GPU to itself. Stop what "
    "holds it (often nvsm, dcgm or dcgm-exporter, nvidia-persistenced, X, a loaded nvidia_drm), "
    "`nvidia-smi -i GPU --gpu-reset`, then run this again"
)
AT_ONCE_IN_USE: Final = (
    "stop what uses the GPU and run this again; no reset is needed on this board, it switches at "
    "once when nobody holds it"
)


def sentence(error: MigError, mode_needs_reset: bool | None = None) -> str:
    """
    Return what was refused, NVML's words, and what to do.

    Args:
        mode_needs_reset: For a refused change of MIG mode: whether this board changes it by a reset.
    """
    cure = CURES[error.code]
    if mode_needs_reset is not None and error.code in (MigCode.IN_USE, MigCode.RESET_REQUIRED):
        if mode_needs_reset:
            cure = AMPERE_PENDING
        else:
            cure = AT_ONCE_IN_USE if error.code is MigCode.IN_USE else PENDING
    answers = error.operation != OPEN and error.code not in GONE
    return f"{'the GPU refused to' if answers else 'cannot'} {error}; {cure}"
