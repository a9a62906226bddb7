"""CPU time and memory of a program with all its threads and children, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_RESET_PEAK: Final = "5"
"""Written to /proc/PID/clear_refs, sets the peak of the resident size back (proc(5))."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """The CPU fields of /proc/PID/stat, in seconds; a process counts all its threads."""

    own_s: float
    ended_children_s: float


def cpu_seconds(root: int) -> float:
    """
    Return the CPU time so far of process `root` and all its descendants.

    Linux scales utime and stime to the scheduler's exact run time, so the sum is good to one
    tick (10 ms). Children that ended are counted by whoever waited for them.

    Raises:
        ProcessLookupError: `root` has ended.
    """
    total = 0.0
    for pid in descendants(root):
        try:
            times = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            if pid == root:
                raise ProcessLookupError(f"process {root} has ended") from None
            continue
        total += times.own_s + times.ended_children_s
    return total


def parse_stat(text: str) -> CpuTimes:
    """Read the CPU times from the text of /proc/PID/stat; the name may hold spaces and ')'."""
    fields = text.rpartition(")")[2].split()
    utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
    return CpuTimes((utime + stime) / TICKS_PER_S, (cutime + cstime) / TICKS_PER_S)


def peak_rss_bytes(root: int) -> int:
    """
    Return the sum of the peak resident sizes of `root` and its descendants.

    Pages that processes share count in each of them: an upper bound for several workers.
    """
    return sum(_status_kib(pid, "VmHWM") for pid in descendants(root)) * 1024


def rss_bytes(root: int) -> int:
    """Return the sum of the resident sizes of `root` and its descendants now."""
    return sum(_status_kib(pid, "VmRSS") for pid in descendants(root)) * 1024


def reset_peak_rss(root: int) -> bool:
    """Set the peaks back to the present sizes; False where the kernel does not let us."""
    try:
        for pid in descendants(root):
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def descendants(root: int) -> list[int]:
    """Return `root` and its living children, their children, and so on."""
    try:
        children = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return [root]
    return [root, *(child.pid for child in children)]


def _status_kib(pid: int, key: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0
