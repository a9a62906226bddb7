"""
Composed calls that change something: carried out on every slice, and kept in the journal.

Each change runs to its end whatever becomes of the client that asked for it.
"""

import asyncio
from typing import Final
from weakref import WeakValueDictionary

import structlog

from gateway.errors import GRPC_UNAVAILABLE, NO_SLICE
from gateway.fleet.slices import Slice
from gateway.triton.api import Memory, Op
from gateway.triton.calls import Call, HttpCall, Outcome, Question, Reply, Silence
from gateway.triton.crew import Crew
from gateway.triton.forms import Answer, Form
from gateway.triton.journal import Journal
from gateway.triton.knowledge import Knowledge
from gateway.triton.outcomes import Verdict, answer
from gateway.triton.replay import config_hash, unload_call, unregister_call

log = structlog.get_logger()

_SETTINGS: Final = frozenset({Op.TRACE, Op.LOGGING})


class Changing:
    """Carries changes out."""

    def __init__(self, crew: Crew, journal: Journal, knowledge: Knowledge) -> None:
        self._crew = crew
        self._journal = journal
        self._knowledge = knowledge
        # One change at a time of each thing; what nobody changes needs no lock.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def carry_out(self, question: Question, form: Form) -> Answer:
        """Make the change on all slices, keep it, and return what the client is told."""
        lock = self._lock(question)
        async with lock:
            if not self._crew.present:
                return form.fault(NO_SLICE)
            if question.op is Op.LOAD:
                told = await self._load(question, form)
            elif question.op is Op.UNLOAD:
                told = await self._unload(question, form)
            elif question.op is Op.REGION_REGISTER:
                told = await self._register(question, form)
            else:
                told = await self._apply(question, form)
            await self._journal.save()
            return told

    def _lock(self, question: Question) -> asyncio.Lock:
        key = question.memory.value or question.op.value
        if question.op in (Op.LOAD, Op.UNLOAD):
            key = f"model/{question.model}"
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    # --- models -----------------------------------------------------------------------------

    async def _load(self, question: Question, form: Form) -> Answer:
        """
        Load on one slice, and on the rest only when that one has survived it.

        One poisonous load kills a Triton 2.51, and sent to all at once it would kill them all.
        """
        limit_s = self._crew.timeouts.load_s
        done: dict[str, Outcome] = {}
        for canary in self._crew.present:
            outcome = done[canary.name] = await self._crew.ask(canary, question.call, limit_s)
            if isinstance(outcome, Reply):
                break
            self._crew.set_aside([outcome])
            if outcome.sent:
                return self._canary_lost(question, form, outcome)
        verdict = Verdict.of(await self._crew.everyone(question.call, limit_s, done))
        if not verdict.took:
            return answer(verdict, form)
        refused = tuple(reply.slice for reply in verdict.refused)
        load = self._journal.loaded(question.model, question.body, refused)
        self._crew.set_aside(verdict.silent)
        log.info(
            "model.loaded", model=question.model, slices=[reply.slice for reply in verdict.took],
            failed_on=list(refused), overridden=sorted(question.body),
        )  # fmt: skip
        load.config_hash = await self._config_hash(question.model, verdict.took[0].slice)
        await self._part_with(question.model, refused)
        await self._changed(question.model)
        return answer(verdict, form)

    def _canary_lost(self, question: Question, form: Form, silence: Silence) -> Answer:
        log.error(
            "load.stopped", model=question.model, slice=silence.slice, reason=silence.why,
            hint="the slice that was to load it first did not survive; no other was asked",
        )  # fmt: skip
        message = (
            f"slice {silence.slice} was to load '{question.model}' first and {silence.why}; "
            "the other slices were not asked"
        )
        status = 503 if isinstance(question.call, HttpCall) else GRPC_UNAVAILABLE
        return form.failure(status, message)

    async def _part_with(self, model: str, names: tuple[str, ...]) -> None:
        """Unload where a load failed that others took: what is served must be the same."""
        still = [
            member for member in self._named(names) if model in (member.models or {})
        ]  # an earlier state of it
        if still:
            outcomes = await self._crew.ask_all(
                still, unload_call(model, {}), self._crew.timeouts.load_s
            )
            self._crew.set_aside(Verdict.of(outcomes).silent)

    async def _unload(self, question: Question, form: Form) -> Answer:
        """
        Unload on all at once.

        The first that says the model is gone sends its requests to those that still have it, so
        no request is lost that a single Triton would have taken.
        """
        is_known = self._is_known(question.model)
        outcomes = await self._crew.everyone(question.call, self._crew.timeouts.load_s)
        verdict = Verdict.of(outcomes)
        if verdict.took:
            self._crew.set_aside(verdict.silent)
            if is_known:
                self._journal.unloaded(question.model, question.body)
                names = [reply.slice for reply in verdict.took]
                log.info("model.unloaded", model=question.model, slices=names)
        await self._changed(question.model)
        return answer(verdict, form)

    def _is_known(self, model: str) -> bool:
        """Triton unloads what it never had without complaint; that is nothing to keep."""
        return model in self._journal.models or any(
            model in (member.models or {}) for member in self._crew.registry.slices.values()
        )

    async def _changed(self, model: str) -> None:
        self._knowledge.forget(model)
        await self._crew.look_again()

    async def _config_hash(self, model: str, name: str) -> str:
        for member in self._named((name,)):
            outcome = await config_hash(self._crew.asker, member.spec, model, self._call_s)
            if isinstance(outcome, str):
                return outcome
        return ""

    # --- regions and settings ---------------------------------------------------------------

    async def _register(self, question: Question, form: Form) -> Answer:
        """
        Register everywhere or nowhere.

        A CUDA region can be opened on the device alone whose memory it is: with a MIG device for
        each slice one accepts at most, and the client is told; slices that share one GPU all do.
        """
        outcomes = await self._crew.everyone(question.call, self._call_s)
        verdict = Verdict.of(outcomes)
        if verdict.refused:
            took = self._named([reply.slice for reply in verdict.took])
            await self._undo(question, took)
            return answer(verdict, form, undone=True)
        if verdict.took:
            if question.memory is Memory.SYSTEM:
                self._journal.registered(question.region, question.body)
            self._crew.set_aside(verdict.silent)
        return answer(verdict, form)

    async def _undo(self, question: Question, members: list[Slice]) -> None:
        call = unregister_call(question.region, question.memory)
        outcomes = await self._crew.ask_all(members, call, self._call_s)
        verdict = Verdict.of(outcomes)
        for reply in verdict.refused:
            log.error("region.not_undone", slice=reply.slice, region=question.region,
                      reason=reply.said)  # fmt: skip
        self._crew.set_aside(verdict.silent)

    async def _apply(self, question: Question, form: Form) -> Answer:
        """Unregister, or change settings."""
        call: Call = question.call
        verdict = Verdict.of(await self._crew.everyone(call, self._call_s))
        if verdict.took:
            self._keep(question)
            self._crew.set_aside(verdict.silent)
        return answer(verdict, form)

    def _keep(self, question: Question) -> None:
        if question.op is Op.TRACE:
            self._journal.trace_set(question.model, question.body)
        elif question.op is Op.LOGGING:
            self._journal.logging_set(question.body)
        elif question.memory is Memory.SYSTEM:
            self._journal.unregistered(question.region)

    @property
    def _call_s(self) -> float:
        return self._crew.timeouts.call_s

    def _named(self, names: "list[str] | tuple[str, ...]") -> list[Slice]:
        slices = self._crew.registry.slices
        return [slices[name] for name in names if name in slices]
