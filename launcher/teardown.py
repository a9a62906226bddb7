"""Removes exactly what the state file says the launcher made; safe to repeat after a crash."""

import asyncio
from pathlib import Path

import structlog

from contract import inventory
from launcher import stopping
from launcher.partition import Partitioner
from launcher.runtime import Runtime
from launcher.state import State, StateStore

log = structlog.get_logger()


async def teardown(
    store: StateStore,
    partitioner: Partitioner,
    runtime: Runtime,
    stop_timeout_s: float,
    hurry: asyncio.Event,
) -> None:
    """
    Remove the inventory, stop the servers, destroy the instances, forget the state: in this order,
    so that what is left after a failure is still on record.

    Raises:
        GpuError: An instance is still in use by somebody else.
    """
    state = store.state
    assert state is not None, "teardown() without state"
    remove_inventory(state)
    async with asyncio.TaskGroup() as tasks:
        handles = [record.handle for record in state.servers]
        tasks.create_task(stopping.stop(handles, runtime, stop_timeout_s, hurry))
        tasks.create_task(stopping.stop_jobs(store.path.parent, stop_timeout_s, hurry))
    await stopping.sweep_unknown(runtime, set)
    store.change(servers=(), jobs=())
    partitioner.uncut(store)
    store.remove()
    log.info("launcher.stopped", slices=len(state.servers), gpu=state.gpu)


def remove_inventory(state: State) -> None:
    """Remove the inventory if it is the one this launcher wrote; another's stays."""
    path = Path(state.inventory)
    try:
        listed = inventory.load(path)
    except FileNotFoundError:
        return
    except inventory.InventoryError as error:
        log.warning("inventory.kept", reason=str(error))
        return
    ours = {record.spec.member for record in state.servers}
    if not ours.issuperset(listed):
        log.warning("inventory.kept", path=str(path), reason="somebody else wrote it since")
        return
    path.unlink(missing_ok=True)
    log.info("inventory.removed", path=str(path))
