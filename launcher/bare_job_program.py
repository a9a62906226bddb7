"""
Stands between the launcher and a bare job: `bare_job_program.py MARKER EXIT_FILE COMMAND…`.

It outlives a launcher that is killed, carries the marker on its command line, passes SIGTERM and SIGINT
on, and leaves the job's exit code in a file, for whichever launcher is there by then. A job does not
outlive it.
"""

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


def main(exit_file: str, command: list[str]) -> int:
    """Run the command and return its exit code: 128 and the signal, as a shell has it."""
    libc = ctypes.CDLL(None)
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's command
            command,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)),  # noqa: PLW1509 - one thread
        )
    except OSError as error:
        print(f"error: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)  # noqa: T201
        return write(exit_file, EXIT_NOT_FOUND if error.errno == 2 else EXIT_NOT_EXECUTABLE)
    children.append(child)
    for missed in asked:
        child.send_signal(missed)
    code = child.wait()
    return write(exit_file, code if code >= 0 else 128 - code)


def write(exit_file: str, code: int) -> int:
    """Write the exit code down, whole or not at all, and return it."""
    part = f"{exit_file}.part"
    with open(part, "w", encoding="ascii") as file:
        file.write(str(code))
    os.replace(part, exit_file)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], sys.argv[3:]))
