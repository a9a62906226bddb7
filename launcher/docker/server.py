"""
One container over its life, followed by a thread: the SDK knows no asyncio.

The thread writes what the container says into the launcher's log of it, as for a bare process, and
so notices its end. While the engine itself is away (it is being updated) nothing is known, so
nothing has ended; what became of the container is asked when the engine is back.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

import structlog

from launcher.docker.engine import Engine
from launcher.docker.failures import EngineUnreachableError, GoneError, RefusedError
from launcher.docker.spec import container_name
from launcher.errors import StartError
from launcher.runtime import Handle

log = structlog.get_logger()

RETRY_S: Final = 0.3
PATIENCE_S: Final = 30.0
"""How long a container that was told to end is waited for while the engine does not answer."""
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
"""A log that is longer becomes `.1` and begins anew."""
NEVER_RAN: Final = "no container ran"


class ContainerServer:
    """A server in a container, started by this launcher or one before it."""

    def __init__(
        self, engine: Engine, handle: Handle, path: Path, create: Callable[[], str] | None
    ) -> None:
        """
        Args:
            engine: That runs it.
            handle: Of this start.
            path: The launcher's log of it.
            create: Makes the container; None when it runs already.
        """
        self._engine = engine
        self._handle = handle
        self._name = container_name(handle.marker)
        self._path = path
        self._create = create
        self._started_at = ""
        self._told_to_end_s: float | None = None
        self._starting = threading.Lock()
        self._changing = threading.Lock()
        self._how: str | None = None
        self._code: int | None = None
        self._refusal = ""
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        # A daemon: it waits for a container that is to outlive a launcher that was killed.
        threading.Thread(target=self._live, name=self._name, daemon=True).start()

    @property
    def handle(self) -> Handle:
        """Return the marker; a container needs no more to be found."""
        return self._handle

    def has_ended(self) -> bool:
        """Whether it has ended, as the thread has noticed."""
        return self._how is not None

    async def wait_ended(self) -> str:
        """Wait for the end."""
        ended = asyncio.Event()
        entry = (asyncio.get_running_loop(), ended)
        with self._changing:
            if self._how is not None:
                return self._how
            self._waiting.append(entry)
        try:
            await ended.wait()
        finally:
            with self._changing:
                if entry in self._waiting:
                    self._waiting.remove(entry)
        assert self._how is not None
        return self._how

    def terminate(self) -> None:
        """Send SIGTERM; one that is just being made is not started."""
        self._send("SIGTERM")

    def kill(self) -> None:
        """Send SIGKILL, which ends all processes of a container."""
        self._send("SIGKILL")

    def exit_code(self) -> int | None:
        """Return the exit code of one that has ended; None when it never ran, or was removed."""
        return self._code

    def refusal(self) -> str:
        """Return why it could not be started; empty when it could."""
        return self._refusal

    def _send(self, number: str) -> None:
        self._told_to_end_s = self._told_to_end_s or time.monotonic()
        # A start that is under way takes part of a second, and then hears it.
        with self._starting:
            try:
                self._engine.signal(self._name, number)
            except StartError as error:
                log.warning("container.not_signalled", container=self._name, reason=str(error))

    def _live(self) -> None:
        """Be the thread."""
        how = NEVER_RAN
        try:
            # An adopted one has said something while nobody listened. A file's time is some
            # milliseconds behind: a line may come twice, none is lost.
            since = _written_s(self._path) if self._create is None else 0.0
            with Log(self._path, anew=self._create is not None) as output:
                if self._create is None or self._start(self._create, output):
                    how = self._follow(output, since)
        except OSError as error:
            how = f"its log {self._path} cannot be written: {error.strerror}"
            log.error("container.not_followed", container=self._name, reason=how)
        finally:
            self._end(how)

    def _start(self, create: Callable[[], str], output: "Log") -> bool:
        """Make the container and start it; write why that fails. Whether it runs."""
        try:
            create()
            with self._starting:
                if self._told_to_end_s is not None:
                    return False
                self._engine.start(self._name)
        except StartError as error:
            self._refusal = str(error)
            # In the form of Triton's own: what reads logs finds the reason.
            output.write(f"error: {error}\n".encode())
            return False
        return True

    def _follow(self, output: "Log", since: float) -> str:
        """Copy what it says until it ends; return how it ended."""
        while True:
            try:
                self._started_at = self._started_at or self._look()[0]
                for chunk in self._engine.output(self._name, since):
                    output.write(chunk)
                _, how = self._look()
            except GoneError:
                return "its container was removed"
            except RefusedError as error:
                how = None
                log.warning("container.not_followed", container=self._name, reason=str(error))
            except EngineUnreachableError as error:
                how = None
                told = self._told_to_end_s
                if told is not None and time.monotonic() - told > PATIENCE_S:
                    return str(error)
            if how is not None:
                return how
            since = _written_s(self._path)
            time.sleep(RETRY_S)

    def _look(self) -> tuple[str, str | None]:
        """Return when it was started, and how it ended; None while it runs."""
        state = self._engine.inspect(self._name)["State"]
        started = str(state["StartedAt"])
        again = self._started_at and started != self._started_at
        if state["Running"] and not state["Restarting"] and not again:
            return started, None
        self._code = int(state["ExitCode"])
        if state.get("OOMKilled"):
            return started, "out of memory: its limit is docker.memory"
        return started, "restarted by the engine" if again else f"exit code {self._code}"

    def _end(self, how: str) -> None:
        with self._changing:
            self._how = how
            waiting, self._waiting = self._waiting, []
        for loop, ended in waiting:
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass


def _written_s(path: Path) -> float:
    """Return when a log was last written to, in seconds since 1970; 0 when there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Log:
    """A file that is written through; the one before it is kept as `.1`."""

    def __init__(self, path: Path, anew: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        if anew:
            self._set_aside()
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append, to a new file when this one is long."""
        self._file.write(data)
        if self._file.tell() > LOG_BYTES_MAX:
            self._file.close()
            self._set_aside()
            self._file = self._path.open("ab", buffering=0)

    def _set_aside(self) -> None:
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".1"))

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
