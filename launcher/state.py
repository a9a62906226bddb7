"""
What the launcher must remember to undo exactly what it did: the state file and its lock.

The file is written before a step (what will be made) and after it (what was made), each time whole
and atomically. So whatever moment a launcher is killed at, the next `up` or `down` knows what may
exist, and checks before it touches.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from contract.files import write_atomically
from launcher import process_table
from launcher.cutting import Found
from launcher.errors import BusyError, LauncherError
from launcher.mig import Placement
from launcher.process_table import ProcessId
from launcher.runtime import Handle, ServerSpec

VERSION: Final = 2
ServerState = Literal["starting", "ready", "restarting", "lent"]
"""`lent`: to a job; no server runs meanwhile."""
JobState = Literal["waiting", "running", "restarting", "ended"]
"""`waiting`: for its slice."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """
    A GPU instance that this launcher made, or was about to make.

    Attributes:
        slice_name: For which slice.
        gpu_uuid: On which GPU.
        profile: Name, for people.
        profile_id: NVML's id; with the placement it tells the instance from a stranger's.
        gpu_instance_id: None until it is known to exist.
        compute_instance_id: None until it is known to exist.
        mig_uuid: Empty until then.
    """

    slice_name: str
    gpu_uuid: str
    profile: str
    profile_id: int
    placement: Placement
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None
    mig_uuid: str = ""


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """
    A server that this launcher started, or was about to start.

    Attributes:
        reason: Why it is not ready, or why it was started again; empty where it never was.
        warning: What its GPU has told that goes on being true, such as that it must be reset.
    """

    spec: ServerSpec
    handle: Handle
    log: str
    state: ServerState = "starting"
    restarts: int = 0
    reason: str = ""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """
    A job of the configuration.

    Attributes:
        slice_name: The slice that it has, or had.
        settings: Its entry of the configuration, as JSON: another entry is another job.
        log: Where its output goes.
        restarts: Times that it was started again.
        exit_code: Of its last end; None before.
        reason: How it ended, why it could not be started, or what it waits for.
    """

    name: str
    slice_name: str
    settings: str
    handle: Handle
    log: str
    state: JobState = "waiting"
    restarts: int = 0
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MpsRecord:
    """
    An MPS control daemon that this launcher started, or was about to start.

    Attributes:
        pipe_dir: Its pipes; in its environment, by which it is found again.
        log_dir: Its logs.
        gpus: UUIDs of the GPUs it serves.
    """

    pipe_dir: str
    log_dir: str
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """
    Everything that is this launcher's to remove.

    Attributes:
        gpu: As `--gpu` named it, resolved: `simulated:a100-40gb`.
        runtime: What its servers run as: `process`.
        inventory: Absolute path of the file for the gateway.
        mig_enabled: GPUs on which this launcher switched MIG mode on.
        found: Instances of others that it destroyed by force, for `down` to make again.
        mps: The MPS control daemon that it started.
        jobs: Those of its configuration.
        settings: Its configuration as JSON, with which `apply` starts it again.
        drained: Slices that it took out of the gateway's rotation and has to put back.
    """

    gpu: str
    runtime: str
    inventory: str
    version: int = VERSION
    mig_enabled: tuple[str, ...] = ()
    instances: tuple[InstanceRecord, ...] = ()
    found: tuple[Found, ...] = ()
    drained: tuple[str, ...] = ()
    mps: MpsRecord | None = None
    settings: str = "{}"
    servers: tuple[ServerRecord, ...] = ()
    jobs: tuple[JobRecord, ...] = ()


STATE: Final = TypeAdapter(State)


class StateStore:
    """
    The state file: one writer, which holds the lock; readers need none. That one writes from the
    thread that cuts, too.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "launcher.json"
        self.state: State | None = None
        self._changing = threading.Lock()

    def load(self) -> State | None:
        """
        Return what the file says; None when nothing is up.

        Raises:
            LauncherError: The file cannot be understood; nothing is touched then.
        """
        try:
            self.state = STATE.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            self.state = None
        except (OSError, ValidationError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise LauncherError(
                f"{self.path} cannot be read as launcher state: {reason}"
            ) from error
        if self.state and self.state.version != VERSION:
            raise LauncherError(
                f"{self.path} has version {self.state.version}, this launcher reads {VERSION}; "
                "stop it with the launcher that wrote it"
            )
        return self.state

    def begin(self, state: State) -> None:
        """Start a new file."""
        self.state = state
        self._write()

    def change(self, **fields: Any) -> State:
        """Replace fields of the state and write it."""
        with self._changing:
            assert self.state is not None, "change() without state"
            self.state = replace(self.state, **fields)
            self._write()
            return self.state

    def remove(self) -> None:
        """Nothing is up any more."""
        self.path.unlink(missing_ok=True)
        self.state = None

    def _write(self) -> None:
        assert self.state is not None
        text = STATE.dump_json(self.state, indent=2).decode() + "\n"
        write_atomically(self.path, text, mode=0o600)  # environments may hold secrets


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock: which command, in which process."""

    command: str
    process: ProcessId


@contextmanager
def hold(folder: Path, command: str) -> Iterator[None]:
    """
    Hold the state folder's lock; the kernel lets go of it however this process ends.

    Raises:
        BusyError: Another launcher holds it.
        LauncherError: The folder cannot be written.
    """
    path = lock_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LauncherError(f"state folder {folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_of(folder)
            who = f" (pid {holder.process.pid})" if holder else ""
            raise BusyError(
                f"another mig-launcher{who} is at work with state folder {folder}; "
                "see `mig-launcher status`, or choose another --state-dir"
            ) from None
        process = process_table.identify(os.getpid())
        assert process is not None
        file.truncate(0)
        file.write(f"{command} {process.pid} {process.started}\n")
        file.flush()
        yield


def holder_of(folder: Path) -> Holder | None:
    """Return who holds the lock, as far as it runs; None for nobody."""
    try:
        words = lock_path(folder).read_text(encoding="utf-8").split()
    except OSError:
        return None
    if len(words) != 3 or not words[1].isdigit():
        return None
    holder = Holder(words[0], ProcessId(int(words[1]), words[2]))
    return holder if process_table.is_running(holder.process) else None


def lock_path(folder: Path) -> Path:
    """Return the lock file's path; it stays, only its lock comes and goes."""
    return folder / "launcher.lock"
