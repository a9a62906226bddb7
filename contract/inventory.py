"""
The inventory: the one file through which the gateway learns of slices.

The launcher writes it, the gateway watches it; either restarts alone. The format is versioned JSON:

    {"version": 1, "simulated": true, "slices": [
        {"name": "s0", "http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001",
         "metrics": "127.0.0.1:8002", "weight": 1, "mig_uuid": "MIG-…", "profile": "1g.5gb",
         "simulated": true,
         "place": {"gpu": "GPU-…", "gpu_name": "NVIDIA A100-SXM4-40GB", "start": 0, "size": 1,
                   "slots": 8}}]}

`simulated` at the top says whether any slice is; a reader needs only those of the slices. Keys that
a reader does not know are ignored, so that a newer launcher can serve an older gateway; a change
that an old reader would misunderstand raises the version.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from contract.files import read_whole, write_atomically
from contract.slice_spec import Endpoint, Place, SliceSpec

VERSION: Final = 1
SLICES_MAX: Final = 512
"""More than any host holds (16 GPUs of 7 slices); a bound on what a foreign file can make us do."""
FILE_BYTES_MAX: Final = 4 * 1024 * 1024


class InventoryError(Exception):
    """The file cannot be used; the message says which file, where in it, and what was expected."""


def dump(slices: Sequence[SliceSpec]) -> str:
    """Return the inventory's text."""
    return json.dumps(
        {
            "version": VERSION,
            "simulated": any(member.simulated for member in slices),
            "slices": [_entry(member) for member in slices],
        },
        indent=2,
    )


def save(path: Path, slices: Sequence[SliceSpec]) -> None:
    """Write the inventory atomically. Raises OSError when it cannot be written."""
    write_atomically(path, dump(slices) + "\n")


def load(path: Path) -> tuple[SliceSpec, ...]:
    """
    Read the inventory at `path`.

    Raises:
        FileNotFoundError: There is none (yet).
        InventoryError: There is one, but it is not a whole, valid inventory.
    """
    try:
        data = read_whole(path, FILE_BYTES_MAX)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InventoryError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise InventoryError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    return parse(data, str(path))


def parse(data: bytes, source: str) -> tuple[SliceSpec, ...]:
    """Read an inventory from `data`; `source` names it in errors. Raises InventoryError."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InventoryError(f"{source}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise InventoryError(f"{source}: version is {found!r}, this program reads {VERSION}")
    entries = document.get("slices")
    if not isinstance(entries, list) or len(entries) > SLICES_MAX:
        raise InventoryError(f"{source}: slices must be a list of at most {SLICES_MAX}")
    slices = tuple(_spec(entry, f"{source}: slices[{i}]") for i, entry in enumerate(entries))
    names = [member.name for member in slices]
    for name in names:
        if names.count(name) > 1:
            raise InventoryError(f"{source}: two slices are named {name!r}")
    return slices


def _entry(member: SliceSpec) -> dict[str, Any]:
    return {
        "name": member.name,
        "http": str(member.http),
        "grpc": str(member.grpc),
        "metrics": str(member.metrics) if member.metrics else None,
        "weight": member.weight,
        "mig_uuid": member.mig_uuid,
        "profile": member.profile,
        "simulated": member.simulated,
        "place": asdict(member.place) if member.place else None,
    }


def _spec(entry: object, where: str) -> SliceSpec:
    if not isinstance(entry, dict):
        raise InventoryError(f"{where}: must be an object, not {type(entry).__name__}")
    try:
        return SliceSpec(
            name=_typed(entry, "name", str),
            http=Endpoint.parse(_typed(entry, "http", str)),
            grpc=Endpoint.parse(_typed(entry, "grpc", str)),
            metrics=Endpoint.parse(entry["metrics"]) if entry.get("metrics") else None,
            weight=float(_typed(entry, "weight", (int, float), default=1.0)),
            mig_uuid=_typed(entry, "mig_uuid", str, default=""),
            profile=_typed(entry, "profile", str, default=""),
            simulated=_typed(entry, "simulated", bool, default=False),
            place=_place(entry.get("place")),
        )
    except (ValueError, AttributeError) as error:
        raise InventoryError(f"{where}: {error}") from error


def _place(entry: object) -> Place | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise ValueError(f"place is {entry!r}")
    return Place(
        _typed(entry, "gpu", str),
        _typed(entry, "gpu_name", str, default=""),
        *(_typed(entry, key, int) for key in ("start", "size", "slots")),
    )


def _typed(entry: dict[str, Any], key: str, kind: Any, default: Any = None) -> Any:
    value = entry.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is {value!r}")
    return value
