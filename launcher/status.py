"""What is up, as the state file says and the process table confirms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import process_table, state
from launcher.state import ServerRecord, State, StateStore


@dataclass(frozen=True, slots=True)
class Status:
    """
    What belongs to one state folder.

    Attributes:
        state: None when nothing is up.
        launcher_pid: Who supervises; None when that launcher has ended (it was killed).
    """

    folder: Path
    state: State | None
    launcher_pid: int | None


def read(folder: Path) -> Status:
    """Return the status. Raises LauncherError: the state file cannot be understood."""
    holder = state.holder_of(folder)
    pid = holder.process.pid if holder and holder.command == "up" else None
    return Status(folder, StateStore(folder).load(), pid)


def as_dict(status: Status) -> dict[str, Any]:
    """Return the status for `--json`."""
    found = status.state
    servers = found.servers if found else ()
    return {
        "up": found is not None,
        "gpu": found.gpu if found else None,
        "simulated": any(record.spec.member.simulated for record in servers),
        "launcher_pid": status.launcher_pid,
        "state_dir": str(status.folder),
        "inventory": found.inventory if found else None,
        "slices": [_slice(record, status.launcher_pid is not None) for record in servers],
    }


def _slice(record: ServerRecord, supervised: bool) -> dict[str, Any]:
    member = record.spec.member
    process = record.handle.process
    running = process_table.is_running(process)
    return {
        "name": member.name,
        "profile": member.profile,
        "mig_uuid": member.mig_uuid,
        "simulated": member.simulated,
        "http": str(member.http),
        "grpc": str(member.grpc),
        "metrics": str(member.metrics) if member.metrics else None,
        "weight": member.weight,
        "state": _word(record, running, supervised),
        "pid": process.pid if process and running else None,
        "restarts": record.restarts,
        "reason": record.reason,
        "log": record.log,
    }


def _word(record: ServerRecord, running: bool, supervised: bool) -> str:
    """Return the recorded state while someone keeps the record true, else what can be seen."""
    if supervised:
        # Between a death and the supervisor's noticing, the record is a moment behind.
        return "restarting" if record.state == "ready" and not running else record.state
    return "unsupervised" if running else "dead"
