"""`up`: from GPUs as they are to servers that run, and back when told to stop; and `plan`."""

from collections.abc import Callable

from launcher import partitioners, state
from launcher.config import LauncherConfig
from launcher.mig_partition import MigPartitioner
from launcher.plan import Plan
from launcher.progress import Progress
from launcher.session import Session
from launcher.shares import SharePlan
from launcher.state import State, StateStore


async def up(
    config: LauncherConfig,
    progress: Progress,
    force: bool,
    on_up: Callable[[State], None],
    enable_mig: bool = False,
) -> int:
    """
    Bring everything up, supervise it until a signal, take everything down.

    Args:
        config: What is wanted.
        progress: Told what happens until everything is ready.
        force: Destroy others' GPU instances where they are in the way.
        on_up: Called once, when everything is ready.
        enable_mig: MIG mode may be switched on.

    Returns:
        0 after a signal; 130 when the signal came before everything was ready.

    Raises:
        LauncherError: It cannot be done; nothing of what this call began is left.
    """
    gpu = partitioners.resolve(config.gpu)
    with state.hold(config.state_dir, "up"):
        return await Session(config, gpu, progress, force, enable_mig).run(on_up)


def plan_only(config: LauncherConfig, force: bool) -> Plan | SharePlan:
    """Return what `up` would do now; changes nothing. Raises LauncherError."""
    gpu = partitioners.resolve(config.gpu)
    partitioner = partitioners.open_partitioner(gpu, config.state_dir)
    try:
        earlier = StateStore(config.state_dir).load()
        found = earlier if earlier and earlier.gpu == gpu else None
        if isinstance(partitioner, MigPartitioner):
            return partitioner.plan(config, found, force)
        return partitioner.divide(config, found, force, enable_mig=False).plan
    finally:
        partitioner.close()
