"""The control plane around real Tritons, without a gateway in front."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.balance.policies import POLICIES
from gateway.config_health import HealthSection
from gateway.control.health import HealthChecker
from gateway.control.probes import TritonProbe
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.triton.composer import Composer
from gateway.triton.crew import CallTimeouts
from tests.support.tritons import RealTriton

REPOSITORY: Final = Path(__file__).parents[3]
HEALTH: Final = HealthSection(
    interval=0.5, timeout=2.0, rise=2, fall=3, fast_interval=0.2, down_interval=0.2
)


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
