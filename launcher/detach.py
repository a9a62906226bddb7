"""`up --detach`: the same `up` in a process of its own, watched until everything is ready."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from launcher.errors import LauncherError
from launcher.progress import PipeProgress, Progress, replay

EXIT_UNUSABLE: Final = 2
EXIT_INTERRUPTED: Final = 130


def in_background(
    work: Callable[[PipeProgress], int],
    display: Callable[[], AbstractContextManager[Progress]],
    log: Path,
) -> int:
    """
    Run `work` in a background process and return when everything is up.

    Args:
        work: Runs until it is stopped and returns its exit code. Called in the new process,
            whose output goes to `log`.
        display: Shows the progress here. (Opened after the fork: a display has threads.)
        log: The background launcher's own log; appended to.

    Returns:
        0 when everything is up; 130 after Ctrl-C, which also stops the background process.

    Raises:
        LauncherError: `work` failed; the message is its own.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = EXIT_UNUSABLE
        try:
            os.close(reader)
            code = _background(work, writer, log)
        finally:
            # Whatever happens, the copy must not go on with what its original is doing.
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines, display() as progress:
        interrupted = False
        while True:
            try:
                line = lines.readline()
            except KeyboardInterrupt:
                # Its servers are told to stop; its end of the pipe closes when they have.
                os.kill(child, signal.SIGTERM)
                interrupted = True
                continue
            if interrupted and not line:
                return EXIT_INTERRUPTED
            if not line:
                raise LauncherError(f"the background launcher ended unexpectedly; see {log}")
            failure = replay(line, progress)
            if failure:
                raise LauncherError(failure[0])
            if line.startswith('["up"'):
                return 0


def _background(work: Callable[[PipeProgress], int], writer: int, log: Path) -> int:
    """Be the background process: no terminal, output to the log. Never returns to the caller."""
    os.setsid()
    with open(os.devnull, "rb") as nothing, log.open("ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code = EXIT_UNUSABLE
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        progress = PipeProgress(pipe)
        try:
            code = work(progress)
        except LauncherError as error:
            progress.failed(str(error), EXIT_UNUSABLE)
        except BaseException as error:  # the last stop: nobody else can report it
            os.write(2, traceback.format_exc().encode())
            progress.failed(f"the background launcher failed: {error!r}; see {log}", EXIT_UNUSABLE)
    sys.stdout.flush()
    sys.stderr.flush()
    return code
