"""What the benchmark asks of a proxy."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from contract.slice_spec import SliceSpec


@dataclass(frozen=True, slots=True)
class Setup:
    """
    What a proxy is set up with.

    Attributes:
        folder: For its configuration and temporary files; exists and is its own.
        slices: What it balances over.
        take_port: Returns a free port on 127.0.0.1, another one at each call.
    """

    folder: Path
    slices: Sequence[SliceSpec]
    take_port: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Launch:
    """
    How to start a proxy, and the ports where it will listen on 127.0.0.1.

    `grpc_port` is None for a variant that is of interest over HTTP only.
    """

    command: Sequence[str]
    http_port: int
    grpc_port: int | None
    env: Mapping[str, str] = field(default_factory=dict)


class Proxy(Protocol):
    """One of those that are compared; one worker, health checks and statistics on."""

    @property
    def name(self) -> str:
        """As tables and `--only` name it."""

    def missing(self) -> str | None:
        """Return what to install, in one sentence, or None when it can run."""

    def version(self) -> str:
        """Return what the program says of itself, in one line. Only when nothing is missing."""

    def prepare(self, setup: Setup) -> Launch:
        """Write its configuration into `setup.folder`; start nothing."""


def first_line(command: Sequence[str]) -> str:
    """Run `command` (a `--version`) and return the first line that is not empty."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[0] if lines else f"unknown: {command[0]} printed nothing"
