"""
What a job is, and the seam to what runs jobs: containers, or bare programs of this machine.

A job carries a marker as a server does (launcher/runtime.py). By the marker's beginning it is known
what runs it: a state folder remembers no more of a job that was begun by hand.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from contract.slice_spec import SliceSpec
from launcher.runtime import Handle, Server

CONTAINER: Final = "mig-job"
BARE: Final = "mig-bare"
EXIT_NEVER_RAN: Final = 125
"""As of `docker run`: what the exit code of a job is that could not be started."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    What is to run.

    Attributes:
        image: Any image; empty: a program of this machine.
        command: In place of the image's own; empty: that.
        environment: Variables.
        volumes: Folders as `docker run -v` takes them: `/here:/there` or `/here:/there:ro`.
        ports: To publish: address and port here, port in the container.
        cpus: Cores it may use; empty: all.
        bound: Variables that bind a program to its device or share; empty: by the MIG UUID.
    """

    image: str
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()
    ports: tuple[tuple[str, int, int], ...] = ()
    cpus: str = ""
    bound: tuple[tuple[str, str], ...] = ()


def new_marker(job: Job, slice_name: str) -> str:
    """Return a marker for one start of a job."""
    kind = CONTAINER if job.image else BARE
    return f"{kind}-{slice_name}-{secrets.token_hex(6)}_"


def is_bare(marker: str) -> bool:
    """Whether the job with this marker is a program of this machine."""
    return marker.startswith(f"{BARE}-")


class JobServer(Server, Protocol):
    """One start of a job, by this launcher or an earlier one."""

    def exit_code(self) -> int | None:
        """Return how it ended; None when it never ran, or nobody knows."""

    def refusal(self) -> str:
        """Return why it could not be started, in a sentence; empty when it could."""


class JobRuntime(Protocol):
    """Starts jobs and finds them again. Everything here may block: call it in a thread."""

    def check(self, job: Job, say: Callable[[str], None]) -> None:
        """
        Make sure that a job can run here: its image is pulled if that is wanted.

        Raises:
            StartError: What is missing, and what to do.
        """

    def start(self, job: Job, member: SliceSpec, marker: str, log: Path) -> JobServer:
        """Start a job whose output goes to a new file `log`; what is against it is its refusal."""

    def find(self, handle: Handle) -> JobServer | None:
        """Return the job of an earlier start, also one that has ended meanwhile; None: none ran."""

    def sweep(self, markers: Sequence[str]) -> None:
        """End and remove whatever of these starts is left. Raises StartError."""

    def run(self, job: Job, member: SliceSpec, marker: str) -> int:
        """
        Run a job to its end, its output with ours, and remove what is left; return its exit code.

        Raises:
            StartError: It could not be started, or nothing is known of it any more.
        """

    def signal(self, marker: str, number: str) -> None:
        """Send `SIGTERM` or `SIGKILL` to what `run` runs."""
