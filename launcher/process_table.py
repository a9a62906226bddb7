"""
Processes as Linux shows them in /proc, told apart for certain.

A pid alone names nothing for long: it is recycled. A process is named here by its pid and the boot
and clock tick it started at, which together are never given twice. (Not by wall-clock start time,
as psutil does: that moves when the clock is set.)
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
START_TICKS_FIELD: Final = 19
"""Field 22 of /proc/PID/stat, counted from 0 after the command's closing parenthesis."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """
    One process, for ever.

    Attributes:
        pid: Process id.
        started: Boot id and clock ticks since that boot, `BOOT/TICKS`.
    """

    pid: int
    started: str


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the process that has `pid` now; None for none, or a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command stands in parentheses and may itself contain spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in ("Z", "X"):
        return None
    return ProcessId(pid, f"{_boot_id()}/{fields[START_TICKS_FIELD]}")


def is_running(process: ProcessId | None) -> bool:
    """Whether exactly this process still runs."""
    return process is not None and identify(process.pid) == process


def command_line(pid: int) -> str:
    """Return the arguments of `pid` joined by spaces; empty when it is gone or a zombie."""
    try:
        data = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return data.replace(b"\0", b" ").decode(errors="replace").strip()


def pids_with_argument(markers: Sequence[str]) -> dict[str, list[int]]:
    """
    Return for each marker the running processes of this user whose command line contains it.

    Made for markers that nobody else can have by chance (a random token).
    """
    found: dict[str, list[int]] = {marker: [] for marker in markers}
    for pid in _own_pids():
        line = command_line(pid)
        for marker in markers:
            if marker in line:
                found[marker].append(pid)
    return found


def pids_with_environment(name: str, value: str) -> list[int]:
    """Return the running processes of this user that were started with `name=value`."""
    wanted = f"{name}={value}".encode()
    pids = []
    for pid in _own_pids():
        try:
            data = (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        if wanted in data.split(b"\0") and identify(pid) is not None:
            pids.append(pid)
    return pids


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The pidfd pins whoever has the pid now; only then does the comparison mean anything.
        if not is_running(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _own_pids() -> Iterator[int]:
    user, own = os.getuid(), os.getpid()
    for entry in os.scandir(PROC):
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            if entry.stat().st_uid == user:
                yield int(entry.name)
        except OSError:
            continue


@cache
def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
