"""
Discovery: which slices there are, from the configuration and from the launcher's inventory file.

To add a source: write a class with `poll()` (see Source) and give it to Discovery in plane.py.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from contract import inventory
from contract.slice_spec import SliceSpec
from gateway.fleet.registry import SliceRegistry

log = structlog.get_logger()

POLL_S: Final = 0.5

Signature = tuple[int, int, int]


class Source(Protocol):
    """Somewhere slices are named."""

    name: str

    def poll(self) -> tuple[SliceSpec, ...]:
        """
        Return the slices as of now; called twice a second, in a thread.

        A source that cannot tell returns what it last knew, and logs why once.
        """


class StaticSource:
    """The slices of the configuration file."""

    def __init__(self, specs: Sequence[SliceSpec]) -> None:
        self.name = "configuration"
        self._specs = tuple(specs)

    def poll(self) -> tuple[SliceSpec, ...]:
        return self._specs


class InventorySource:
    """
    The launcher's inventory file, read whenever it has changed.

    No file yet means no slices yet. A file that cannot be used, or one that has gone, leaves the
    slices as they were: whether they live is what the checks are for, and a slip in a file must
    not stop servers that serve.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._specs: tuple[SliceSpec, ...] = ()
        self._seen: Signature | None = None
        self._asked = False

    def poll(self) -> tuple[SliceSpec, ...]:
        # The signature is taken before the file is read: a change in between is seen next time.
        signature = self._signature()
        if self._asked and signature == self._seen:
            return self._specs
        self._asked, self._seen = True, signature
        try:
            specs = inventory.load(self._path)
        except FileNotFoundError:
            if self._specs:
                log.warning("inventory.vanished", path=self.name, kept=len(self._specs))
            else:
                log.warning("inventory.missed", path=self.name, hint="waiting for the launcher")
        except inventory.InventoryError as error:
            log.error("inventory.refused", reason=str(error), kept=len(self._specs))
        else:
            log.info("inventory.read", path=self.name, slices=len(specs))
            self._specs = specs
        return self._specs

    def _signature(self) -> Signature | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


class Discovery:
    """Asks the sources in turn and keeps the registry equal to what they say together."""

    def __init__(self, registry: SliceRegistry, sources: Sequence[Source]) -> None:
        self._registry = registry
        self._sources = tuple(sources)
        self._current: tuple[SliceSpec, ...] | None = None
        self._clashes: frozenset[tuple[str, str]] = frozenset()

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.round()
            except Exception:
                log.exception("discovery.failed")

    async def round(self) -> None:
        """Ask every source once and carry out what has changed."""
        # In a thread: a file system may hang, and the relay shares this loop.
        found = await asyncio.to_thread(self._poll)
        specs = self._merge(found)
        if specs != self._current:
            self._current = specs
            self._registry.replace(specs)

    def _poll(self) -> list[tuple[str, tuple[SliceSpec, ...]]]:
        return [(source.name, source.poll()) for source in self._sources]

    def _merge(self, found: Sequence[tuple[str, tuple[SliceSpec, ...]]]) -> tuple[SliceSpec, ...]:
        """Join the sources' slices; where two give one name, the earlier source's slice stands."""
        merged: dict[str, SliceSpec] = {}
        origin: dict[str, str] = {}
        clashes = set()
        for source, specs in found:
            for spec in specs:
                if spec.name in merged:
                    clashes.add((spec.name, source))
                else:
                    merged[spec.name], origin[spec.name] = spec, source
        for name, source in sorted(clashes - self._clashes):
            log.error(
                "slice.name_clashed", name=name, kept=origin[name], ignored=source,
                hint="give one of them another name",
            )  # fmt: skip
        self._clashes = frozenset(clashes)
        return tuple(merged.values())
