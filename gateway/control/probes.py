"""
One check of one slice.

To add a probe: write a class with `check()`, give it a line in PROBES and its name to
gateway.config_health.PROBES.
"""

import asyncio
import errno
import json
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from urllib.parse import quote

import aiohttp

from contract.slice_spec import SliceSpec
from gateway.config_health import HealthSection
from gateway.control.grpc_probe import BothProbes, GrpcProbe
from gateway.fleet.health import CheckResult
from gateway.sockets import LATE_S, OWN_LACKS

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""A repository of a thousand models has an index of 100 KiB."""
MODELS_MAX: Final = 4096
"""Each makes three pools."""

_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE})

Models = dict[str, tuple[str, ...]]


class CheckNotMadeError(Exception):
    """The gateway itself lacked something (file descriptors, ports, memory): nothing was learned."""


class Probe(Protocol):
    """Looks whether a slice lives, and what it has ready."""

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        """
        Return what was found within `timeout_s`; what the slice does wrong is a failed result.

        Raises:
            CheckNotMadeError: Nothing was learned.
        """

    async def close(self) -> None:
        """Give back what the probe holds."""


class TritonProbe:
    """
    Triton's own word: it is live, and these models are ready.

    A new TCP connection each time: on a kept one a Triton that was told to stop still says it is
    ready, while new ones are reset. The server-wide `/v2/health/ready` is not asked: it is false
    while any model loads, and for good after one failed load. Triton opens its HTTP port only
    after the models of its start are loaded (seen with 2.51), so "live" is late enough.

    Args:
        models: Those whose own `/ready` is asked as well, and has to be 200: a server may list a
            model as ready that is not (a killed Python stub, with newer Tritons).
    """

    def __init__(self, models: Sequence[str] = ()) -> None:
        self._models = tuple(models)
        self._session: aiohttp.ClientSession | None = None

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        deadline_s = began_s + timeout_s
        result = await self._check(f"http://{spec.http}", deadline_s, timeout_s)
        late_s = loop.time() - deadline_s
        if not result.passed and not result.conclusive and late_s > LATE_S:
            raise CheckNotMadeError(f"the gateway itself stood still for {late_s:.1f} s")
        return CheckResult(
            result.passed, result.reason, result.conclusive, result.models, loop.time() - began_s
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _check(self, url: str, deadline_s: float, timeout_s: float) -> CheckResult:
        asked = "GET /v2/health/live"
        try:
            async with asyncio.timeout_at(deadline_s):
                status, _body = await self._ask("GET", f"{url}/v2/health/live")
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            return _failure(asked, error, timeout_s)
        if status != 200:
            # The server's own word; it needs no second look.
            return CheckResult(False, f"{asked} was answered {status}", conclusive=True)
        asked = "POST /v2/repository/index"
        try:
            async with asyncio.timeout_at(deadline_s):
                status, body = await self._ask("POST", f"{url}/v2/repository/index")
            models = ready_models(body) if status == 200 else None
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = "not answered in time" if isinstance(error, TimeoutError) else str(error)
            return CheckResult(True, f"live; its models are not known, {asked}: {why}")
        if models is None:
            return CheckResult(True, f"live; its models are not known, {asked}: status {status}")
        for name in await self._unready(url, models, deadline_s):
            del models[name]
        return CheckResult(True, f"live; {len(models)} models ready", models=models)

    async def _unready(self, url: str, models: Models, deadline_s: float) -> list[str]:
        """Return those of the models to be asked that do not say in time that they are ready."""

        async def is_ready(name: str) -> bool:
            try:
                async with asyncio.timeout_at(deadline_s):
                    path = f"/v2/models/{quote(name, safe='')}/ready"
                    return (await self._ask("GET", url + path))[0] == 200
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
                return False

        asked = [name for name in self._models if name in models]
        found = await asyncio.gather(*map(is_ready, asked))
        return [name for name, ready in zip(asked, found, strict=True) if not ready]

    async def _ask(self, method: str, url: str) -> tuple[int, bytes]:
        session = self._opened()
        # Triton compresses for whoever says so, and aiohttp says so unless told not to.
        async with session.request(
            method,
            url,
            data=b'{"ready":true}' if method == "POST" else None,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            allow_redirects=False,
        ) as answer:
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise ValueError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
            return answer.status, bytes(body)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # limit=0: a check never waits for another. No DNS cache: a container that is made
            # anew under its old name has another address.
            connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def ready_models(body: bytes) -> Models:
    """
    Read a repository index: for each model with a READY version, those versions.

    Raises:
        ValueError: The body is no index.
    """
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("the index is nested too deep") from None
    if not isinstance(document, list):
        raise ValueError("the index is no list")
    found: dict[str, list[str]] = {}
    for entry in document:
        if not isinstance(entry, dict):
            raise ValueError("an entry of the index is no object")
        name, state = entry.get("name"), entry.get("state")
        if state == "READY" and isinstance(name, str):
            found.setdefault(name, []).append(str(entry.get("version", "")))
    if len(found) > MODELS_MAX:
        raise ValueError(f"the index has more than {MODELS_MAX} models")
    return {name: tuple(sorted(filter(None, found[name]), key=_version)) for name in sorted(found)}


def _version(text: str) -> tuple[int, str]:
    return (int(text) if text.isascii() and text.isdigit() else 0, text)


def _failure(asked: str, error: Exception, timeout_s: float) -> CheckResult:
    """Return what an exception says about the slice; raise CheckNotMadeError when it says nothing."""
    if isinstance(error, TimeoutError):
        return CheckResult(False, f"{asked} was not answered within {timeout_s:g} s")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return CheckResult(
            False, f"{asked}: the connection was closed without an answer", conclusive=True
        )
    number = getattr(error, "errno", None)
    if number in OWN_LACKS:
        raise CheckNotMadeError(str(error)) from error
    if number in _GONE:
        what = "refused" if number == errno.ECONNREFUSED else "reset"
        return CheckResult(False, f"{asked}: the connection was {what}", conclusive=True)
    return CheckResult(False, f"{asked}: {str(error) or type(error).__name__}")


PROBES: Final[dict[str, Callable[[HealthSection], Probe]]] = {
    "triton": lambda settings: TritonProbe(settings.models),
    "grpc": lambda _: GrpcProbe(),
    "both": lambda settings: BothProbes(TritonProbe(settings.models), GrpcProbe()),
}


def make_probe(settings: HealthSection) -> Probe:
    """Return the probe that is configured. Raises RuntimeError when it needs what is missing."""
    return PROBES[settings.probe](settings)
