"""Runs one real Triton server on free ports, for these tests."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from launcher import triton_install
from tests.support.children import ending_with_us

READY_WITHIN_S: Final = 40.0
STOPPED_WITHIN_S: Final = 10.0


class BareTriton:
    """
    A server that runs.

    Attributes:
        http, grpc: `host:port` of each protocol.
    """

    def __init__(self, http: str, grpc: str) -> None:
        self.http = http
        self.grpc = grpc


@contextlib.contextmanager
def bare_triton(repositories: list[Path], folder: Path) -> Iterator[BareTriton]:
    """
    Run one server over `repositories` until the block ends; it dies with this process too.

    Args:
        repositories: Model repositories; all models in them are loaded.
        folder: Takes the log.

    Raises:
        launcher.errors.StartError: There is no Triton; says what to install.
        RuntimeError: The server ended or was not ready in time; the text holds its log.
    """
    ports = _free_ports(3)
    prefix = f"models_spec_{os.getpid()}_{ports[0]}_"
    found = triton_install.find(None)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    command = [
        *(str(found.binary), *found.arguments),
        *(f"--model-repository={path}" for path in repositories),
        # What a killed server leaves in shared memory can be told by this name.
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--allow-gpu-metrics=false",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        *(f"--{kind}-port={p}" for kind, p in zip(("http", "grpc", "metrics"), ports, strict=True)),
    ]
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            # The Python backend's stubs end when their server is gone.
            ending_with_us(command),
            env={**inherited, **found.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_ready(process, ports[0], log)
        yield BareTriton(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    finally:
        _stop(process)
        for left in Path("/dev/shm").glob(f"{prefix}*"):
            left.unlink(missing_ok=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOPPED_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # itself or a stub that is left
    process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    while process.poll() is None and time.monotonic() < deadline:
        # URLError and HTTPError are OSErrors.
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.05)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    raise RuntimeError(f"Triton is not ready (exit code {process.poll()}):\n{end}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
