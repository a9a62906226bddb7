"""Real Tritons for the composer: started by hand, so that a test can kill one and start it again."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.config_health import HealthSection
from gateway.control.health import HealthChecker
from gateway.control.probes import TritonProbe
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.triton.composer import Composer
from gateway.triton.crew import CallTimeouts
from launcher import triton_install
from tests.support.children import ending_with_us

REPOSITORY: Final = Path(__file__).parents[3]
LIVE_WITHIN_S: Final = 60.0
HEALTH: Final = HealthSection(
    interval=0.5, timeout=2.0, rise=2, fall=3, fast_interval=0.2, down_interval=0.2
)


class RealTriton:
    """
    One server in explicit mode, with only `models` loaded.

    Attributes:
        spec: Where it listens; the same after a restart.
    """

    def __init__(
        self, name: str, folder: Path, repositories: Sequence[Path], models: Sequence[str] = ()
    ) -> None:
        http, grpc, metrics = _free_ports(3)
        self.spec = SliceSpec(
            name,
            Endpoint("127.0.0.1", http),
            Endpoint("127.0.0.1", grpc),
            Endpoint("127.0.0.1", metrics),
        )
        self._folder = folder
        self._repositories = repositories
        self._models = models
        self._prefix = f"composer_{os.getpid()}_{http}_"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
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
                ending_with_us(command), env={**inherited, **found.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def wait_live(self) -> None:
        url = f"http://{self.spec.http}/v2/health/live"
        async with asyncio.timeout(LIVE_WITHIN_S), aiohttp.ClientSession() as session:
            while True:
                assert self._process is not None
                assert self._process.poll() is None, "Triton ended; see its log"
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url):
                        return
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it and its stubs at once, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for left in Path("/dev/shm").glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)


class RealFleet:
    """Servers, a registry, a checker that runs and a composer, joined as in the gateway."""

    def __init__(self, tritons: Sequence[RealTriton], journal_file: Path) -> None:
        self.tritons = {triton.spec.name: triton for triton in tritons}
        clock = asyncio.get_running_loop().time
        self.registry = SliceRegistry(POLICIES["least_load"], HEALTH.thresholds(), clock)
        self.composer = Composer(
            self.registry,
            journal_file,
            CallTimeouts(),
            self._check_now,
        )
        self.checker = HealthChecker(self.registry, TritonProbe(), HEALTH)
        self.checker.preparer = self.composer

    def __getitem__(self, name: str) -> Slice:
        return self.registry.slices[name]

    async def _check_now(self, members: Sequence[Slice]) -> None:
        await self.checker.check_now(members)

    async def start(self) -> None:
        self.composer.start()
        self.checker.start()
        self.registry.replace([triton.spec for triton in self.tritons.values()])

    async def stop(self) -> None:
        await self.checker.stop()
        await self.composer.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
