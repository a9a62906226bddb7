"""Real Tritons, each started by hand, so that a test can kill, stop and start it again."""

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contract.slice_spec import Endpoint, SliceSpec
from launcher import triton_install
from tests.support.children import ending_with_us
from tests.support.waiting import free_ports, wait_until

LIVE_WITHIN_S: Final = 60.0
ENDED_WITHIN_S: Final = 40.0


class RealTriton:
    """
    One server.

    Args:
        repositories: Model repositories.
        models: Those to load at the start; None for explicit mode with none of them.
        environment: Further variables, which models see.

    Attributes:
        spec: Where it listens; the same after a restart.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        repositories: Sequence[Path],
        models: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        http, grpc, metrics = free_ports(3)
        self.spec = SliceSpec(
            name,
            Endpoint("127.0.0.1", http),
            Endpoint("127.0.0.1", grpc),
            Endpoint("127.0.0.1", metrics),
        )
        self._folder = folder
        self._repositories = repositories
        self._models = models
        self._environment = environment or {}
        self._prefix = f"tests_{os.getpid()}_{http}_"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is live later."""
        found = triton_install.find(None)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        metrics = self.spec.metrics
        assert metrics is not None
        ports = {"http": self.spec.http, "grpc": self.spec.grpc, "metrics": metrics}
        command = [
            *(str(found.binary), *found.arguments),
            *(f"--model-repository={path}" for path in self._repositories),
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self._models),
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            "--allow-gpu-metrics=false",
            *(f"--{kind}-address=127.0.0.1" for kind in ports),
            *(f"--{kind}-port={endpoint.port}" for kind, endpoint in ports.items()),
        ]
        with (self._folder / f"{self.spec.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                ending_with_us(command), env={**inherited, **found.environment, **self._environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_live(self) -> None:
        wait_until(self.is_live, f"{self.spec.name} is live", LIVE_WITHIN_S)

    def is_live(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Triton ended; see its log"
        try:
            with urllib.request.urlopen(f"http://{self.spec.http}/v2/health/live", timeout=1):
                return True
        except OSError:
            return False

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the server, and to it alone."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it and its stubs at once, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._clean_up()

    def stop(self) -> None:
        """Let it end as its owner would: SIGTERM, and in the end SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDED_WITHIN_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        for left in Path("/dev/shm").glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)
