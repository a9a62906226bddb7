"""
Journal: what clients have changed on all slices, so that a slice that comes later gets it too.

Kept in memory and in a file beside the gateway's state file. It holds states, not a history: for
each model its last unload and load, the regions that are registered, the settings that were made.
So its size is bounded by what there is, and replaying it twice changes nothing.

The file is JSON and belongs to the gateway:

    {"version": 1,
     "models": {"flower": {"unload": {}, "load": {"parameters": {"config": "…"}, "failed_on": []}}},
     "regions": {"input": {"key": "/input", "offset": 0, "byte_size": 64}},
     "regions_known": true, "logging": {"log_verbose_level": 1}, "trace": {"": {"trace_rate": "5"}}}

`unload` comes before `load`: a load alone does not undo an earlier one's override.

A gateway and the one that replaces it share the file for a while: what has changed here and is not
written yet is carried out anew on what the other one has written.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from contract.files import set_aside
from gateway.triton.journal_file import BYTES_MAX, JournalFile

log = structlog.get_logger()

VERSION: Final = 1
MODELS_MAX: Final = 4096
REGIONS_MAX: Final = 16384
UNWRITTEN_MAX: Final = 4096
"""Changes that are carried out anew, when the file cannot be written for long."""
SAVED_PARAMETERS_MAX: Final = 32 * 1024 * 1024
"""Characters of one load's parameters (whole model files may be among them) that are written to
disk; larger ones are kept in memory only."""

LOG_SETTINGS: Final = frozenset(
    {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
)
TRACE_SETTINGS: Final = frozenset(
    {"trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"}
)

Settings = dict[str, object]


@dataclass(slots=True)
class Load:
    """
    A load that some slice took.

    Attributes:
        parameters: Overrides as in the HTTP call's JSON; empty for a plain load.
        failed_on: Slices that refused it when the others took it.
        config_hash: Of the model's configuration after it; empty when it is not known.
    """

    parameters: dict[str, object] = field(default_factory=dict)
    failed_on: tuple[str, ...] = ()
    config_hash: str = ""


@dataclass(slots=True)
class ModelState:
    """What was last done about one model: `unload` (its parameters) came before `load`."""

    unload: dict[str, object] | None = None
    load: Load | None = None


class JournalError(Exception):
    """The journal's file cannot be used; the message says why."""


class Journal:
    """
    The journal.

    Attributes:
        revision: Counts the changes; equal revisions mean equal contents.
        models, regions, logging, trace: See the module; `trace` is by model, "" for all.
        regions_known: Clients have registered or unregistered regions, so that a region on a slice
            that is not in `regions` is a leftover.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.revision = 0
        self.models: dict[str, ModelState] = {}
        self.regions: dict[str, dict[str, object]] = {}
        self.regions_known = False
        self.logging: Settings = {}
        self.trace: dict[str, Settings] = {}
        self._file = JournalFile(path)
        self._writing = asyncio.Lock()
        self._unwritten: list[Callable[[], None]] = []
        self._too_large: dict[str, ModelState] = {}

    # --- what has happened ------------------------------------------------------------------

    def loaded(self, model: str, parameters: dict[str, object], failed_on: tuple[str, ...]) -> Load:
        """A plain load after one with overrides leaves the overrides in force, as in Triton."""
        load = Load(parameters, failed_on)

        def change() -> None:
            state = self.models.setdefault(model, ModelState())
            if not parameters and state.load is not None:
                load.parameters = state.load.parameters
            state.load = load
            self._drop_oldest(self.models, MODELS_MAX)

        self._make(change)
        return load

    def unloaded(self, model: str, parameters: dict[str, object]) -> None:
        def change() -> None:
            self.models.pop(model, None)  # to the end: it is the newest
            self.models[model] = ModelState(unload=parameters)
            self._drop_oldest(self.models, MODELS_MAX)

        self._make(change)

    def registered(self, region: str, description: dict[str, object]) -> None:
        def change() -> None:
            self.regions[region] = description
            self.regions_known = True
            self._drop_oldest(self.regions, REGIONS_MAX)

        self._make(change)

    def unregistered(self, region: str) -> None:
        """`region` is gone; "" for all of them."""

        def change() -> None:
            if region:
                self.regions.pop(region, None)
            else:
                self.regions.clear()
            self.regions_known = True

        self._make(change)

    def logging_set(self, settings: Settings) -> None:
        kept = {k: v for k, v in settings.items() if k in LOG_SETTINGS}
        self._make(lambda: self.logging.update(kept))

    def trace_set(self, model: str, settings: Settings) -> None:
        kept = {k: v for k, v in settings.items() if k in TRACE_SETTINGS}

        def change() -> None:
            self.trace.setdefault(model, {}).update(kept)
            self._drop_oldest(self.trace, MODELS_MAX)

        self._make(change)

    def _make(self, change: Callable[[], None]) -> None:
        change()
        self.revision += 1
        self._unwritten.append(change)
        del self._unwritten[:-UNWRITTEN_MAX]

    @property
    def is_empty(self) -> bool:
        return not (self.models or self.regions_known or self.logging or self.trace)

    @staticmethod
    def _drop_oldest(entries: dict[str, Any], most: int) -> None:
        while len(entries) > most:
            del entries[next(iter(entries))]

    # --- the file ---------------------------------------------------------------------------

    def read(self) -> None:
        """Take over what an earlier run has kept. A file that is not ours is set aside."""
        try:
            data = self._file.read_if_newer()
            if data is None:
                return
            self.restore(data)
        except OSError as error:
            log.error("journal.not_read", path=str(self.path), reason=error.strerror)
        except JournalError as error:
            kept = self._set_aside()
            log.error(
                "journal.refused", path=str(self.path), reason=str(error), kept_as=kept,
                hint="models loaded, regions and settings made through the gateway before are not "
                "repeated on slices that join",
            )  # fmt: skip
        if not self.is_empty:
            self.revision += 1

    async def refresh(self) -> None:
        """Take over what another gateway has written meanwhile; the journal stays when it cannot."""
        if not self._file.is_newer:
            return
        async with self._writing:
            try:
                self._merge(await asyncio.to_thread(self._file.read_if_newer))
            except OSError as error:
                log.error("journal.not_read", path=str(self.path), reason=error.strerror)

    async def save(self) -> None:
        """Write the file if it is behind; failing is logged, the journal in memory counts."""
        async with self._writing:
            if not self._unwritten:
                return
            try:
                self._merge(await asyncio.to_thread(self._file.begin))
                count, text = len(self._unwritten), self.dump()
                await asyncio.to_thread(self._file.commit, text)
                del self._unwritten[:count]
            except OSError as error:
                log.error(
                    "journal.not_written", path=str(self.path), reason=error.strerror,
                    hint="a restart of the gateway would forget the last change",
                )  # fmt: skip
            finally:
                self._file.release()

    def _merge(self, data: bytes | None) -> None:
        """Carry out what is not written yet on what somebody else has written."""
        if data is None:
            return
        try:
            self.restore(data)
        except JournalError as error:
            log.error("journal.refused", path=str(self.path), reason=str(error),
                      hint="it will be replaced by what this gateway knows")  # fmt: skip
            return
        for name, state in self._too_large.items():
            found = self.models.get(name)
            if found is not None and found.load is None and found.unload == state.unload:
                self.models[name] = state
        for change in self._unwritten:
            change()
        self.revision += 1
        log.info("journal.taken_over", path=str(self.path))

    def dump(self) -> str:
        """Return the file's text."""
        models = {name: _model_out(name, state) for name, state in self.models.items()}
        self._too_large = {
            name: state
            for name, state in self.models.items()
            if state.load is not None and "load" not in models[name]
        }
        document = {
            "version": VERSION,
            "models": models,
            "regions": self.regions,
            "regions_known": self.regions_known,
            "logging": self.logging,
            "trace": self.trace,
        }
        return json.dumps(document, indent=1) + "\n"

    def restore(self, data: bytes) -> None:
        """Take over a file's content. Raises JournalError, and changes nothing then."""
        if len(data) > BYTES_MAX:
            raise JournalError(f"larger than {BYTES_MAX} bytes")
        try:
            document = json.loads(data)
            if document["version"] != VERSION:
                raise JournalError(f"version is {document['version']!r}, not {VERSION}")
            models = {name: _model_in(entry) for name, entry in document["models"].items()}
            regions = {name: dict(entry) for name, entry in document["regions"].items()}
            logging = dict(document["logging"])
            trace = {name: dict(entry) for name, entry in document["trace"].items()}
            known = bool(document["regions_known"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise JournalError(f"not a gateway's journal: {error!r}") from None
        self.models, self.regions, self.regions_known = models, regions, known
        self.logging, self.trace = logging, trace

    def _set_aside(self) -> str | None:
        try:
            return set_aside(self.path)
        except OSError as error:
            log.error("journal.not_set_aside", path=str(self.path), reason=str(error))
            return None


def journal_path(state_file: Path) -> Path:
    """Return where the journal is kept: beside the state file."""
    return state_file.with_name(f"{state_file.stem}-journal.json")


def _model_out(name: str, state: ModelState) -> dict[str, object]:
    out: dict[str, object] = {"unload": state.unload}
    load = state.load
    if load is not None:
        size = sum(len(value) for value in load.parameters.values() if isinstance(value, str))
        if size > SAVED_PARAMETERS_MAX:
            log.warning(
                "journal.load_too_large", model=name, characters=size, most=SAVED_PARAMETERS_MAX,
                hint="after a restart of the gateway the model must be loaded again by its client",
            )  # fmt: skip
        else:
            out["load"] = {
                "parameters": load.parameters,
                "failed_on": list(load.failed_on),
                "config_hash": load.config_hash,
            }
    return out


def _model_in(entry: dict[str, Any]) -> ModelState:
    unload, load = entry.get("unload"), entry.get("load")
    state = ModelState(None if unload is None else dict(unload))
    if load is not None:
        state.load = Load(
            dict(load["parameters"]), tuple(map(str, load["failed_on"])), str(load["config_hash"])
        )
    return state
