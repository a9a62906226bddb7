"""The gateway's admin API, as far as the demo needs it."""

from types import TracebackType
from typing import Any, Self

import aiohttp


class AdminError(Exception):
    """The admin API cannot be reached, or says no."""


class Admin:
    """A client of the admin API at `address`, `host:port`."""

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}"
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def slices(self) -> list[dict[str, Any]]:
        """Return the view of every slice."""
        answer = await self._ask("GET", "/v1/slices")
        return list(answer["slices"])

    async def order(self, name: str, verb: str, wait: str = "30s") -> dict[str, Any]:
        """Enable or disable slice `name`; a disable returns when nothing is in flight there."""
        return await self._ask("POST", f"/v1/slices/{name}/{verb}?wait={wait}")

    async def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            async with self._session.request(method, self._base + path) as answer:
                body: dict[str, Any] = await answer.json(content_type=None)
                if answer.status >= 400:
                    raise AdminError(f"{method} {path}: {answer.status} {body.get('error')}")
                return body
        except (aiohttp.ClientError, ValueError, TimeoutError) as error:
            raise AdminError(f"{method} {path}: {error}") from error
