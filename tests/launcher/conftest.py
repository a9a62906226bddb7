"""What launcher tests share: GPUs on paper, free ports, and a watchdog over real processes."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from tests.launcher.helpers import REPOSITORY, Launcher

SLICES_MAX = 7
WATCHDOG = """
import subprocess, sys
sys.stdin.read()  # until every copy of the other end is closed: the test has ended, or was killed
subprocess.run([sys.executable, "-m", "launcher", "down", "--state-dir", sys.argv[1]], check=False)
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command sets up logging to the standard error of its test; the next has another one."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def a100(tmp_path: Path) -> Simulator:
    """An A100-40GB on paper with MIG mode on, that no process uses."""
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"], holders=lambda _: ())
    gpu.set_mig_mode(True)
    return gpu


@pytest.fixture
def port_base() -> int:
    """A base whose ports are free for seven slices."""
    for _ in range(100):
        base = random.randrange(10_000, 30_000, 10)
        if all(_is_free(base + 10 * i + k) for i in range(SLICES_MAX) for k in range(3)):
            return base
    raise AssertionError("no free block of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture
def launcher(tmp_path: Path, port_base: int) -> Iterator[Launcher]:
    """
    A launcher whose processes end with the test.

    The watchdog waits at a pipe that closes with this process, however it ends, and then runs
    `down`: a killed test run leaves nothing either.
    """
    made = Launcher(tmp_path, port_base)
    watchdog = subprocess.Popen(
        [sys.executable, "-c", WATCHDOG, str(made.state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield made
    finally:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait(60)
