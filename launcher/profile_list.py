"""`profiles`: what each GPU of a host can be cut into."""

from pathlib import Path
from typing import Any

from launcher import drivers, partitioners, tables


def documents(gpu: str | None, state_dir: Path) -> list[dict[str, Any]]:
    """Return one document for each GPU that `gpu` means. Raises LauncherError."""
    name = partitioners.resolve(gpu)
    host = drivers.open_host(name.removeprefix(f"{partitioners.MPS}:"), state_dir)
    try:
        return [tables.profiles_dict(driver) for driver in host.gpus.values()]
    finally:
        host.nvml.close()
