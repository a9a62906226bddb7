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
from gateway.config import Config, ConfigError
from gateway.control.reload import Step
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

    @property
    def path(self) -> Path:
        return self._path

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


def configured_sources(config: Config, known: Sequence[InventorySource] = ()) -> list["Source"]:
    """
    Return the sources that `config` names, the one that wins a clash of names first.

    Args:
        known: Those in use: one that is named again goes on with what it has read.
    """
    sources: list[Source] = [StaticSource(config.specs)]
    if config.inventory is not None:
        same = [source for source in known if source.path == config.inventory]
        sources.append(same[0] if same else InventorySource(config.inventory))
    return sources


def _poll(sources: Sequence[Source]) -> list[tuple[str, tuple[SliceSpec, ...]]]:
    return [(source.name, source.poll()) for source in sources]


class Discovery:
    """Asks the sources in turn and keeps the registry equal to what they say together."""

    def __init__(self, registry: SliceRegistry, sources: Sequence[Source]) -> None:
        self._registry = registry
        self._sources = tuple(sources)
        self._current: tuple[SliceSpec, ...] | None = None
        self._clashes: frozenset[tuple[str, str]] = frozenset()
        self._asking = asyncio.Lock()

    def prepare(self, config: Config) -> Step:
        """
        Make the sources those of `config`; as a ReloadTarget.

        An inventory under another name must be there already, unlike at the start: its slices take
        the place of those that serve now.

        Raises:
            ConfigError: It is not, or cannot be used.
        """
        known = [source for source in self._sources if isinstance(source, InventorySource)]
        if config.inventory is not None and config.inventory not in [one.path for one in known]:
            try:
                inventory.load(config.inventory)
            except FileNotFoundError:
                raise ConfigError(
                    [f"inventory: there is no {config.inventory}, and its slices would replace "
                     "those that serve now"]
                ) from None  # fmt: skip
            except inventory.InventoryError as error:
                raise ConfigError([f"inventory: {error}"]) from None
        sources = configured_sources(config, known)
        return Step(lambda: self._use(sources))

    def _use(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

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
        async with self._asking:
            # In a thread: a file system may hang, and the relay shares this loop.
            sources = self._sources
            found = await asyncio.to_thread(_poll, sources)
            if sources is not self._sources:
                return  # a reload came in between, and asks again itself
            specs = self._merge(found)
            if specs != self._current:
                self._current = specs
                self._registry.replace(specs)

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
