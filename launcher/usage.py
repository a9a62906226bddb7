"""What the driver says of the GPUs that are in use, added to the status."""

from pathlib import Path
from typing import Any

from launcher import drivers, partitioners
from launcher.errors import LauncherError
from launcher.mig import Memory, MigDriver, MigError


def add(document: dict[str, Any], folder: Path) -> None:
    """
    Add `gpus`, and the memory of each slice, to `status.as_dict`.

    A driver that does not answer is itself worth telling: then `gpus` is empty and `gpu_error` says
    why. Simulated devices have no memory of their own to tell of.
    """
    document["gpus"], document["gpu_error"] = [], ""
    for member in document["slices"]:
        member["memory_mib"] = None
    if not document["up"]:
        return
    name = str(document["gpu"]).removeprefix(f"{partitioners.MPS}:")
    try:
        host = drivers.open_host(name, folder)
    except LauncherError as error:
        document["gpu_error"] = str(error)
        return
    try:
        used = {pid: mib for driver in host.gpus.values() for pid, mib in _by_process(driver)}
        document["gpus"] = [_gpu(driver) for driver in host.gpus.values()]
        for member in document["slices"]:
            if member["simulated"]:
                continue
            found = _of_device(list(host.gpus.values()), member["mig_uuid"])
            if found is None and member["pid"] in used:
                found = {"used": used[member["pid"]], "total": None}
            member["memory_mib"] = found
    except MigError as error:
        document["gpu_error"] = str(error)
    finally:
        host.nvml.close()


def _gpu(driver: MigDriver) -> dict[str, Any]:
    gpu = driver.gpu()
    return {
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "simulated": gpu.simulated,
        "mig_mode": driver.mig_mode()[0],
        "memory_mib": _dict(driver.memory()),
    }


def _of_device(drivers_: list[MigDriver], mig_uuid: str) -> dict[str, int | None] | None:
    for driver in drivers_ if mig_uuid else ():
        memory = _dict(driver.memory(mig_uuid))
        if memory is not None:
            return memory
    return None


def _by_process(driver: MigDriver) -> list[tuple[int, int]]:
    return [(p.pid, p.memory_mib) for p in driver.processes() if p.memory_mib is not None]


def _dict(memory: Memory | None) -> dict[str, int | None] | None:
    return {"used": memory.used_mib, "total": memory.total_mib} if memory else None
