"""What launcher tests share: GPUs on paper, free ports, and a watchdog over real processes."""

import ctypes
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
import structlog

from launcher.nvml import RealNvml
from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from tests.launcher.helpers import Launcher
from tests.support.watchdog import taken_down_after

SLICES_MAX = 7


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


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1 that is strict about how it is called."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).parent / "nvml_stand_in" / "nvml.c"
    library = folder / "libnvidia-ml.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", str(library), str(source)], check=True)
    return folder


@pytest.fixture
def nvml(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], RealNvml]]:
    """Opens RealNvml on the stand-in, with so many GPUs; its calls are in `calls` of tmp_path."""
    monkeypatch.setenv("NVML_STAND_IN_STATE", str(tmp_path / "gpus"))
    monkeypatch.setenv("NVML_STAND_IN_LOG", str(tmp_path / "calls"))
    # A copy, as a library is loaded once for each file, and keeps its state.
    library = tmp_path / "libnvidia-ml.so.1"
    library.write_bytes((stand_in / library.name).read_bytes())
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    opened = []

    def open_with(gpus: int) -> RealNvml:
        monkeypatch.setenv("NVML_STAND_IN_GPUS", str(gpus))
        opened.append(RealNvml())
        return opened[-1]

    yield open_with
    for host in opened:
        host.close()


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
    """A launcher whose processes end with the test, or with a killed test run."""
    made = Launcher(tmp_path, port_base)
    with taken_down_after(made.state_dir):
        yield made
