"""
Jobs as programs of this machine: what has no image, and what runs on shares of MPS.

Each is started by launcher/bare_job_program.py, in a session of its own, and bound to its slice as a
bare server is.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from contract.slice_spec import SliceSpec
from launcher import bare_job_program, process_table
from launcher.errors import StartError
from launcher.job import Job
from launcher.process_table import ProcessId
from launcher.processes import ProcessServer
from launcher.runtime import Handle

VARIABLE: Final = "MIG_GATEWAY_JOB"
"""Holds the marker in all processes of a job."""
SIGNALLED: Final = 128
"""A shell adds the signal's number to it."""


class BareJobs:
    """Runs jobs as programs; exit codes lie in the state folder until they are read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute() / "jobs"

    def check(self, job: Job, say: Callable[[str], None]) -> None:
        """Make sure that there is such a program."""
        if shutil.which(job.command[0], path=dict(job.environment).get("PATH")) is None:
            raise StartError(
                f"there is no program {job.command[0]} here; name it by its path, or name an image "
                "to run it in"
            )

    def start(self, job: Job, member: SliceSpec, marker: str, log: Path) -> "BareJob":
        """Start a program; the log of the start before stays beside as `.1`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
        with log.open("wb") as output:
            child = self._popen(job, member, marker, output.fileno())
        process = process_table.identify(child.pid) or ProcessId(child.pid, "")
        server = ProcessServer(Handle(marker, process), process, child)
        return BareJob(server.handle, server, self._exit_file(marker))

    def _popen(
        self, job: Job, member: SliceSpec, marker: str, output: int | None
    ) -> "subprocess.Popen[bytes]":
        """Start a program that writes to a descriptor; None: to ours."""
        self._folder.mkdir(parents=True, exist_ok=True)
        program = [sys.executable, "-I", bare_job_program.__file__]
        bound = job.bound or (("CUDA_VISIBLE_DEVICES", member.mig_uuid),)
        return subprocess.Popen(  # noqa: S603 - the operator's command
            [*program, marker, str(self._exit_file(marker)), *job.command],
            env={**os.environ, **dict(bound), **dict(job.environment), VARIABLE: marker},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def find(self, handle: Handle) -> "BareJob | None":
        """Return the job: it runs, or has left its exit code."""
        for pid in process_table.pids_with_argument([handle.marker])[handle.marker]:
            process = process_table.identify(pid)
            if process is None:
                continue
            found = Handle(handle.marker, process)
            try:
                server = ProcessServer(found, process, None)
            except ProcessLookupError:
                continue
            return BareJob(found, server, self._exit_file(handle.marker))
        if self._exit_file(handle.marker).exists():
            return BareJob(handle, None, self._exit_file(handle.marker))
        return None

    def sweep(self, markers: Sequence[str]) -> None:
        """Kill all processes of these jobs, and forget their exit codes."""
        for marker in markers:
            pids = process_table.pids_with_argument([marker])[marker]
            for pid in {*pids, *process_table.pids_with_environment(VARIABLE, marker)}:
                process = process_table.identify(pid)
                if process:
                    process_table.send(process, signal.SIGKILL)
            self._exit_file(marker).unlink(missing_ok=True)

    def run(self, job: Job, member: SliceSpec, marker: str) -> int:
        """Run a program to its end, its output with ours, and return its exit code."""
        try:
            code = self._popen(job, member, marker, None).wait()
            return code if code >= 0 else SIGNALLED - code
        finally:
            self.sweep([marker])

    def signal(self, marker: str, number: str) -> None:
        """Send a signal to what `run` runs: to what stands between passes SIGTERM on."""
        found = self.find(Handle(marker))
        if found is not None:
            (found.terminate if number == "SIGTERM" else found.kill)()

    def _exit_file(self, marker: str) -> Path:
        return self._folder / f"{marker}.exit"


class BareJob:
    """One start of a program."""

    def __init__(self, handle: Handle, server: ProcessServer | None, exit_file: Path) -> None:
        self.handle = handle
        self._server = server
        self._exit_file = exit_file

    def has_ended(self) -> bool:
        """Whether it has ended, without waiting."""
        return self._server is None or self._server.has_ended()

    async def wait_ended(self) -> str:
        """Wait for the end."""
        how = await self._server.wait_ended() if self._server else ""
        code = self.exit_code()
        return how if code is None else f"exit code {code}"

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._server is not None:
            self._server.terminate()

    def kill(self) -> None:
        """Send SIGKILL to all of it."""
        if self._server is not None:
            self._server.kill()

    def exit_code(self) -> int | None:
        """Return what it left; None while it runs, and when it was killed with what watched it."""
        try:
            return int(self._exit_file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def refusal(self) -> str:
        """Return nothing: a program that cannot be run says so in its log."""
        return ""
