"""Taking a slice from serving: out of the gateway's rotation, its server stopped."""

import asyncio
from typing import Final

import structlog

from launcher import stopping
from launcher.gateway_admin import GatewayAdmin
from launcher.runtime import Runtime
from launcher.state import ServerRecord

log = structlog.get_logger()

POLL_S: Final = 0.1
NOTICED_S: Final = 15.0
"""For the gateway to notice that a server has gone: it checks each slice once a second."""


async def vacate(
    record: ServerRecord,
    runtime: Runtime,
    gateway: GatewayAdmin | None,
    drain_timeout_s: float,
    stop_timeout_s: float,
    force: bool,
) -> None:
    """
    Stop a slice's server, so that no request fails.

    Args:
        record: The slice; it is reserved, so that nobody starts the server again.
        runtime: What it runs as.
        gateway: Drains the slice before; None: nobody does.
        drain_timeout_s: For requests in flight to end.
        stop_timeout_s: From SIGTERM to SIGKILL.
        force: Take also the last slice that serves, and what does not fall idle.

    Raises:
        GatewayError: It could not be drained; it serves as before.
    """
    async with _Away(gateway, record.spec.member.name) as away:
        await away.drain(drain_timeout_s, force)
        await stopping.stop([record.handle], runtime, stop_timeout_s, asyncio.Event())
        await away.noticed()


class _Away:
    """A slice out of the gateway's rotation; it is given back whatever happens."""

    def __init__(self, gateway: GatewayAdmin | None, name: str) -> None:
        self._gateway = gateway
        self._name = name
        self._drained = False

    async def drain(self, timeout_s: float, force: bool) -> None:
        """Let what is in flight end. Raises GatewayError."""
        if self._gateway is None or self._name not in await self._gateway.slices():
            return
        self._drained = True
        await self._gateway.drain(self._name, force)
        await self._gateway.wait_idle(frozenset({self._name}), timeout_s, force)

    async def noticed(self) -> None:
        """Wait until the gateway's checks have found the server gone: they keep it out from now."""
        if self._gateway is None or not self._drained:
            return
        deadline_s = asyncio.get_running_loop().time() + NOTICED_S
        while (await self._gateway.slices()).get(self._name, {}).get("healthy"):
            if asyncio.get_running_loop().time() > deadline_s:
                log.warning("gateway.unaware", slice=self._name, after_s=NOTICED_S)
                return
            await asyncio.sleep(POLL_S)

    async def __aenter__(self) -> "_Away":
        return self

    async def __aexit__(self, *_: object) -> None:
        # The order to drain would outlast the job; that no server answers keeps work away.
        if self._gateway is not None and self._drained:
            await self._gateway.enable(self._name)
