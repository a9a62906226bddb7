"""
SimulatedNvml: a host's GPUs on paper, of any board, any number and mixture.

A host is written `BOARD`, `2xBOARD`, or a list of such joined by commas; `?mig=off` behind it has
the GPUs begin with MIG mode off, as they leave the factory. (They begin with it on otherwise: a
host that an administrator has prepared.) `?driver=535` behaves like an old driver, which answers
nothing about MIG while its mode is off; `?user=nobody` like one whose caller may not cut. Several
options are joined by `&`.
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from launcher.errors import ConfigError
from launcher.mig import GpuEvent, MigDriver, MigError
from launcher.profiles import BOARDS
from launcher.simulator import EVENT, Simulator, events_path

log = structlog.get_logger()

DEFAULT_BOARD: Final = "a100-40gb"
GPUS_MAX: Final = 16
EVENTS_POLL_S: Final = 0.25
MEMBER: Final = re.compile(r"(?:(\d{1,2})x)?([a-z0-9-]+)")
OPTIONS: Final = {"mig": ("on", "off"), "driver": ("580", "535"), "user": ("root", "nobody")}
"""What may be said of a host; the first is the default."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host on paper: boards by index, and its options."""

    boards: tuple[str, ...]
    options: dict[str, str]


def parse(text: str) -> Host:
    """
    Read a host as `--gpu simulated:TEXT` names it; empty is one A100-40GB.

    Raises:
        ConfigError: No such board or option, or too many GPUs.
    """
    members, _, tail = text.partition("?")
    boards: list[str] = []
    for member in (members or DEFAULT_BOARD).split(","):
        found = MEMBER.fullmatch(member.strip())
        if found is None or found[2] not in BOARDS:
            raise ConfigError(
                [
                    f"gpu: no simulated board {member!r}; known: {', '.join(BOARDS)} (2xBOARD for two)"
                ]
            )
        boards += [found[2]] * int(found[1] or 1)
    if not 1 <= len(boards) <= GPUS_MAX:
        raise ConfigError([f"gpu: {len(boards)} simulated GPUs; 1 to {GPUS_MAX} can be had"])
    options = {key: values[0] for key, values in OPTIONS.items()}
    for option in filter(None, tail.split("&")):
        key, _, value = option.partition("=")
        if value not in OPTIONS.get(key, ()):
            known = ", ".join(f"{name}={'|'.join(values)}" for name, values in OPTIONS.items())
            raise ConfigError([f"gpu: no option {option!r} of a simulated host; known: {known}"])
        options[key] = value
    return Host(tuple(boards), options)


class SimulatedNvml:
    """Nvml on paper; each GPU is a file in the state folder."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._gpus = [
            Simulator(
                folder / _file_name(host, index),
                BOARDS[board],
                privileged=host.options["user"] == "root",
                index=index,
                mode_at_first=host.options["mig"] == "on",
                answers_when_off=host.options["driver"] != "535",
            )
            for index, board in enumerate(host.boards)
        ]
        self._unusable: dict[int, MigError] = {}
        self._spools = [_Spool(gpu) for gpu in self._gpus]

    def gpus(self) -> Sequence[MigDriver]:
        """Return the GPUs that answer, by index."""
        found: list[MigDriver] = []
        self._unusable = {}
        for gpu in self._gpus:
            try:
                gpu.mig_mode()
            except MigError as error:
                self._unusable[gpu.index] = error
            else:
                found.append(gpu)
        return found

    @property
    def unusable(self) -> Mapping[int, MigError]:
        """Return those that are said to be broken."""
        return self._unusable

    def wait_event(self, gpu_uuids: Collection[str], timeout_s: float) -> GpuEvent | None:
        """Return the next line of the GPUs' files of events, or that one was cut."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            for spool in self._spools:
                event = spool.next()
                if event is not None and event.gpu_uuid in gpu_uuids:
                    return event
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(EVENTS_POLL_S, left_s))

    def undisturbed(self) -> AbstractContextManager[None]:
        """Do nothing: nobody is in the way of a GPU on paper."""
        return nullcontext()

    def steady(self) -> AbstractContextManager[object]:
        """Do nothing: every call reads the file by itself."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: every call reads and writes the files itself."""


class _Spool:
    """What one paper GPU tells, from the first look on."""

    def __init__(self, gpu: Simulator) -> None:
        self._gpu = gpu
        self._path = events_path(gpu.path)
        self._read_to = _size(self._path)
        self._changed_at_ns = _changed_at_ns(gpu.path)

    def next(self) -> GpuEvent | None:
        """Return what is new, one thing at a time."""
        if _size(self._path) > self._read_to:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                line = file.readline()
            if line.endswith(b"\n"):
                self._read_to += len(line)
                return _event(self._gpu, line)
        changed_at_ns = _changed_at_ns(self._gpu.path)
        if changed_at_ns == self._changed_at_ns:
            return None
        self._changed_at_ns = changed_at_ns
        try:
            return GpuEvent(self._gpu.gpu().uuid)
        except MigError as error:
            raise MigError("wait for events of GPUs", error.code) from error


def _event(gpu: Simulator, line: bytes) -> GpuEvent | None:
    try:
        return EVENT.validate_json(line)
    except ValidationError as error:
        log.warning("event.unreadable", file=str(events_path(gpu.path)), reason=str(error))
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _changed_at_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _file_name(host: Host, index: int) -> str:
    number = f"{index}-" if len(host.boards) > 1 else ""
    return f"simulated-{number}{host.boards[index]}.json"
