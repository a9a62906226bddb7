"""Programs that a benchmark starts: pinned to cores, waited for, measured, and always stopped."""

import contextlib
import ctypes
import http.client
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

PORTS: Final = range(20000, 29000)
"""Below Linux' ephemeral ports, so that no outgoing connection takes one before we listen."""
READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


def _candidate_ports() -> Iterator[int]:
    start = random.choice(PORTS)  # two benchmarks at once should not race for the same ports
    yield from range(start, PORTS.stop)
    yield from range(PORTS.start, start)


@dataclass(slots=True, eq=False)
class Running:
    """A program that was started: its process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check_alive(self) -> None:
        """Raise BenchError with the end of the program's output when it has ended."""
        if (status := self.process.poll()) is not None:
            tail = self.log.read_text(errors="replace")[-2000:].strip() or "(no output)"
            raise BenchError(f"{self.name} ended with status {status}. Its last output:\n{tail}")


@dataclass(slots=True, eq=False)
class Programs:
    """
    Starts programs and stops every one of them when the `with` block ends, however it ends.

    Each program leads a process group of its own, so that Ctrl-C reaches only us and we stop the
    others in order; should we be killed, the kernel sends them SIGTERM.

    Attributes:
        folder: Where their output goes; made and removed by the caller.
    """

    folder: Path
    _running: list[Running] = field(default_factory=list)
    _ports: Iterator[int] = field(default_factory=_candidate_ports)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._running):
            _signal_group(running.process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for running in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(max(0.0, deadline - time.monotonic()))
            # The whole group, also when its leader is gone: a worker may outlive it.
            _signal_group(running.process, signal.SIGKILL)
            running.process.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        cores: Sequence[int],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start `command` pinned to `cores`; `env` adds to our environment."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.folder,
                env={**os.environ, **(env or {})},
                process_group=0,
                preexec_fn=child_setup(cores),  # noqa: PLW1509 - we have no threads
            )
        running = Running(name, process, log)
        self._running.append(running)
        return running

    def take_port(self) -> int:
        """Return a TCP port on 127.0.0.1 that is free now and was not handed out before."""
        for port in self._ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise BenchError(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1")


def child_setup(cores: Sequence[int]) -> Callable[[], None]:
    """Return what a child does between fork and exec: pin itself, and end when we end."""

    def setup() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if cores:
            os.sched_setaffinity(0, cores)

    return setup


def wait_for(condition: Callable[[], bool], running: Running, what: str) -> None:
    """Wait until `condition` holds. Raises BenchError when time is up or the program ended."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        running.check_alive()
        if time.monotonic() > deadline:
            tail = running.log.read_text(errors="replace")[-2000:].strip() or "(no output)"
            message = f"{running.name}: {what} did not happen within {READY_TIMEOUT_S:.0f} s"
            raise BenchError(f"{message}. Its last output:\n{tail}")
        time.sleep(0.02)


def answers_http(port: int, path: str) -> bool:
    """Say whether a GET of `path` on 127.0.0.1:`port` is answered with 200."""
    # http.client and not urllib: it asks no http_proxy variable for the way to 127.0.0.1.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts_tcp(port: int) -> bool:
    """Say whether something listens on 127.0.0.1:`port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that `with` blocks stop what was started."""

    def leave(number: int, frame: FrameType | None) -> Any:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
