"""
The seam to what runs servers: bare processes, or containers.

A *marker* is a random text that only one start of one server carries where it can be seen from
outside (the command line of a process, the name of a container). It is written down before the
server is started, so that a launcher that was killed in between still finds what it began.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contract.slice_spec import SliceSpec
from launcher.process_table import ProcessId


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """
    One Triton server. Two servers with equal specs are interchangeable.

    Attributes:
        member: Its slice: name, endpoints, and the MIG device it is bound to.
        model_repository: Absolute path.
        arguments: Triton arguments beyond those the launcher sets.
        environment: Variables that bind it to its device or share.
        cpus: Cores it may use, `0-7,16-23`; empty: all.
        settings: A text that differs when its runtime would start it otherwise: another image.
    """

    member: SliceSpec
    model_repository: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    cpus: str = ""
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Handle:
    """What a state file remembers of one start: the marker, and the process once it is known."""

    marker: str
    process: ProcessId | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """
    A running server, seen from outside.

    Attributes:
        pid: Its process on the host; None where that cannot be told.
        container: Its container's name; empty for a bare process.
    """

    pid: int | None
    container: str = ""


class Server(Protocol):
    """One start of one server, by this launcher or an earlier one."""

    @property
    def handle(self) -> Handle:
        """What finds it again."""

    def has_ended(self) -> bool:
        """Whether it has ended, without waiting."""

    async def wait_ended(self) -> str:
        """Wait for its end and return how it ended, in words: `exit code 1`, `SIGKILL`."""

    def terminate(self) -> None:
        """Ask it to end; nothing happens when it has ended."""

    def kill(self) -> None:
        """End it and its children at once."""


class Runtime(Protocol):
    """Starts servers and finds them again."""

    async def check(self, say: Callable[[str], None]) -> None:
        """
        Make sure, once, that servers can run here.

        Args:
            say: Told what is being done when that takes time.

        Raises:
            StartError: What is missing, and what to do.
        """

    @property
    def settings(self) -> str:
        """`ServerSpec.settings` of what it starts; `check` has passed."""

    def cores_near(self, gpu_uuid: str) -> str:
        """Return `ServerSpec.cpus` for servers on this GPU; empty: all."""

    def start(self, spec: ServerSpec, marker: str, log: Path) -> Server:
        """Start a server whose output goes to a new file `log`. Raises StartError."""

    def find(self, handle: Handle) -> Server | None:
        """Return the server of an earlier start if it still runs."""

    def look(self, handle: Handle) -> Sight | None:
        """Return what can be seen of a running server; None when it does not run."""

    def sweep(self, markers: Sequence[str]) -> None:
        """
        End and remove whatever of these starts is left: children, shared memory, containers that
        were made and never started. May be called in a thread.
        """

    def left(self) -> list[str]:
        """
        Return the markers of all that this state folder's launchers have made and that is there,
        also what a launcher asked for that was killed before it was answered. May be called in a
        thread.

        Raises:
            StartError: The engine does not answer.
        """
