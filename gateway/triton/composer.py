"""
Composer: the door to everything that no single slice can answer for all.

The relays hand it whole requests and send back whole answers. It is also what the health checker
asks to bring a slice up to date before that takes traffic (gateway.control.health.Preparer).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.errors import (
    ANSWER_TIMEOUT,
    BAD_REQUEST,
    COMPOSER_FAILED,
    GRPC_UNIMPLEMENTED,
    SHUTTING_DOWN,
)
from gateway.fleet.health import UP
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.triton import grpc_form, http_form
from gateway.triton.api import Op
from gateway.triton.asking import SliceAsker
from gateway.triton.calls import GrpcAnswer, Header, HttpAnswer, Question
from gateway.triton.changing import Changing
from gateway.triton.crew import CallTimeouts, Crew
from gateway.triton.forms import Answer, Form
from gateway.triton.grpc_form import GrpcForm
from gateway.triton.http_form import HttpForm
from gateway.triton.journal import Journal
from gateway.triton.knowledge import Knowledge, ModelFacts
from gateway.triton.reading import Reading
from gateway.triton.replay import ReplayError, replay
from gateway.triton.slice_metrics import SliceMetrics

log = structlog.get_logger()

CLOSE_WAIT_S: Final = 5.0
"""Changes under way when the gateway stops are waited for as long."""


class Composer:
    """
    Answers composed calls.

    Args:
        registry: The slices.
        journal_file: Where changes are kept across restarts of the gateway.
        timeouts: For the slices' answers.
        check_now: Checks slices and returns when the registry knows the result.
    """

    def __init__(
        self,
        registry: SliceRegistry,
        journal_file: Path,
        timeouts: CallTimeouts,
        check_now: Callable[[Sequence[Slice]], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._timeouts = timeouts
        self._asker = SliceAsker()
        self._journal = Journal(journal_file)
        self._knowledge = Knowledge(self._asker, timeouts.call_s)
        crew = Crew(registry, self._asker, timeouts, check_now)
        self._reading = Reading(crew)
        self._changing = Changing(crew, self._journal, self._knowledge)
        self._metrics = SliceMetrics(crew, self._asker, min(timeouts.call_s, 2.0))
        self._prepared: dict[Slice, int] = {}
        self._told: dict[Slice, str] = {}  # why a slice could not be prepared, as logged
        self._changes: set[asyncio.Task[Answer]] = set()
        self._closed = False

    def start(self) -> None:
        """Take over the journal of an earlier run; from here on the registry is followed."""
        self._journal.read()
        self._registry.listeners.append(self)

    async def close(self) -> None:
        """Let changes under way end, within CLOSE_WAIT_S, and close all connections."""
        self._closed = True
        if self in self._registry.listeners:
            self._registry.listeners.remove(self)
        if self._changes:
            await asyncio.wait(self._changes, timeout=CLOSE_WAIT_S)
        for task in list(self._changes):
            task.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._journal.save()
        await self._asker.close()

    # --- composed calls ---------------------------------------------------------------------

    async def http(
        self, method: str, target: str, headers: list[Header], body: bytes
    ) -> HttpAnswer:
        """Answer an HTTP request that the router calls composed; never raises."""
        form = HttpForm()
        try:
            question = http_form.read(method, target, headers, body)
        except ValueError as error:
            return form.fault(BAD_REQUEST.because(str(error)))
        if question is None:
            return form.failure(404, "Not Found")
        told = await self._guarded(question, form)
        assert isinstance(told, HttpAnswer), "answered in another protocol"
        return told

    async def grpc(
        self, path: bytes, metadata: list[Header], message: bytes, timeout_s: float | None
    ) -> GrpcAnswer:
        """
        Answer a gRPC call that the router calls composed; never raises.

        Args:
            path: `/package.Service/Method`.
            metadata: The call's, in any order; what gRPC itself put there is passed over.
            message: The protobuf alone, not compressed.
            timeout_s: The call's own deadline; what it has begun goes on behind it.
        """
        form = GrpcForm()
        try:
            question = grpc_form.read(path, metadata, message)
        except ValueError as error:
            return form.fault(BAD_REQUEST.because(str(error)))
        if question is None:
            return GrpcAnswer(GRPC_UNIMPLEMENTED, "", b"")
        try:
            async with asyncio.timeout(timeout_s):
                told = await self._guarded(question, form)
        except TimeoutError:
            return form.fault(ANSWER_TIMEOUT.because("the call's own deadline has passed"))
        assert isinstance(told, GrpcAnswer), "answered in another protocol"
        return told

    async def _guarded(self, question: Question, form: Form) -> Answer:
        try:
            return await self._answer(question, form)
        except Exception:
            log.exception("composer.failed", op=question.op.value)
            return form.fault(COMPOSER_FAILED)

    async def _answer(self, question: Question, form: Form) -> Answer:
        reading = self._reading
        match question.op:
            case Op.MODEL_READY:
                return reading.model_ready(question, form)
            case Op.METADATA:
                return await reading.metadata(question, form)
            case Op.STATISTICS:
                return await reading.statistics(question, form)
            case Op.INDEX:
                return await reading.index(question, form)
            case Op.REGION_STATUS:
                return await reading.regions(question, form)
            case Op.TRACE | Op.LOGGING if isinstance(form, GrpcForm) and not question.body:
                return await reading.settings(question, form)
        if self._closed:
            return form.fault(SHUTTING_DOWN)
        # A client that leaves cancels what waits for the answer, never the change itself.
        return await asyncio.shield(self._begin(self._changing.carry_out(question, form)))

    def _begin(self, change: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.get_running_loop().create_task(change, name="change of all slices")
        self._changes.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("change.failed", exc_info=error)

    # --- slices that join -------------------------------------------------------------------

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """A slice that is out may be another server when it returns."""
        if event == "removed" or member.health.health is not UP:
            self._prepared.pop(member, None)
            self._asker.forget(member.spec.grpc)
        if event in ("removed", "changed"):
            self._told.pop(member, None)
            slices = self._registry.slices.values()
            self._asker.keep_only({other.spec.grpc for other in slices})

    def is_prepared(self, member: Slice) -> bool:
        """Return whether the slice, which is out, has been given all there is in the journal."""
        return self._journal.is_empty or self._prepared.get(member) == self._journal.revision

    async def prepare(self, member: Slice) -> str:
        """Bring a slice that is out to the state of the others; return why that failed, or ""."""
        await self._journal.refresh()
        revision = self._journal.revision
        try:
            await replay(self._journal, self._asker, member.spec, self._timeouts)
        except ReplayError as error:
            reason = f"not brought up to date: {error}"
            if self._told.get(member) != reason:
                self._told[member] = reason
                log.warning("slice.not_prepared", slice=member.name, reason=str(error))
            return reason
        await self._journal.save()  # regions may have been forgotten
        self._told.pop(member, None)
        self._prepared[member] = revision
        log.info("slice.prepared", slice=member.name, revision=revision)
        return ""

    async def learn(self, member: Slice, models: Iterable[str]) -> None:
        """Learn what routing must know of `models`, which the slice is about to serve."""
        known = set(models)
        if any(self._knowledge.facts(model) is None for model in known):
            for other in self._registry.slices.values():
                known |= set(other.models or {})
            self._knowledge.keep_only(known)
            self._registry.queues.keep_only(known)
        await self._knowledge.learn(member.spec, models)
        for model in models:
            facts = self._knowledge.facts(model)
            if facts is not None:
                idle_s = facts.idle_us / 1e6 if facts.sequences else None
                self._registry.sequences.follow(model, idle_s)
                self._registry.queues.follow(model, facts.limit)

    def facts(self, model: str) -> ModelFacts | None:
        """Return what a model's configuration says about routing; None while nobody has it."""
        return self._knowledge.facts(model)

    # --- metrics ----------------------------------------------------------------------------

    async def slice_metrics(self) -> str:
        """Return the slices' own Prometheus pages as one, in text format 0.0.4."""
        return await self._metrics.page()
