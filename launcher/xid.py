"""
What NVIDIA's numbers of GPU errors (XID) mean and what cures them: pure.

Source: NVIDIA's Xid catalogue for Ampere and later, its names and immediate actions.
"""

import enum
from dataclasses import dataclass
from typing import Final

UNKNOWN_XID: Final = 999
"""What NVML gives for an error that it does not know."""


class Cure(enum.Enum):
    """What must happen before the GPU, or what ran on it, works again."""

    RESTART = "restart"
    """The program that was hit: its CUDA context is dead, and answers errors only."""
    RESET = "reset"
    """The whole GPU."""
    REBOOT = "reboot"
    """The machine."""
    NOTHING = "nothing"
    """It goes on by itself, or is only the echo of another error."""
    UNKNOWN = "unknown"
    """Not told by NVIDIA, or not to this launcher."""


WORDS: Final = {
    Cure.RESTART: (
        "what ran there cannot go on; if that comes back, see `dmesg | grep Xid` and have the model's "
        "code checked"
    ),
    Cure.RESET: (
        "the GPU must be reset: `mig-launcher down`, stop what else uses it, "
        "`nvidia-smi -i {index} --gpu-reset`, then `mig-launcher up`"
    ),
    Cure.REBOOT: (
        "restart the machine, then `mig-launcher up`; if that comes back, have the GPU checked"
    ),
    Cure.NOTHING: "nothing needs to be done; if it comes back often, have the GPU checked",
    Cure.UNKNOWN: "see `dmesg | grep Xid` and NVIDIA's Xid catalogue",
}
RESTART: Final = {
    8: "GPU stopped processing",
    11: "invalid or corrupted push buffer stream",
    13: "graphics engine exception",
    31: "memory page fault: an address that is not the program's",
    32: "invalid or corrupted push buffer stream",
    43: "GPU stopped processing for a program",
    60: "video processor exception",
    68: "video decoder exception",
    69: "graphics engine class error",
    80: "corrupted data sent to the GPU",
    86: "optical flow engine exception",
    94: "memory error, contained to one program",
}
RESET: Final = {
    46: "GPU stopped processing",
    48: "double bit memory error",
    62: "the power controller halted",
    64: "a bad row of memory could not be recorded",
    74: "NVLink error",
    95: "memory error, not contained to one program",
    109: "context switch timed out",
    110: "security fault",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    136: "NVLink did not train",
    140: "unrecovered memory error",
    143: "the GPU did not start",
    155: "NVLink error",
    156: "a part of the GPU was retired",
    158: "the GPU does not answer",
}
REBOOT: Final = {79: "the GPU has fallen off the bus", 151: "key rotation failed"}
NOTHING: Final = {
    45: "channels removed, after another error or a program's end",
    63: "a bad row of memory was recorded, and is replaced at the next reset",
    66: "illegal access by the driver",
    67: "illegal access by the driver",
    92: "many corrected memory errors",
    93: "infoROM written too often",
    106: "test message",
    107: "test message",
    121: "corrected error on the link to the CPU",
    137: "NVLink access without the right to it",
    141: "unrecoverable error of a fast path",
    154: "the GPU's recovery action has changed",
    157: "a part of the GPU could not be retired",
    160: "a channel of the GPU's memory was retired",
}
COPY_ENGINES: Final = (*range(39, 42), *range(70, 73), *range(75, 78), 85, *range(126, 136))
VIDEO_ENGINES: Final = (82, 83, 84, 88, 89, *range(96, 106))
KNOWN: Final[dict[int, tuple[str, Cure]]] = {
    **dict.fromkeys(COPY_ENGINES, ("copy engine exception", Cure.RESTART)),
    **dict.fromkeys(VIDEO_ENGINES, ("media engine exception", Cure.RESTART)),
    **{number: (meaning, Cure.RESTART) for number, meaning in RESTART.items()},
    **{number: (meaning, Cure.RESET) for number, meaning in RESET.items()},
    **{number: (meaning, Cure.REBOOT) for number, meaning in REBOOT.items()},
    **{number: (meaning, Cure.NOTHING) for number, meaning in NOTHING.items()},
}


@dataclass(frozen=True, slots=True)
class Xid:
    """An error: its number, what it means, and what cures it."""

    number: int
    meaning: str
    cure: Cure

    @property
    def name(self) -> str:
        """The number and what it means."""
        number = "of unknown number" if self.number == UNKNOWN_XID else str(self.number)
        return f"XID {number} ({self.meaning})"

    def sentence(self, gpu_index: int) -> str:
        """Return its name, and what to do."""
        return f"{self.name}: {WORDS[self.cure].format(index=gpu_index)}"


def explain(number: int) -> Xid:
    """Return what a number means."""
    meaning, cure = KNOWN.get(number, ("no meaning known here", Cure.UNKNOWN))
    return Xid(number, meaning, cure)
