"""The admin API: REST over aiohttp. What it answers is made in views; docs/admin-api.md tells it."""

import asyncio
import importlib.metadata
import json
import platform
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import psutil
import structlog
from aiohttp import web

from contract.slice_spec import Endpoint
from gateway.balance.policies import POLICIES
from gateway.config import ConfigError
from gateway.config_security import UnixSocket
from gateway.control import audit, exposition, openapi, pages, processes, views
from gateway.control.auth import Access
from gateway.control.choices import ChoiceKeeper
from gateway.control.event_stream import EventStream
from gateway.control.events import EventLog
from gateway.control.flowers import FlowerCalls, Front
from gateway.control.gate import (
    BODY_BYTES_MAX,
    Gate,
    Handler,
    add_headers,
    answered,
    quoted,
    refused,
)
from gateway.control.health import HealthChecker
from gateway.control.live import LiveFeed
from gateway.control.live_stream import LiveStream
from gateway.control.processes import ProcessCalls
from gateway.control.reload import Reloader
from gateway.control.security import Security
from gateway.control.site import AdminSite
from gateway.fleet.health import DISABLED, DRAINED, ENABLED, Order
from gateway.fleet.queue_report import QueueReport, report
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.quantities import duration_s

log = structlog.get_logger()

WAIT_S_MAX: Final = 3600.0
IDLE_S: Final = 75.0
"""Between two calls on one connection."""
STOP_S: Final = 1.0
"""What waits for a slice to drain when the gateway stops is cut off after this."""
LOOK_S: Final = 0.05


class AdminServer:
    """
    The admin API's server.

    Everything is read where it is: no copy of the fleet's state is kept here.

    Args:
        listen: Where it listens.
        security: Who may call, and the certificates; anybody over plain text when None.
        not_serving: Says why clients are not served, as the gateway starts or stops; "" while they are.
        events: What `GET /v1/events` tells; nothing ever happens when None.

    Attributes:
        reloader: Carries `POST /v1/reload` out; None where there is no file to read again.
        slice_metrics: Returns the slices' own metrics, for `GET /metrics`; None for none.
        processes: The data planes, and the calls about them; None where there are none.
        taken_over: The sockets to listen on, where another process had them before.
        clients: Where clients find the gateway, for people to read.
        front: The same for the flower client; None for no flower client.
    """

    def __init__(
        self,
        listen: Endpoint | UnixSocket,
        registry: SliceRegistry,
        counters: Counters,
        checker: HealthChecker,
        keeper: ChoiceKeeper,
        not_serving: Callable[[], str],
        security: Security | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.reloader: Reloader | None = None
        self.slice_metrics: Callable[[], Awaitable[str]] | None = None
        self.processes: ProcessCalls | None = None
        self.taken_over: Sequence[socket.socket] = ()
        self.clients: tuple[Endpoint, ...] = ()
        self.front: Front | None = None
        self._flowers: FlowerCalls | None = None
        self._sites: list[AdminSite] = []
        self._gate = Gate(listen, (lambda: security.access) if security else Access, counters)
        self._tls = security.admin_tls if security else None
        self._listen = listen
        self._registry = registry
        self._counters = counters
        self._checker = checker
        self._keeper = keeper
        self._events = events or EventLog()
        self._live = LiveFeed(registry, self._events, self._about, self._sync, self._told_queues)
        self._not_serving = not_serving
        self._runner: web.AppRunner | None = None
        self._process = psutil.Process()
        self._started_s = 0.0
        self._version = _version()

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        self._started_s = asyncio.get_running_loop().time()
        self._runner = web.AppRunner(
            self.application(), access_log=None, handle_signals=False, shutdown_timeout=STOP_S,
            keepalive_timeout=IDLE_S,
        )  # fmt: skip
        await self._runner.setup()
        for sock in self.taken_over or (None,):
            site = AdminSite(
                self._runner, self._listen, self._tls, sock,
                lambda: self._counters.limit("admin_connections"),
            )  # fmt: skip
            await site.start()
            self._sites.append(site)
        log.info("admin.started", listen=str(self._listen), tls=self._tls is not None)

    @property
    def numbers(self) -> list[int]:
        """The file descriptors it listens on."""
        return [number for site in self._sites for number in site.numbers]

    def hand_over(self) -> None:
        """Let another process answer from now on; calls under way are answered here."""
        for site in self._sites:
            site.hand_over()
        self._live.close()
        if self._runner is not None and self._runner.server is not None:
            self._runner.server.pre_shutdown()

    async def stop(self) -> None:
        """Stop listening; answers under way have STOP_S."""
        await self._live.stop()
        if self._flowers is not None:
            await self._flowers.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def application(self) -> web.Application:
        """Return the routes as an aiohttp application."""
        calls = self.processes
        middlewares = [self._hear, self._gate.guarded, *([calls.current] if calls else [])]
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=middlewares)
        app.on_response_prepare.append(add_headers)
        if self.front is not None:
            self._flowers = FlowerCalls(self.front, self._gate.caller)
            app.add_routes(self._flowers.routes())
        app.add_routes(
            [
                web.get("/v1/slices", self._get_slices),
                web.get("/v1/slices/{name}", self._get_slice),
                web.post("/v1/slices/{name}/enable", self._ordering(ENABLED)),
                web.post("/v1/slices/{name}/drain", self._ordering(DRAINED)),
                web.post("/v1/slices/{name}/disable", self._ordering(DISABLED)),
                web.get("/v1/balancing", self._get_balancing),
                web.put("/v1/balancing", self._put_balancing),
                web.get("/v1/queues", self._get_queues),
                web.post("/v1/reload", self._post_reload),
                web.get("/v1/events", EventStream(self._events).get),
                web.get("/v1/live", LiveStream(self._live, self._gate.caller).get),
                web.get("/metrics", self._get_metrics),
                web.get("/livez", self._get_livez),
                web.get("/readyz", self._get_readyz),
                web.get("/openapi.json", self._get_openapi),
                *(calls.routes(self._gate.caller) if calls else ()),
                *pages.routes(),
            ]
        )
        return app

    @web.middleware
    async def _hear(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        for site in self._sites:
            site.heard(request.protocol)
        return await handler(request)

    # --- calls ------------------------------------------------------------------------------

    async def _get_slices(self, request: web.Request) -> web.Response:
        return answered(views.slices(self._registry.slices.values(), _now_s()))

    async def _get_slice(self, request: web.Request) -> web.Response:
        return answered(views.slice_view(self._named(request), _now_s()))

    def _ordering(self, order: Order) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def give(request: web.Request) -> web.Response:
            wait_s, force = _order_parameters(request)
            caller = self._gate.caller(request)
            # One at a time: two calls must not each take out what the other leaves.
            async with self._keeper.writing:
                member = self._named(request)
                refusal = views.refusal_to_empty(member, self._registry, order)
                if refusal and not force:
                    return refused(409, refusal)
                before = member.order
                try:
                    await self._keeper.order(member, order, f"asked for by {caller}")
                except OSError as error:
                    return self._not_saved(error)
                audit.changed(caller, f"slices.{member.name}.order", before.value, order.value)
            if self.processes is not None:
                await self.processes.sync()
            if order is not ENABLED and wait_s is not None:
                await _idle(member, wait_s)
                return answered(
                    views.slice_view(member, _now_s()), 202 if _is_busy(member) else 200
                )
            return answered(views.slice_view(member, _now_s()))

        return give

    async def _get_balancing(self, request: web.Request) -> web.Response:
        return answered(views.balancing(self._keeper.policy, POLICIES))

    async def _put_balancing(self, request: web.Request) -> web.Response:
        caller = self._gate.caller(request)
        try:
            document = json.loads(await request.read())
        except (ValueError, RecursionError):
            return refused(400, 'the body is no JSON; send {"policy": "round_robin"}')
        name = document.get("policy") if isinstance(document, dict) else None
        if not isinstance(name, str) or name not in POLICIES:
            known = ", ".join(POLICIES)
            return refused(400, f"policy is {quoted(name)}; known policies: {known}")
        unknown = sorted(set(document) - {"policy"})
        if unknown:
            return refused(400, f"{quoted(unknown[0])} is no known key; known keys: policy")
        async with self._keeper.writing:
            before = self._keeper.policy
            try:
                await self._keeper.set_policy(name, f"asked for by {caller}")
            except OSError as error:
                return self._not_saved(error)
            audit.changed(caller, "balancing.policy", before, name)
        return answered(views.balancing(self._keeper.policy, POLICIES))

    async def _get_queues(self, request: web.Request) -> web.Response:
        return answered(views.queues(self._registry.queues, self._told_queues()))

    def _told_queues(self) -> QueueReport:
        calls = self.processes
        return calls.processes.queues() if calls else report(self._registry.queues)

    async def _post_reload(self, request: web.Request) -> web.Response:
        caller = self._gate.caller(request)
        if self.reloader is None:
            return refused(409, "this gateway was not started from a file that can be read again")
        try:
            outcome = await self.reloader.reload(caller)
        except ConfigError as error:
            count = len(error.errors)
            return answered(
                {
                    "error": f"nothing was changed: the configuration has {count} "
                    f"{'mistake' if count == 1 else 'mistakes'}; {error.errors[0]}",
                    "errors": error.errors,
                },
                422,
            )
        return answered(outcome.view())

    async def _get_metrics(self, request: web.Request) -> web.Response:
        figures = self._figures()
        checks = {
            member.name: (watch.passed, watch.failed)
            for member, watch in self._checker.watches.items()
        }
        build = {"version": self._version, "python": platform.python_version()}
        text = exposition.exposition(
            self._registry.slices.values(), self._counters, checks, figures, build,
            self._events.counts, self._registry.panicking, self._told_queues(),
        )  # fmt: skip
        if self.slice_metrics is not None and _wants_slices(request):
            text += await self.slice_metrics()
        return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _get_livez(self, request: web.Request) -> web.Response:
        return answered({"live": True})

    async def _get_readyz(self, request: web.Request) -> web.Response:
        ready, view = views.readiness(self._registry, self._not_serving())
        if self._gate.known(request) is None:  # asked without a token: the answer names no slice
            view = {"ready": ready}
        return answered(view, 200 if ready else 503)

    async def _get_openapi(self, request: web.Request) -> web.Response:
        return answered(openapi.document(self._version))

    # --- for the live page --------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        return views.gateway(
            self._version, self.clients, self._keeper.policy, POLICIES, self._registry,
            self._not_serving(), self._counters, self._figures(), self._told_queues(),
        )  # fmt: skip

    async def _sync(self) -> None:
        if self.processes is not None:
            await self.processes.sync()

    def _figures(self) -> exposition.ProcessFigures:
        return processes.figures(self._process, self.processes, _now_s() - self._started_s)

    # --- what calls share ---------------------------------------------------------------------

    def _named(self, request: web.Request) -> Slice:
        name = request.match_info["name"]
        member = self._registry.slices.get(name)
        if member is None:
            known = ", ".join(list(self._registry.slices)[:64]) or "none"
            raise web.HTTPNotFound(text=f"there is no slice {quoted(name)}; slices: {known}")
        return member

    def _not_saved(self, error: OSError) -> web.Response:
        where = self._keeper.path
        log.error("choices.not_written", path=str(where), reason=str(error))
        return refused(
            500, f"nothing was changed: {where} cannot be written: {error.strerror or error}"
        )


def _is_busy(member: Slice) -> bool:
    """Say whether a slice that was taken out still has something to finish."""
    return member.in_flight > 0 or member.sequences > 0


async def _idle(member: Slice, wait_s: float) -> None:
    """Wait until nothing is in flight on `member` and its sequences are over, `wait_s` at most."""
    idle = asyncio.Event()
    try:
        async with asyncio.timeout(wait_s):
            while _is_busy(member):
                if member.in_flight:
                    idle.clear()
                    member.on_idle.append(idle.set)
                    await idle.wait()
                else:  # between two requests of a sequence
                    await asyncio.sleep(LOOK_S)
    except TimeoutError:
        pass
    finally:
        if idle.set in member.on_idle:
            member.on_idle.remove(idle.set)


def _wants_slices(request: web.Request) -> bool:
    """`GET /metrics?slices=false` is the gateway's own metrics alone."""
    wanted = request.query.get("slices", "true").lower()
    if wanted not in ("", "0", "1", "false", "true"):
        raise web.HTTPBadRequest(text=f"slices is {quoted(wanted)}; allowed is true or false")
    return wanted in ("", "1", "true")


def _order_parameters(request: web.Request) -> tuple[float | None, bool]:
    """Return (seconds to wait or None, force) of an order call."""
    query = request.query
    unknown = sorted(set(query) - {"wait", "force"})
    if unknown:
        raise web.HTTPBadRequest(
            text=f"{quoted(unknown[0])} is no known parameter; known: wait, force"
        )
    force = query.get("force", "false").lower()
    if force not in ("", "0", "1", "false", "true"):
        raise web.HTTPBadRequest(text=f"force is {quoted(force)}; allowed is true or false")
    wait_s = None
    if "wait" in query:
        try:
            wait_s = duration_s(query["wait"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"wait: {error}") from None
        if wait_s > WAIT_S_MAX:
            raise web.HTTPBadRequest(text=f"wait is {wait_s:g} s; the most is {WAIT_S_MAX:g} s")
    return wait_s, force in ("", "1", "true")


def _now_s() -> float:
    """The clock of the checks; see ControlPlane."""
    return asyncio.get_running_loop().time()


def _version() -> str:
    try:
        return importlib.metadata.version("mig-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a folder that was never installed
