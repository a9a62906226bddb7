"""What is up, as the state file says and the process table confirms."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from launcher import reservation, state
from launcher.errors import LauncherError
from launcher.runtime import Runtime, Sight
from launcher.runtimes import open_runtime
from launcher.state import JobRecord, ServerRecord, State, StateStore

LOOK_S: Final = 5
"""An engine that does not answer for so long is itself what there is to tell."""


@dataclass(frozen=True, slots=True)
class Status:
    """
    What belongs to one state folder.

    Attributes:
        state: None when nothing is up.
        launcher_pid: Who supervises; None when that launcher has ended (it was killed).
        sights: By marker, what can be seen of each server; None: it does not run.
        problem: Why nothing can be seen, in a sentence; empty when all is well.
    """

    folder: Path
    state: State | None
    launcher_pid: int | None
    sights: Mapping[str, Sight | None] = field(default_factory=dict)
    problem: str = ""


def read(folder: Path) -> Status:
    """Return the status. Raises LauncherError: the state file cannot be understood."""
    holder = state.holder_of(folder)
    pid = holder.process.pid if holder and holder.command == "up" else None
    return seen(folder, StateStore(folder).load(), pid)


def seen(folder: Path, found: State | None, pid: int | None) -> Status:
    """Return the status of what is on record, as far as it can be seen; may be called in a thread."""
    if found is None:
        return Status(folder, None, pid)
    try:
        runtime = open_runtime(found.runtime, timeout_s=LOOK_S)
        sights = {record.handle.marker: _sight(runtime, record) for record in found.servers}
    except LauncherError as error:
        return Status(folder, found, pid, problem=str(error))
    return Status(folder, found, pid, sights)


def _sight(runtime: Runtime, record: ServerRecord) -> Sight | None:
    return runtime.look(record.handle)


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
        "runtime": found.runtime if found else None,
        "problem": status.problem or None,
        "slices": [_slice(record, status) for record in servers],
        "jobs": [_job(record, status) for record in (found.jobs if found else ())],
    }


def _slice(record: ServerRecord, status: Status) -> dict[str, Any]:
    member = record.spec.member
    sight = status.sights.get(record.handle.marker)
    supervised = status.launcher_pid is not None
    return {
        "name": member.name,
        "profile": member.profile,
        "mig_uuid": member.mig_uuid,
        "simulated": member.simulated,
        "http": str(member.http),
        "grpc": str(member.grpc),
        "metrics": str(member.metrics) if member.metrics else None,
        "weight": member.weight,
        "state": "unknown" if status.problem else _word(record, sight is not None, supervised),
        "pid": sight.pid if sight else None,
        "container": sight.container or None if sight else None,
        "restarts": record.restarts,
        "reason": record.reason,
        "warning": record.warning,
        "log": record.log,
        "lent_to": _lent_to(record, status),
    }


def _lent_to(record: ServerRecord, status: Status) -> str | None:
    """Return the job that has the slice: its name, or the marker of one that was begun by hand."""
    name = record.spec.member.name
    if not reservation.is_held(status.folder, name):
        return None
    for job in status.state.jobs if status.state else ():
        if job.slice_name == name and job.state != "ended":
            return job.name
    return reservation.marker_of(status.folder, name).rstrip("_")


def _job(record: JobRecord, status: Status) -> dict[str, Any]:
    settings = json.loads(record.settings)
    running = record.state == "running"
    return {
        "name": record.name,
        "slice": record.slice_name,
        "image": settings["image"] or None,
        "command": settings["command"],
        "restart": settings["restart"],
        "state": record.state,
        "container": record.handle.marker.rstrip("_") if running and settings["image"] else None,
        "pid": record.handle.process.pid if running and record.handle.process else None,
        "restarts": record.restarts,
        "exit_code": record.exit_code,
        "reason": record.reason,
        "log": record.log,
    }


def _word(record: ServerRecord, running: bool, supervised: bool) -> str:
    """Return the recorded state while someone keeps the record true, else what can be seen."""
    if supervised:
        # Between a death and the supervisor's noticing, the record is a moment behind.
        return "restarting" if record.state == "ready" and not running else record.state
    if record.state == "lent" and not running:
        return "lent"  # the job goes on
    return "unsupervised" if running else "dead"
