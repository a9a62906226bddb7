"""
Replay: brings one slice to the state that the journal describes, before it takes traffic.

Everything is looked at before it is done, so that a slice that already is as it should be is left
alone as far as Triton lets us see it.
"""

import asyncio
import hashlib
import json
from typing import Final

import structlog

from contract.slice_spec import SliceSpec
from gateway.triton import messages
from gateway.triton.api import SERVICE, Memory
from gateway.triton.asking import Asker
from gateway.triton.calls import Call, GrpcCall, HttpCall, Reply, Silence
from gateway.triton.crew import CallTimeouts
from gateway.triton.grpc_form import GrpcForm
from gateway.triton.http_form import HttpForm
from gateway.triton.journal import Journal, Load, ModelState
from gateway.triton.merge import READY, Region

log = structlog.get_logger()

UNLOAD_LOOK_S: Final = 0.1
_BUSY: Final = frozenset({READY, "LOADING", "UNLOADING"})
_FORM: Final = HttpForm()


class ReplayError(Exception):
    """The slice cannot be brought to the state of the others; the message says why."""


async def replay(journal: Journal, asker: Asker, spec: SliceSpec, timeouts: CallTimeouts) -> None:
    """
    Bring the slice at `spec` to the journal's state.

    What the slice refuses is not offered there (the model is unloaded) or forgotten (a region
    whose client is gone), and logged.

    Raises:
        ReplayError: It did not answer, or was left in another state than the others.
    """
    await _Replay(journal, asker, spec, timeouts).run()


class _Replay:
    """One replay on one slice."""

    def __init__(
        self, journal: Journal, asker: Asker, spec: SliceSpec, timeouts: CallTimeouts
    ) -> None:
        self._journal = journal
        self._asker = asker
        self._spec = spec
        self._timeouts = timeouts

    async def run(self) -> None:
        journal = self._journal
        if journal.logging:
            await self._offer(_post("/v2/logging", journal.logging), "log settings")
        if settings := journal.trace.get(""):
            await self._offer(_post("/v2/trace/setting", settings), "trace settings")
        if journal.models:
            states = await self._states()
            for name, state in list(journal.models.items()):
                await self._model(name, state, states.get(name, set()))
        for name, settings in list(journal.trace.items()):
            if name:
                call = _post(f"/v2/models/{name}/trace/setting", settings)
                await self._offer(call, f"trace settings of {name}")
        if journal.regions_known:
            await self._regions()

    # --- models -----------------------------------------------------------------------------

    async def _model(self, name: str, state: ModelState, found: set[str]) -> None:
        load = state.load
        if state.unload is not None and found & _BUSY and not await self._is_same(name, load):
            reply = await self._ask(unload_call(name, state.unload), self._timeouts.load_s)
            if not reply.ok:
                raise ReplayError(f"model {name} could not be unloaded: {reply.said}")
            await self._wait_unloaded(name)
        if load is None:
            return
        reply = await self._ask(_load_call(name, load.parameters), self._timeouts.load_s)
        if reply.ok:
            return
        emit = log.info if self._spec.name in load.failed_on else log.error
        emit("replay.load_refused", slice=self._spec.name, model=name, reason=reply.said)
        if self._spec.name not in load.failed_on:
            load.failed_on += (self._spec.name,)
        # Nothing at all is better than a state that differs from the other slices'.
        reply = await self._ask(unload_call(name, {}), self._timeouts.load_s)
        if not reply.ok:
            raise ReplayError(f"model {name} is not as on the other slices: {reply.said}")

    async def _is_same(self, name: str, load: Load | None) -> bool:
        """Return whether the model is certainly configured as on the other slices."""
        if load is None or not load.config_hash:
            return False
        if any(key.startswith("file:") for key in load.parameters):
            return False  # its files cannot be looked at
        found = await config_hash(self._asker, self._spec, name, self._timeouts.call_s)
        if isinstance(found, Silence):
            raise ReplayError(found.why)
        return found == load.config_hash

    async def _wait_unloaded(self, name: str) -> None:
        """Triton answers before an unload is over, and a load in between would be lost."""
        try:
            async with asyncio.timeout(self._timeouts.load_s):
                while (await self._states()).get(name, set()) & _BUSY:  # noqa: ASYNC110 (no event)
                    await asyncio.sleep(UNLOAD_LOOK_S)
        except TimeoutError:
            raise ReplayError(f"model {name} did not unload") from None

    async def _states(self) -> dict[str, set[str]]:
        """Return the states of each model's versions."""
        reply = await self._ask(_post("/v2/repository/index", None), self._timeouts.call_s)
        if not reply.ok:
            raise ReplayError(f"its repository index cannot be had: {reply.said}")
        states: dict[str, set[str]] = {}
        try:
            for entry in _FORM.read_index(reply.body):
                states.setdefault(entry.name, set()).add(entry.state)
        except ValueError as error:
            raise ReplayError(f"its repository index cannot be read: {error}") from None
        return states

    # --- regions ----------------------------------------------------------------------------

    async def _regions(self) -> None:
        wanted = {
            name: Region(
                name, _whole(entry.get("byte_size")), str(entry.get("key", "")),
                _whole(entry.get("offset")),
            )
            for name, entry in self._journal.regions.items()
        }  # fmt: skip
        reply = await self._ask(_region_call("Status", Memory.SYSTEM), self._timeouts.call_s)
        if not reply.ok:
            raise ReplayError(f"its shared-memory regions cannot be had: {reply.said}")
        try:
            regions = GrpcForm().read_regions(reply.body, Memory.SYSTEM)
        except ValueError as error:
            raise ReplayError(f"its shared-memory regions cannot be read: {error}") from None
        found = {region.name: region for region in regions}
        for name in found:
            if wanted.get(name) != found[name]:
                reply = await self._ask(unregister_call(name, Memory.SYSTEM), self._timeouts.call_s)
                if not reply.ok:
                    raise ReplayError(f"region {name} could not be unregistered: {reply.said}")
        for name, region in wanted.items():
            if found.get(name) != region and name in self._journal.regions:
                await self._register(region)

    async def _register(self, region: Region) -> None:
        name, description = region.name, self._journal.regions[region.name]
        call = _region_call(
            "Register", Memory.SYSTEM, name=name, key=region.key, offset=region.offset,
            byte_size=region.byte_size,
        )  # fmt: skip
        reply = await self._ask(call, self._timeouts.call_s)
        if not reply.ok and "already in manager" not in reply.said:
            # Its client has ended without unregistering, and the memory went with it.
            log.warning("region.forgotten", slice=self._spec.name, region=name, reason=reply.said)
            if self._journal.regions.get(name) is description:
                self._journal.unregistered(name)

    # --- calls ------------------------------------------------------------------------------

    async def _offer(self, call: HttpCall, what: str) -> None:
        """Make a setting that the slice may refuse without being of less use."""
        reply = await self._ask(call, self._timeouts.call_s)
        if not reply.ok:
            log.warning("replay.refused", slice=self._spec.name, what=what, reason=reply.said)

    async def _ask(self, call: Call, timeout_s: float) -> Reply:
        outcome = await self._asker.ask(self._spec, call, timeout_s)
        if isinstance(outcome, Silence):
            asked = call.target if isinstance(call, HttpCall) else call.path.decode()
            raise ReplayError(f"{asked}: the slice {outcome.why}")
        return outcome


async def config_hash(asker: Asker, spec: SliceSpec, model: str, timeout_s: float) -> str | Silence:
    """Return a hash of the model's configuration on a slice; "" when it has no such model."""
    call = HttpCall("GET", f"/v2/models/{model}/config")
    outcome = await asker.ask(spec, call, timeout_s)
    if isinstance(outcome, Silence):
        return outcome
    return hashlib.sha256(outcome.body).hexdigest() if outcome.ok else ""


def unload_call(model: str, parameters: dict[str, object]) -> HttpCall:
    """Return the call that unloads `model`."""
    body = {"parameters": parameters} if parameters else None
    return _post(f"/v2/repository/models/{model}/unload", body)


def unregister_call(region: str, memory: Memory) -> GrpcCall:
    """Return the call that unregisters `region`; "" for all."""
    return _region_call("Unregister", memory, name=region)


def _region_call(verb: str, memory: Memory, **values: object) -> GrpcCall:
    """Return a call about regions; by gRPC, since a region's name need not fit into a path."""
    method = f"{memory.value.title()}SharedMemory{verb}"
    message = messages.new(f"{method}Request", **values)
    return GrpcCall(SERVICE + method.encode(), (), message.SerializeToString())


def _load_call(model: str, parameters: dict[str, object]) -> HttpCall:
    body = {"parameters": parameters} if parameters else None
    return _post(f"/v2/repository/models/{model}/load", body)


def _post(target: str, document: object) -> HttpCall:
    return HttpCall("POST", target, (), b"" if document is None else json.dumps(document).encode())


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
