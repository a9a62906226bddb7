"""
What a re-cut asks of the gateway: give this slice no more work, and tell when it has none.

The gateway is asked by its admin API; it need not run where nothing is served yet.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from launcher.errors import GatewayError

log = structlog.get_logger()

CALL_S: Final = 10.0
APPEARS_S: Final = 60.0
"""The gateway reads the inventory twice a second, and checks a slice before it lets it in."""
POLL_S: Final = 0.1
CONFLICT: Final = 409
NOT_FOUND: Final = 404
ERRORS_FROM: Final = 400


class GatewayAdmin:
    """
    One gateway's admin API.

    Args:
        address: `host:port`.
        token_file: Holds a bearer token; None where none is asked for.
    """

    def __init__(self, address: str, token_file: Path | None = None) -> None:
        self.address = address
        self._token_file = token_file

    async def answers(self) -> bool:
        """Whether there is a gateway."""
        try:
            await self._call("GET", "/v1/slices")
        except GatewayError:
            return False
        return True

    async def slices(self) -> dict[str, dict[str, Any]]:
        """Return what the gateway says of each slice, by name. Raises GatewayError."""
        _, document = await self._call("GET", "/v1/slices")
        return {entry["name"]: entry for entry in document["slices"]}

    async def drain(self, name: str, force: bool) -> None:
        """Give a slice no more work. Raises GatewayError: it is the last that serves, unless forced."""
        query = "?force=true" if force else ""
        status, document = await self._call("POST", f"/v1/slices/{name}/drain{query}")
        if status == CONFLICT:
            raise GatewayError(
                f"{name} is the last slice that serves ({document.get('error', '')}): re-cutting it "
                "would fail requests; do it all the same with --force"
            )
        log.info("slice.drained", slice=name)

    async def wait_idle(self, names: frozenset[str], timeout_s: float, force: bool) -> None:
        """Wait until slices have nothing in flight. Raises GatewayError: time is up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            known = await self.slices()
            busy = {n: known[n]["in_flight"] for n in names & known.keys() if known[n]["in_flight"]}
            if not busy:
                return
            if loop.time() > deadline_s:
                break
            await asyncio.sleep(POLL_S)
        if not force:
            still = ", ".join(f"{name} still has {count}" for name, count in sorted(busy.items()))
            raise GatewayError(
                f"{still} requests in flight after {timeout_s:g} s; run this again, with a longer "
                "--drain-timeout, or with --force, which cuts them off"
            )

    async def enable(self, name: str) -> None:
        """Give a slice work again; one that was just added may not be known yet. Raises GatewayError."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + APPEARS_S
        while True:
            status, document = await self._call("POST", f"/v1/slices/{name}/enable")
            if status != NOT_FOUND:
                log.info("slice.enabled", slice=name)
                return
            if loop.time() > deadline_s:
                raise GatewayError(
                    f"the gateway at {self.address} does not know {name}: {document.get('error', '')}"
                )
            await asyncio.sleep(POLL_S)

    async def wait_gone(self, names: frozenset[str]) -> None:
        """Wait until slices that left the inventory have left the gateway. Raises GatewayError."""
        await self._wait(lambda known: not names & known.keys(), f"{sorted(names)} are gone")

    async def wait_serving(self, names: frozenset[str]) -> None:
        """Wait until slices take traffic. Raises GatewayError."""
        await self._wait(
            lambda known: all(known.get(name, {}).get("state") == "ready" for name in names),
            f"{sorted(names)} serve",
        )

    async def _wait(self, condition: Any, what: str) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + APPEARS_S
        while not condition(await self.slices()):
            if loop.time() > deadline_s:
                raise GatewayError(
                    f"the gateway at {self.address} does not say within {APPEARS_S:g} s that {what}; "
                    "does it read this launcher's inventory?"
                )
            await asyncio.sleep(POLL_S)

    async def _call(
        self, method: str, path: str, timeout_s: float = CALL_S
    ) -> tuple[int, Mapping[str, Any]]:
        url = f"http://{self.address}{path}"
        limit = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=self._headers()) as session,
                session.request(method, url) as answer,
            ):
                document = await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise GatewayError(
                f"the gateway's admin API at {self.address} does not answer ({reason}); name it with "
                "--gateway-admin, or re-cut without draining with --no-drain"
            ) from error
        known = (CONFLICT, NOT_FOUND)
        if answer.status >= ERRORS_FROM and answer.status not in known:
            raise GatewayError(
                f"the gateway refused {method} {path}: {answer.status} {document.get('error', '')}"
            )
        return answer.status, document if isinstance(document, dict) else {}

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise GatewayError(f"{self._token_file}: cannot be read: {error.strerror}") from error
        return {"Authorization": f"Bearer {token}"}
