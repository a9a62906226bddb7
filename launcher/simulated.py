"""
SimulatedNvml: a host's GPUs on paper, of any board, any number and mixture.

A host is written `BOARD`, `2xBOARD`, or a list of such joined by commas; `?mig=off` behind it has
the GPUs begin with MIG mode off, as they leave the factory. (They begin with it on otherwise: a
host that an administrator has prepared.) `?driver=535` behaves like an old driver, which answers
nothing about MIG while its mode is off; `?user=nobody` like one whose caller may not cut. Several
options are joined by `&`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import ConfigError
from launcher.profiles import BOARDS
from launcher.simulator import Simulator

DEFAULT_BOARD: Final = "a100-40gb"
GPUS_MAX: Final = 16
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

    def gpus(self) -> Sequence[Simulator]:
        """Return the GPUs by index."""
        return self._gpus

    def close(self) -> None:
        """Do nothing: every call reads and writes the files itself."""


def _file_name(host: Host, index: int) -> str:
    number = f"{index}-" if len(host.boards) > 1 else ""
    return f"simulated-{number}{host.boards[index]}.json"
