"""Answers of N slices made into the one that a single Triton would give. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

READY: Final = "READY"
_RANK: Final = {READY: 0, "LOADING": 1, "UNLOADING": 2, "UNAVAILABLE": 3, "": 4}
"""The state that counts when slices disagree comes first; Triton leaves it out for what is in
the repository and was never loaded."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A server's name, version and extensions, in its order."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of one model in a repository index; what Triton leaves out is empty."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """A registered shared-memory region; `key`, `offset` of system memory, `device_id` of CUDA's."""

    name: str
    byte_size: int
    key: str = ""
    offset: int = 0
    device_id: int = 0


def merge_metadata(servers: Sequence[Metadata]) -> Metadata:
    """Return the lowest version and the extensions that all of `servers` (one at least) have."""
    lowest = min(servers, key=lambda server: _version_key(server.version))
    everywhere = set.intersection(*(set(server.extensions) for server in servers))
    kept = tuple(name for name in servers[0].extensions if name in everywhere)
    return Metadata(servers[0].name, lowest.version, kept)


def merge_index(slices: Mapping[str, Sequence[IndexEntry]]) -> list[IndexEntry]:
    """
    Return one index for the indices of `slices`, by slice name.

    A version is READY when it is so anywhere, since inference goes only there. Where slices
    disagree the reason tells which are in which other state.
    """
    found: dict[tuple[str, str], dict[str, IndexEntry]] = {}
    for name, entries in slices.items():
        for entry in entries:
            found.setdefault((entry.name, entry.version), {})[name] = entry
    versioned = {name for name, version in found if version}
    merged = [
        _one_entry(key, by_slice, list(slices))
        for key, by_slice in found.items()
        if key[1] or key[0] not in versioned
    ]
    return sorted(merged, key=lambda entry: (entry.name, _version_key(entry.version)))


def merge_regions(slices: Sequence[Sequence[Region]]) -> list[Region]:
    """Return the regions that are registered alike on every slice: those usable everywhere."""
    if not slices:
        return []
    everywhere = set(slices[0]).intersection(*(set(regions) for regions in slices[1:]))
    return sorted(everywhere, key=lambda region: region.name)


def _one_entry(
    key: tuple[str, str], by_slice: Mapping[str, IndexEntry], names: Sequence[str]
) -> IndexEntry:
    state = min((entry.state for entry in by_slice.values()), key=_rank)
    reasons = [entry.reason for entry in by_slice.values() if entry.state == state and entry.reason]
    if state in ("", "UNAVAILABLE"):
        return IndexEntry(*key, state, "".join(reasons[:1]))  # nowhere, whatever it is called
    others: dict[str, list[str]] = {}
    for name in names:
        entry = by_slice.get(name)
        if entry is None or entry.state != state:
            others.setdefault(_other_state(entry), []).append(name)
    notes = [f"{other} on {', '.join(where)}" for other, where in others.items()]
    return IndexEntry(*key, state, "; ".join(reasons[:1] + notes))


def _other_state(entry: IndexEntry | None) -> str:
    if entry is None or not entry.state:
        return "not loaded"
    return f"{entry.state} ({entry.reason})" if entry.reason else entry.state


def _rank(state: str) -> int:
    return _RANK.get(state, _RANK["UNAVAILABLE"])


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Order 2.9 before 2.10, and what is no number after what is."""
    return tuple(
        (int(part), "") if part.isascii() and part.isdigit() and len(part) < 20 else (2**64, part)
        for part in version.split(".")
    )
