"""
A slice that answers composed calls as a test wants, over HTTP and gRPC on real sockets.

It keeps models, regions and settings as far as the calls change them, so that what a test did can
be read off it; `refuse` and `hang` make it misbehave.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from aiohttp import web

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.triton import messages
from gateway.triton.composer import Composer
from gateway.triton.crew import CallTimeouts

SERVICE = "/inference.GRPCInferenceService/"
TIMEOUTS = CallTimeouts(call_s=0.5, load_s=2.0)


class ScriptedSlice:
    """
    One server.

    Attributes:
        models: State by model name; READY ones are served.
        regions: What is registered: (key, offset, byte_size) by name.
        logging, trace: Settings made.
        counts: Inferences counted for model `m`.
        refuse: For a call (last words of its path or RPC): (HTTP status, gRPC code, text).
        hang: Calls that are never answered.
        die_on: Calls during which the server goes away.
        asked: The calls that came, in order.
        bodies: The loads' bodies (HTTP) or parameters (gRPC).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.models: dict[str, str] = {"m": "READY"}
        self.regions: dict[str, tuple[str, int, int]] = {}
        self.logging: dict[str, Any] = {}
        self.trace: dict[str, Any] = {}
        self.config: dict[str, Any] = {"name": "m"}
        self.counts = 0
        self.version = "2.51.0"
        self.extensions = ["statistics", "sequence"]
        self.refuse: dict[str, tuple[int, grpc.StatusCode, str]] = {}
        self.hang: set[str] = set()
        self.die_on: set[str] = set()
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.headers: dict[str, str] = {}
        self.during: Callable[[str], Awaitable[None]] | None = None
        self.spec = SliceSpec(name, Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 1))
        self._runner: web.AppRunner | None = None
        self._grpc: grpc.aio.Server | None = None

    async def start(self) -> "ScriptedSlice":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._http)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        http = Endpoint("127.0.0.1", self._runner.addresses[0][1])
        self._grpc = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._grpc.add_generic_rpc_handlers([_Generic(self)])
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        self.spec = SliceSpec(self.name, http, Endpoint("127.0.0.1", port), metrics=http)
        return self

    async def stop(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(None)
        if self._runner is not None:
            await self._runner.cleanup()
        self._grpc = self._runner = None

    @property
    def check(self) -> CheckResult:
        """What a health check finds."""
        if self._runner is None:
            return CheckResult(False, "refused", conclusive=True)
        ready: dict[str, tuple[str, ...]] = {
            model: ("1",) for model, state in self.models.items() if state == "READY"
        }
        return CheckResult(True, "live", models=ready)

    # --- what calls do ------------------------------------------------------------------------

    async def _begin(self, verb: str) -> tuple[int, grpc.StatusCode, str] | None:
        self.asked.append(verb)
        if self.during is not None:
            await self.during(verb)
        if verb in self.hang:
            await asyncio.Event().wait()
        if verb in self.die_on:
            stopping = asyncio.ensure_future(self.stop())
            await asyncio.shield(stopping)
        return self.refuse.get(verb)

    def _load(self, model: str, parameters: Any) -> None:
        self.bodies.append(parameters)
        self.models[model] = "READY"

    async def _http(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        verb = parts[-1]
        self.headers = dict(request.headers)
        body = await request.read()
        if verb == "metrics":
            return web.Response(text=f'# TYPE a counter\na{{x="1"}} {self.counts}\n')
        refusal = await self._begin(verb)
        if refusal is not None:
            return web.json_response({"error": refusal[2]}, status=refusal[0])
        document = json.loads(body) if body else {}
        if verb in ("index", "stats", "config", "v2", "status"):
            return web.json_response(self._told(verb))
        if verb in ("logging", "setting"):
            settings = self.logging if verb == "logging" else self.trace
            settings.update(document)
            return web.json_response(settings)
        self._change(verb, parts, document)
        return web.Response(headers={"Content-Type": "application/json"})

    def _told(self, verb: str) -> Any:
        index = [
            {"name": name, "version": "1", "state": state} for name, state in self.models.items()
        ]
        regions = [
            {"name": name, "key": key, "offset": offset, "byte_size": size}
            for name, (key, offset, size) in self.regions.items()
        ]
        server = {"name": "triton", "version": self.version, "extensions": self.extensions}
        return {
            "index": index, "status": regions, "v2": server, "config": self.config,
            "stats": {"model_stats": [self.statistics]},
        }[verb]  # fmt: skip

    def _change(self, verb: str, parts: list[str], document: dict[str, Any]) -> None:
        if verb == "load":
            self._load(parts[-2], document.get("parameters", {}))
        elif verb == "unload":
            self.models.pop(parts[-2], None)
        elif verb == "register":
            self.regions[parts[-2]] = (
                document["key"], document.get("offset", 0), document["byte_size"],
            )  # fmt: skip
        elif verb == "unregister":
            self._unregister(parts[-2] if "region" in parts else "")

    def _unregister(self, region: str) -> None:
        if region:
            self.regions.pop(region, None)
        else:
            self.regions.clear()

    @property
    def statistics(self) -> dict[str, Any]:
        duration = {"count": self.counts, "ns": 10 * self.counts}
        names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
                 "cache_hit", "cache_miss")  # fmt: skip
        return {
            "name": "m", "version": "1", "last_inference": self.counts,
            "inference_count": self.counts, "execution_count": self.counts,
            "inference_stats": dict.fromkeys(names, duration), "response_stats": {},
            "batch_stats": [{"batch_size": 1, "compute_input": duration,
                             "compute_infer": duration, "compute_output": duration}],
            "memory_usage": [],
        }  # fmt: skip

    async def grpc(self, rpc: str, message: bytes) -> bytes:
        """Carry out one RPC; raise RefusalError."""
        verb = {"RepositoryModelLoad": "load", "RepositoryModelUnload": "unload",
                "ServerMetadata": "v2", "RepositoryIndex": "index"}.get(rpc)  # fmt: skip
        for ending in ("Register", "Unregister", "Status"):
            if rpc.endswith(f"Memory{ending}"):
                verb = ending.lower()
        refusal = await self._begin(verb or rpc)
        if refusal is not None:
            raise RefusalError(refusal[1], refusal[2])
        if verb == "load":
            asked = messages.parse("RepositoryModelLoadRequest", message)
            self._load(asked.model_name, sorted(asked.parameters))
        elif verb == "unload":
            asked = messages.parse("RepositoryModelUnloadRequest", message)
            self.models.pop(asked.model_name, None)
        elif verb == "register":
            asked = messages.parse("SystemSharedMemoryRegisterRequest", message)
            self.regions[asked.name] = (asked.key, asked.offset, asked.byte_size)
        elif verb == "unregister":
            asked = messages.parse("SystemSharedMemoryUnregisterRequest", message)
            self._unregister(asked.name)
        elif verb == "status":
            answer = messages.new("SystemSharedMemoryStatusResponse")
            for name, (key, offset, size) in self.regions.items():
                place = answer.regions[name]
                place.name, place.key, place.offset, place.byte_size = name, key, offset, size
            return bytes(answer.SerializeToString())
        elif verb == "v2":
            answer = messages.new(
                "ServerMetadataResponse", name="triton", version=self.version,
                extensions=self.extensions,
            )  # fmt: skip
            return bytes(answer.SerializeToString())
        return b""


class RefusalError(Exception):
    """An RPC that is answered with an error."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class _Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, owner: ScriptedSlice) -> None:
        self._owner = owner

    def service(self, details: Any) -> Any:
        rpc = details.method.removeprefix(SERVICE)

        async def handle(message: bytes, context: Any) -> bytes:
            try:
                return await self._owner.grpc(rpc, message)
            except RefusalError as refusal:
                await context.abort(refusal.code, refusal.text)
                raise AssertionError("abort() returns") from None

        return grpc.unary_unary_rpc_method_handler(handle)


class Fleet:
    """Scripted slices, a registry that knows them, and a composer."""

    def __init__(self, slices: Sequence[ScriptedSlice], registry: SliceRegistry) -> None:
        self.slices = {one.name: one for one in slices}
        self.registry = registry
        self.composer: Composer
        self.checks = 0

    def __getitem__(self, name: str) -> Slice:
        return self.registry.slices[name]

    async def check(self, members: Sequence[Slice]) -> None:
        """What the health checker's check_now does."""
        self.checks += 1
        for member in members:
            result = self.slices[member.name].check
            if result.models:
                await self.composer.learn(member, result.models)
            self.registry.record(member, result)

    async def rejoin(self, name: str) -> str:
        """Bring a slice back as the health checker does: prepared, then up."""
        member = self[name]
        why = await self.composer.prepare(member)
        if not why:
            assert self.composer.is_prepared(member)
            for _ in range(2):
                await self.check([member])
            assert member.routable
        return why


async def fleet_of(slices: Sequence[ScriptedSlice], journal_file: Any) -> Fleet:
    """Return a fleet whose slices are all up."""
    clock = asyncio.get_running_loop().time
    registry = SliceRegistry(POLICIES["least_load"], Thresholds(), clock)
    registry.replace([one.spec for one in slices])
    fleet = Fleet(slices, registry)
    fleet.composer = Composer(registry, journal_file, TIMEOUTS, fleet.check)
    fleet.composer.start()
    await fleet.check(list(registry.slices.values()))
    return fleet
