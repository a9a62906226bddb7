"""Takes down what a launcher under test has left, however the test ends."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
WATCHDOG: Final = """
import subprocess, sys
sys.stdin.read()  # until every copy of the other end is closed: the test has ended, or was killed
subprocess.run([sys.executable, "-m", "launcher", "down", "--state-dir", sys.argv[1]], check=False)
"""


@contextmanager
def taken_down_after(state_dir: Path) -> Iterator[None]:
    """
    Run `down` for a state folder when the block is left, or when this process is killed in it.

    The watchdog waits at a pipe that closes with this process, however it ends.
    """
    watchdog = subprocess.Popen(
        [sys.executable, "-c", WATCHDOG, str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait(60)
