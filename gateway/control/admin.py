"""The admin API: REST over aiohttp. What it answers is made in views; docs/admin-api.md tells it."""

import asyncio
import errno
import importlib.metadata
import ipaddress
import json
import os
import platform
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import structlog
from aiohttp import web

from contract.slice_spec import Endpoint
from gateway.balance.policies import POLICIES
from gateway.control import exposition, openapi, views
from gateway.control.choices import ChoiceKeeper
from gateway.control.health import HealthChecker
from gateway.fleet.health import DISABLED, DRAINED, ENABLED, Order
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.quantities import duration_s

log = structlog.get_logger()

BODY_BYTES_MAX: Final = 64 * 1024
WAIT_S_MAX: Final = 3600.0
STOP_S: Final = 1.0
"""What waits for a slice to drain when the gateway stops is cut off after this."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminServer:
    """
    The admin API's server.

    Everything is read where it is: no copy of the fleet's state is kept here.
    """

    def __init__(
        self,
        listen: Endpoint,
        registry: SliceRegistry,
        counters: Counters,
        checker: HealthChecker,
        keeper: ChoiceKeeper,
        is_shutting_down: Callable[[], bool],
    ) -> None:
        self._listen = listen
        self._registry = registry
        self._counters = counters
        self._checker = checker
        self._keeper = keeper
        self._is_shutting_down = is_shutting_down
        self._runner: web.AppRunner | None = None
        self._process = psutil.Process()
        self._started_s = 0.0
        self._version = _version()

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._started_s = asyncio.get_running_loop().time()
        self._runner = web.AppRunner(
            self.application(), access_log=None, handle_signals=False, shutdown_timeout=STOP_S
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._listen.host, self._listen.port).start()
        except OSError as error:
            number = error.errno or errno.EADDRNOTAVAIL
            raise OSError(
                number, f"admin.listen {self._listen} cannot be had: {os.strerror(number)}"
            ) from error
        log.info("admin.started", listen=str(self._listen))

    async def stop(self) -> None:
        """Stop listening; answers under way have STOP_S."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def application(self) -> web.Application:
        """Return the routes as an aiohttp application."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/v1/slices", self._get_slices),
                web.get("/v1/slices/{name}", self._get_slice),
                web.post("/v1/slices/{name}/enable", self._ordering(ENABLED)),
                web.post("/v1/slices/{name}/drain", self._ordering(DRAINED)),
                web.post("/v1/slices/{name}/disable", self._ordering(DISABLED)),
                web.get("/v1/balancing", self._get_balancing),
                web.put("/v1/balancing", self._put_balancing),
                web.get("/metrics", self._get_metrics),
                web.get("/livez", self._get_livez),
                web.get("/readyz", self._get_readyz),
                web.get("/openapi.json", self._get_openapi),
            ]
        )
        return app

    # --- calls ------------------------------------------------------------------------------

    async def _get_slices(self, request: web.Request) -> web.Response:
        return _json(views.slices(self._registry.slices.values(), _now_s()))

    async def _get_slice(self, request: web.Request) -> web.Response:
        return _json(views.slice_view(self._named(request), _now_s()))

    def _ordering(self, order: Order) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def give(request: web.Request) -> web.Response:
            wait_s, force = _order_parameters(request)
            reason = f"asked for by {request.remote} through the admin API"
            # One at a time: two calls must not each take out what the other leaves.
            async with self._keeper.writing:
                member = self._named(request)
                refusal = views.refusal_to_empty(member, self._registry, order)
                if refusal and not force:
                    return _refused(409, refusal)
                try:
                    await self._keeper.order(member, order, reason)
                except OSError as error:
                    return self._not_saved(error)
            if order is not ENABLED and wait_s is not None:
                await _idle(member, wait_s)
                return _json(views.slice_view(member, _now_s()), 202 if member.in_flight else 200)
            return _json(views.slice_view(member, _now_s()))

        return give

    async def _get_balancing(self, request: web.Request) -> web.Response:
        return _json(views.balancing(self._keeper.policy, POLICIES))

    async def _put_balancing(self, request: web.Request) -> web.Response:
        try:
            document = json.loads(await request.read())
        except (ValueError, RecursionError):
            return _refused(400, 'the body is no JSON; send {"policy": "round_robin"}')
        name = document.get("policy") if isinstance(document, dict) else None
        if not isinstance(name, str) or name not in POLICIES:
            known = ", ".join(POLICIES)
            return _refused(400, f"policy is {_shown(name)}; known policies: {known}")
        unknown = sorted(set(document) - {"policy"})
        if unknown:
            return _refused(400, f"{_shown(unknown[0])} is no known key; known keys: policy")
        reason = f"asked for by {request.remote} through the admin API"
        async with self._keeper.writing:
            try:
                await self._keeper.set_policy(name, reason)
            except OSError as error:
                return self._not_saved(error)
        return _json(views.balancing(self._keeper.policy, POLICIES))

    async def _get_metrics(self, request: web.Request) -> web.Response:
        with self._process.oneshot():
            times = self._process.cpu_times()
            figures = exposition.ProcessFigures(
                times.user + times.system,
                self._process.memory_info().rss,
                self._process.num_fds(),
                _now_s() - self._started_s,
            )
        checks = {
            member.name: (watch.passed, watch.failed)
            for member, watch in self._checker.watches.items()
        }
        build = {"version": self._version, "python": platform.python_version()}
        text = exposition.exposition(
            self._registry.slices.values(), self._counters, checks, figures, build
        )
        return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _get_livez(self, request: web.Request) -> web.Response:
        return _json({"live": True})

    async def _get_readyz(self, request: web.Request) -> web.Response:
        ready, view = views.readiness(self._registry, self._is_shutting_down())
        return _json(view, 200 if ready else 503)

    async def _get_openapi(self, request: web.Request) -> web.Response:
        return _json(openapi.document(self._version))

    # --- what all calls share ---------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites' pages; give every error the one JSON form."""
        if request.method not in _SAFE and (refusal := self._foreign(request)):
            return _refused(403, refusal)
        try:
            return await handler(request)
        except web.HTTPException as error:
            answer = _refused(error.status, _sentence(error, request))
            if isinstance(error, web.HTTPMethodNotAllowed):
                answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return answer
        except Exception:
            log.exception("admin.call_failed", method=request.method, path=request.path)
            return _refused(500, "the gateway made a mistake; its log says which")

    def _foreign(self, request: web.Request) -> str | None:
        """
        Say why a state-changing call is not the operator's; None when it may be.

        A browser names the page that calls in Origin. A page of another site has another host
        there than in Host. A name that an attacker has pointed at this machine is the same in
        both, so a page may call only under an address, `localhost` or the name we listen on.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return None  # no browser
        if urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
            return f"a page from {_shown(origin)} may not change slices here"
        name = urlsplit(origin).hostname or ""
        if name in ("localhost", self._listen.host) or _is_address(name):
            return None
        return f"a page may change slices only under this machine's address, not as {_shown(name)}"

    def _named(self, request: web.Request) -> Slice:
        name = request.match_info["name"]
        member = self._registry.slices.get(name)
        if member is None:
            known = ", ".join(list(self._registry.slices)[:64]) or "none"
            raise web.HTTPNotFound(text=f"there is no slice {_shown(name)}; slices: {known}")
        return member

    def _not_saved(self, error: OSError) -> web.Response:
        where = self._keeper.path
        log.error("choices.not_written", path=str(where), reason=str(error))
        return _refused(
            500, f"nothing was changed: {where} cannot be written: {error.strerror or error}"
        )


async def _idle(member: Slice, wait_s: float) -> None:
    """Wait until nothing is in flight on `member`, `wait_s` at most."""
    if not member.in_flight:
        return
    idle = asyncio.Event()
    member.on_idle.append(idle.set)
    try:
        async with asyncio.timeout(wait_s):
            await idle.wait()
    except TimeoutError:
        pass
    finally:
        if idle.set in member.on_idle:
            member.on_idle.remove(idle.set)


def _order_parameters(request: web.Request) -> tuple[float | None, bool]:
    """Return (seconds to wait or None, force) of an order call."""
    query = request.query
    unknown = sorted(set(query) - {"wait", "force"})
    if unknown:
        raise web.HTTPBadRequest(
            text=f"{_shown(unknown[0])} is no known parameter; known: wait, force"
        )
    force = query.get("force", "false").lower()
    if force not in ("", "0", "1", "false", "true"):
        raise web.HTTPBadRequest(text=f"force is {_shown(force)}; allowed is true or false")
    wait_s = None
    if "wait" in query:
        try:
            wait_s = duration_s(query["wait"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"wait: {error}") from None
        if wait_s > WAIT_S_MAX:
            raise web.HTTPBadRequest(text=f"wait is {wait_s:g} s; the most is {WAIT_S_MAX:g} s")
    return wait_s, force in ("", "1", "true")


def _sentence(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return f"{request.method} is not allowed here; allowed: {allowed}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the body is larger than {BODY_BYTES_MAX} bytes"
    if isinstance(error, web.HTTPNotFound) and error.text == "404: Not Found":
        return f"there is no {_shown(request.path)} here; GET /openapi.json lists what there is"
    return error.text or error.reason


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, headers={"Cache-Control": "no-store"})


def _refused(status: int, message: str) -> web.Response:
    return _json({"error": message}, status)


def _shown(value: object) -> str:
    """Quote what came from outside: bounded, without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _now_s() -> float:
    """The clock of the checks; see ControlPlane."""
    return asyncio.get_running_loop().time()


def _version() -> str:
    try:
        return importlib.metadata.version("mig-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a folder that was never installed
