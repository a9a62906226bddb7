"""`down`: stop what `up` started, whether its launcher still runs, hangs, or was killed."""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher import apply, partitioners, process_table, state
from launcher.config import LauncherConfig
from launcher.errors import BusyError
from launcher.mig_partition import MigPartitioner
from launcher.runtimes import open_runtime
from launcher.state import State, StateStore
from launcher.teardown import teardown

LAUNCHER_PATIENCE_S: Final = 30.0
"""What a launcher may take to stop beyond its servers' own limit, before it is killed."""
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Stopped:
    """
    What `down` found and stopped.

    Attributes:
        state: What was up; None when a launcher was stopped before it had made anything.
        launcher_pid: The launcher that was told to stop; None when there was none any more.
    """

    state: State | None
    launcher_pid: int | None


async def down(folder: Path, stop_timeout_s: float) -> Stopped | None:
    """
    Stop everything that belongs to a state folder.

    Returns:
        What was stopped; None when nothing was up.

    Raises:
        LauncherError: Something could not be removed; it stays on record, and may be tried again.
        BusyError: The launcher that holds the folder does not let go of it even when killed.
    """
    store = StateStore(folder)
    if not state.lock_path(folder).exists():
        return None
    seen = store.load()
    asked: int | None = None
    loop = asyncio.get_running_loop()
    kill_at_s = loop.time() + stop_timeout_s + LAUNCHER_PATIENCE_S
    while True:
        try:
            with state.hold(folder, "down"):
                left = store.load()
                if left is not None:
                    seen = left
                    await _take_down(store, left, stop_timeout_s)
            return Stopped(seen, asked) if seen or asked else None
        except BusyError:
            holder = state.holder_of(folder)
            late_s = loop.time() - kill_at_s
            if late_s > LAUNCHER_PATIENCE_S:
                raise
        if holder is not None and holder.command == "up":
            if late_s > 0:
                process_table.send(holder.process, signal.SIGKILL)
            elif asked is None:
                asked = holder.process.pid
                process_table.send(holder.process, signal.SIGTERM)
        await asyncio.sleep(POLL_S)


def steps(found: State | None, disables_mig: bool) -> list[str]:
    """Return what `down` would do, a line for each step; empty when nothing is up."""
    if found is None:
        return []
    names = ", ".join(record.spec.member.name for record in found.servers)
    would = [f"stop {names}"] if names else []
    would += [
        f"destroy {record.profile} at {record.placement} of {record.gpu_uuid}"
        for record in found.instances
    ]
    would += [
        f"make again the instance of profile {other.profile_id} at {other.placement} of "
        f"{other.gpu_uuid}, which `up --force` destroyed"
        for other in found.found
    ]
    if found.mps is not None:
        would.append(f"stop the MPS control daemon of {', '.join(found.mps.gpus)}")
    would += [
        f"switch MIG mode off on {uuid}, which `up` switched on" for uuid in found.mig_enabled
    ]
    if disables_mig:
        would.append(f"switch MIG mode off on {found.gpu}, whoever switched it on")
    return would


async def _take_down(store: StateStore, left: State, stop_timeout_s: float) -> None:
    partitioner = partitioners.open_partitioner(left.gpu, store.path.parent)
    try:
        runtime = open_runtime(left.runtime, LauncherConfig(state_dir=store.path.parent))
        await teardown(store, partitioner, runtime, stop_timeout_s, asyncio.Event())
    finally:
        partitioner.close()


def disable_mig(gpu: str | None, folder: Path) -> list[str]:
    """
    Switch MIG mode off on the GPUs that `gpu` means; return the names of those that had it on.

    Raises:
        LauncherError: A GPU is in use, still has instances, or needs a reset.
    """
    partitioner = partitioners.open_partitioner(partitioners.resolve(gpu), folder)
    try:
        if not isinstance(partitioner, MigPartitioner):
            return []
        return apply.disable_mig(partitioner.gpus)
    finally:
        partitioner.close()
