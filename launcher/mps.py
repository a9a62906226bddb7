"""
MPS as a partitioner: one control daemon that this launcher owns, and each server a client with its
share in its environment.

The daemon has a pipe folder of its own, so that it never meets another's; by that folder in its
environment it is found again after a crash.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from launcher import process_table, shares, weights
from launcher.config import LauncherConfig
from launcher.cures import sentence
from launcher.drivers import Host
from launcher.errors import GpuError, PlanError
from launcher.mig import GpuEvent, MigError
from launcher.partition import Affected, Device, Division
from launcher.plan import Addresses
from launcher.process_table import ProcessId
from launcher.shares import Share, SharedGpu
from launcher.stages import Stage
from launcher.state import MpsRecord, State, StateStore

log = structlog.get_logger()

PROGRAM: Final = "nvidia-cuda-mps-control"
OUTPUT: Final = "control.out"
PIPE: Final = "CUDA_MPS_PIPE_DIRECTORY"
READY_S: Final = 10.0
QUIT_S: Final = 10.0
ASK_S: Final = 5.0
POLL_S: Final = 0.05
SOCKET_PATH_MAX: Final = 90
"""The daemon's socket lies in the pipe folder, and Linux allows its path 107 bytes."""


class MpsPartitioner:
    """Partitioner by shares; see there."""

    def __init__(self, host: Host, state_dir: Path, program: str = PROGRAM) -> None:
        """
        Args:
            host: Whose GPUs are shared out.
            state_dir: For the daemon's log and pipes.
            program: The control program; found on PATH.
        """
        self._host = host
        self._folder = state_dir.absolute()
        self._program = program

    def divide(
        self, config: LauncherConfig, state: State | None, force: bool, enable_mig: bool
    ) -> Division:
        """Plan equal or weighted shares of each GPU."""
        wanted = weights.parse(config.shares)
        addresses = Addresses(config.host, config.port_base)
        plan = shares.make(self._gpus(), wanted, addresses, config.mps_memory_limit)
        servers = tuple(share.server for share in plan.shares)
        names = ", ".join(dict.fromkeys(share.gpu.name for share in plan.shares))
        into = f"{names} into {len(servers)} shares by MPS"
        return Division(plan, (Stage(frozenset(), servers, plan.shares),), into)

    def _gpus(self) -> list[SharedGpu]:
        found = []
        for driver in self._host.gpus.values():
            try:
                gpu, mig_on, memory = driver.gpu(), driver.mig_mode()[0], driver.memory()
            except MigError as error:
                raise GpuError(sentence(error)) from error
            if mig_on:
                raise PlanError(
                    f"GPU {gpu.index} ({gpu.name}) is in MIG mode: share out its instances by MIG, "
                    "or switch the mode off (`mig-launcher down --disable-mig`)"
                )
            found.append(
                SharedGpu(
                    gpu.index, gpu.uuid, gpu.name, memory.total_mib if memory else 0, gpu.simulated
                )
            )
        return found

    def prepare(self, begin: Callable[[], StateStore], enable_mig: bool) -> None:
        """Need nothing."""

    def cut(self, work: Sequence[object], store: StateStore) -> dict[str, Device]:
        """Start the daemon unless it runs, and tell each server its share."""
        mine = [share for share in work if isinstance(share, Share)]
        record = self._started(mine, store)
        return {share.server.name: Device("", environment(share, record)) for share in mine}

    def missing(self, state: State) -> tuple[str, ...]:
        """Return all slices when the daemon has ended: none of them can work without it."""
        if state.mps is None or find(state.mps) is not None:
            return ()
        return tuple(record.spec.member.name for record in state.servers)

    def wait_event(self, timeout_s: float) -> GpuEvent | None:
        """Return what one of the GPUs tells next."""
        return self._host.nvml.wait_event(self._host.gpus.keys(), timeout_s)

    def affected(self, event: GpuEvent, state: State) -> Affected:
        """Return all shares of the GPU: an error of one client of MPS ends the work of all."""
        slices = tuple(
            record.spec.member.name
            for record in state.servers
            if ("CUDA_VISIBLE_DEVICES", event.gpu_uuid) in record.spec.environment
        )
        return Affected(self._host.gpus[event.gpu_uuid].index, slices, surely=True)

    def uncut(self, store: StateStore) -> None:
        """Stop the daemon that this launcher started."""
        record = store.state.mps if store.state else None
        if record is None:
            return
        process = find(record)
        if process is not None:
            self._quit(record, process)
        shutil.rmtree(record.pipe_dir, ignore_errors=True)
        store.change(mps=None)

    def close(self) -> None:
        """Close the library."""
        self._host.nvml.close()

    # --- the daemon -------------------------------------------------------------------------
    def _started(self, mine: Sequence[Share], store: StateStore) -> MpsRecord:
        assert store.state is not None
        uuids = tuple(dict.fromkeys(share.gpu.uuid for share in mine))
        record = store.state.mps
        if record is not None and record.gpus == uuids and find(record) is not None:
            return record
        if record is not None:
            self.uncut(store)
        program = shutil.which(self._program)
        if program is None:
            raise GpuError(
                f"{self._program} is not on PATH: it comes with the NVIDIA driver (in a container: "
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
            )
        record = MpsRecord(str(pipe_folder(self._folder)), str(self._folder / "mps-log"), uuids)
        for path in (record.pipe_dir, record.log_dir):
            Path(path).mkdir(parents=True, exist_ok=True)
        store.change(mps=record)
        process = _spawn(program, record)
        self._wait_until_it_answers(process, record)
        log.info("mps.started", pid=process.pid, pipe_dir=record.pipe_dir, gpus=list(uuids))
        return record

    def _wait_until_it_answers(self, process: ProcessId, record: MpsRecord) -> None:
        deadline_s = time.monotonic() + READY_S
        while not self._ask("get_server_list", record):
            ended = not _is_alive(process)
            if ended or time.monotonic() > deadline_s:
                process_table.send(process, signal.SIGKILL)
                said = Path(record.log_dir, OUTPUT).read_text(errors="replace").strip()
                raise GpuError(
                    f"{self._program} {'ended' if ended else 'does not answer'}: "
                    f"{said[-300:] or 'it said nothing'} (its logs are in {record.log_dir}); "
                    "another MPS daemon may have the GPU"
                )
            time.sleep(POLL_S)

    def _ask(self, command: str, record: MpsRecord) -> bool:
        """Give the daemon a command; return whether it took it."""
        program = shutil.which(self._program)
        if program is None:
            return False
        try:
            done = subprocess.run(  # noqa: S603 - found on PATH
                [program],
                env={**os.environ, **_daemon_environment(record)},
                input=f"{command}\n".encode(),
                capture_output=True,
                timeout=ASK_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def _quit(self, record: MpsRecord, process: ProcessId) -> None:
        self._ask("quit", record)
        deadline_s = time.monotonic() + QUIT_S
        while _is_alive(process):
            if time.monotonic() > deadline_s:
                log.warning("mps.killed", pid=process.pid, after_s=QUIT_S)
                process_table.send(process, signal.SIGKILL)
                return
            time.sleep(POLL_S)
        log.info("mps.stopped", pid=process.pid)


def _spawn(program: str, record: MpsRecord) -> ProcessId:
    """Start the daemon in a session of its own; it outlives this launcher, as servers do."""
    output = str(Path(record.log_dir, OUTPUT))
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        program,
        [program, "-f"],
        {**os.environ, **_daemon_environment(record)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, write, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    # Our child cannot be reaped by anyone else, so its pid is its own until we wait for it.
    return process_table.identify(pid) or ProcessId(pid, "")


def find(record: MpsRecord) -> ProcessId | None:
    """Return the daemon of a record as far as it runs: by its program and its pipe folder."""
    for pid in process_table.pids_with_environment(PIPE, record.pipe_dir):
        line = process_table.command_line(pid)
        if PROGRAM in line and line.endswith(" -f"):
            return process_table.identify(pid)
    return None


def environment(share: Share, record: MpsRecord) -> tuple[tuple[str, str], ...]:
    """Return the variables of a server: which GPU, which daemon, and how much."""
    variables = [
        ("CUDA_VISIBLE_DEVICES", share.gpu.uuid),
        (PIPE, record.pipe_dir),
        ("CUDA_MPS_LOG_DIRECTORY", record.log_dir),
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", f"{share.percentage:g}"),
    ]
    if share.memory_mib is not None:
        # The number is that of the device as the client counts: it sees one.
        variables.append(("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", f"0={share.memory_mib}M"))
    return tuple(variables)


def pipe_folder(state_dir: Path) -> Path:
    """Return the folder for the daemon's pipes: in the state folder where its path is short."""
    near = state_dir / "mps"
    if len(str(near)) <= SOCKET_PATH_MAX:
        return near
    digest = hashlib.sha256(str(near).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mig-launcher-mps-{digest}"


def _daemon_environment(record: MpsRecord) -> dict[str, str]:
    return {
        PIPE: record.pipe_dir,
        "CUDA_MPS_LOG_DIRECTORY": record.log_dir,
        "CUDA_VISIBLE_DEVICES": ",".join(record.gpus),
    }


def _is_alive(process: ProcessId) -> bool:
    """Whether it runs; a child of ours that has ended is waited for."""
    try:
        os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        pass  # of a launcher before us
    return process_table.is_running(process)
