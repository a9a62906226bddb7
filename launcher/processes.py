"""
The bare-process runtime: one tritonserver per slice, each in a session of its own.

A server is bound to its MIG device by CUDA_VISIBLE_DEVICES, to its share by CUDA_MPS_*. Its marker is the prefix of its shared
memory, which stands on its command line and on those of its Python stubs.
"""

import asyncio
import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from launcher import process_table, triton_install
from launcher.errors import StartError
from launcher.process_table import ProcessId
from launcher.runtime import Handle, ServerSpec, Sight

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
NOT_FOR_SERVERS: Final = ("PYTHONHOME", "__PYVENV_LAUNCHER__")
"""Variables that would give the stub's embedded interpreter another prefix."""


class ProcessServer:
    """A tritonserver process, our child or that of a launcher before us."""

    def __init__(
        self, handle: Handle, process: ProcessId, child: "subprocess.Popen[bytes] | None"
    ) -> None:
        """Raise ProcessLookupError when the process is gone."""
        self._handle = handle
        self._process = process
        self._child = child
        self._pidfd = os.pidfd_open(process.pid)
        # Between looking and opening, the pid may have passed on to a stranger.
        if child is None and not process_table.is_running(process):
            os.close(self._pidfd)
            raise ProcessLookupError(process.pid)

    def __del__(self) -> None:
        try:
            os.close(self._pidfd)
        except (AttributeError, OSError):
            pass

    @property
    def handle(self) -> Handle:
        """Return marker and process."""
        return self._handle

    def has_ended(self) -> bool:
        """Whether the process has ended: a pidfd is readable from then on."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait_ended(self) -> str:
        """Wait for the end, without a thread and without asking again and again."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # One waiter each: a descriptor of its own, as a loop has one reader per descriptor.
        watched = os.dup(self._pidfd)
        loop.add_reader(watched, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)
        return self._how()

    def terminate(self) -> None:
        """Send SIGTERM: Triton unloads its models, which ends their stubs."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process and, while it holds its group's number, to its group."""
        if not self.has_ended():
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def _how(self) -> str:
        if self._child is None:
            return "unknown exit code (it was not started by this launcher)"
        if self._child.returncode is None:
            # Until it is waited for, its number is its own: whatever it left in its group, such
            # as processes that a model started, ends with it.
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        code = self._child.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class ProcessRuntime:
    """Runtime of bare processes."""

    def __init__(self, tritonserver: Path | None = None) -> None:
        self._wanted = tritonserver
        self._found: triton_install.Installation | None = None
        self._servers: dict[str, ProcessServer] = {}  # of this launcher, by marker

    settings = ""

    async def check(self, say: Callable[[str], None]) -> None:
        """Find tritonserver and what it needs, once for all servers; takes a moment."""
        self._found = triton_install.find(self._wanted)
        triton_install.check(self._found)

    def cores_near(self, gpu_uuid: str) -> str:
        """Return nothing: the kernel places processes."""
        return ""

    def start(self, spec: ServerSpec, marker: str, log: Path) -> ProcessServer:
        """Start a tritonserver; the log of the start before stays beside as `.1`."""
        assert self._found is not None, "start() before check()"
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
        try:
            with log.open("wb") as output:
                child = subprocess.Popen(  # noqa: S603 - the server the operator chose
                    command(self._found, spec, marker),
                    env=environment(self._found, spec),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartError(f"{self._found.binary} cannot be run: {error.strerror}") from error
        # Our child cannot be reaped by anyone else, so its pid is its own until we wait for it.
        process = process_table.identify(child.pid) or ProcessId(child.pid, "")
        server = ProcessServer(Handle(marker, process), process, child)
        self._servers[marker] = server
        return server

    def find(self, handle: Handle) -> ProcessServer | None:
        """Return the running server: pid, start time and marker must all fit."""
        own = self._servers.get(handle.marker)
        if own is not None:
            return None if own.has_ended() else own
        process = handle.process
        if process is None:
            # The launcher was killed between starting the server and writing its pid down.
            pids = process_table.pids_with_argument([handle.marker])[handle.marker]
            leaders = [pid for pid in pids if _leads_its_session(pid)]
            process = process_table.identify(leaders[0]) if leaders else None
        if process is None or not process_table.is_running(process):
            return None
        if handle.marker not in process_table.command_line(process.pid):
            return None
        try:
            return ProcessServer(Handle(handle.marker, process), process, None)
        except ProcessLookupError:
            return None

    def look(self, handle: Handle) -> Sight | None:
        """Return the process on record if it runs."""
        process = handle.process
        return Sight(process.pid) if process and process_table.is_running(process) else None

    def sweep(self, markers: Sequence[str]) -> None:
        """Kill stubs that outlived their server, and remove its shared memory."""
        for pids in process_table.pids_with_argument(markers).values():
            for pid in pids:
                process = process_table.identify(pid)
                if process:
                    process_table.send(process, signal.SIGKILL)
        for marker in markers:
            server = self._servers.pop(marker, None)
            assert server is None or server.has_ended(), "sweep() of a running server"
            for left in SHARED_MEMORY.glob(f"{marker}*"):
                left.unlink(missing_ok=True)

    def left(self) -> list[str]:
        """Return nothing: a process has begun when its launcher is killed, or never does."""
        return []


def command(found: triton_install.Installation, spec: ServerSpec, marker: str) -> list[str]:
    """Return the command line of a server."""
    member = spec.member
    arguments = [
        str(found.binary),
        f"--model-repository={spec.model_repository}",
        *found.arguments,
        # Also the marker: unique for this start, on the command line of server and stubs.
        f"--backend-config=python,shm-region-prefix-name={marker}",
        f"--http-address={member.http.host}",
        f"--http-port={member.http.port}",
        f"--grpc-address={member.grpc.host}",
        f"--grpc-port={member.grpc.port}",
        # Triton's GPU metrics do not work on MIG devices.
        "--allow-gpu-metrics=false",
    ]
    if member.metrics:
        arguments += [
            f"--metrics-address={member.metrics.host}",
            f"--metrics-port={member.metrics.port}",
        ]
    return [*arguments, *spec.arguments]


def environment(found: triton_install.Installation, spec: ServerSpec) -> dict[str, str]:
    """Return the environment of a server: the launcher's, the installation's, the device."""
    inherited = {key: value for key, value in os.environ.items() if key not in NOT_FOR_SERVERS}
    bound = spec.environment or (("CUDA_VISIBLE_DEVICES", spec.member.mig_uuid),)
    return {**inherited, **found.environment, **dict(bound)}


def _leads_its_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
