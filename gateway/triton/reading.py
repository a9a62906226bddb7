"""Composed calls that change nothing: all slices are asked, and one answer is made."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import structlog

from gateway.errors import BAD_ANSWER, NO_SLICE
from gateway.fleet.slices import Slice
from gateway.triton.calls import Outcome, Question, Reply, Silence
from gateway.triton.crew import Crew
from gateway.triton.forms import Answer, Form
from gateway.triton.merge import merge_index, merge_metadata, merge_regions
from gateway.triton.outcomes import Verdict, answer
from gateway.triton.statistics import Ledger, ModelStatistics

log = structlog.get_logger()

T = TypeVar("T")

_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")  # what C++ `std::stol` reads
_LONG_MAX: Final = 2**63 - 1
_NOT_INTEGRAL: Final = ", version should be an integral value > 0"


class Reading:
    """Asks and merges."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._ledger = Ledger()
        self._turns: dict[Slice, asyncio.Lock] = {}

    def model_ready(self, question: Question, form: Form) -> Answer:
        """Answer from what the checks know: inference goes where they have seen the model ready."""
        version, refusal = read_version(question.version)
        if refusal:
            return form.bad_version(refusal)
        for member in self._crew.enabled:
            versions = (member.models or {}).get(question.model)
            if versions is not None and (not version or version in versions):
                return form.model_ready(True)
        return form.model_ready(False)

    async def metadata(self, question: Question, form: Form) -> Answer:
        outcomes = await self._ask(self._crew.enabled, question)
        return self._merged(
            outcomes, form, form.read_metadata, lambda found: form.metadata(merge_metadata(found))
        )

    async def index(self, question: Question, form: Form) -> Answer:
        outcomes = await self._ask(self._crew.enabled, question)
        names = [outcome.slice for outcome in outcomes if isinstance(outcome, Reply) and outcome.ok]
        return self._merged(
            outcomes, form, form.read_index,
            lambda found: form.index(merge_index(dict(zip(names, found, strict=True)))),
        )  # fmt: skip

    async def regions(self, question: Question, form: Form) -> Answer:
        """A region counts when every slice has it: a named one that any lacks is not found."""
        outcomes = await self._ask(self._crew.present, question)
        refused = Verdict.of(outcomes).refused
        if refused:
            return form.relay(refused[0])
        return self._merged(
            outcomes, form, lambda body: form.read_regions(body, question.memory),
            lambda found: form.regions(merge_regions(found), question.memory),
        )  # fmt: skip

    async def settings(self, question: Question, form: Form) -> Answer:
        """Any slice's settings, of one that has the model; changes are made on all alike."""
        members = self._crew.enabled
        if question.model:
            has = [member for member in members if question.model in (member.models or {})]
            members = has or members
        outcomes: list[Outcome] = []
        for member in members:
            outcome = await self._crew.ask(member, question.call, self._crew.timeouts.call_s)
            if isinstance(outcome, Reply):
                return form.relay(outcome)
            outcomes.append(outcome)
        return answer(Verdict.of(outcomes), form)

    async def statistics(self, question: Question, form: Form) -> Answer:
        """Sums by the rules of gateway.triton.statistics; silent slices count as they last were."""
        present = self._crew.present
        for gone in [member for member in self._turns if member not in present]:
            if not self._turns[gone].locked():
                del self._turns[gone]
        readings = await asyncio.gather(
            *(self._statistics_of(member, question, form) for member in present)
        )
        keys = {reading.key for _, models in readings for reading in models}
        answered = [outcome.slice for outcome, _ in readings if isinstance(outcome, Reply)]
        verdict = Verdict.of([outcome for outcome, _ in readings])
        if not verdict.took:
            return answer(verdict, form)
        return form.statistics(self._ledger.total(keys, answered))

    async def _statistics_of(
        self, member: Slice, question: Question, form: Form
    ) -> tuple[Outcome, list[ModelStatistics]]:
        """Ask one slice; one question at a time, so that the ledger sees the answers in order."""
        limit_s = self._crew.timeouts.call_s
        turn = self._turns.setdefault(member, asyncio.Lock())
        try:
            async with asyncio.timeout(limit_s), turn:
                outcome = await self._crew.ask(member, question.call, limit_s)
                if not isinstance(outcome, Reply) or not outcome.ok:
                    return outcome, []
                models = form.read_statistics(outcome.body)
                self._ledger.take(member.name, models)
                return outcome, models
        except TimeoutError:
            return Silence(member.name, f"did not answer within {limit_s:g} s", sent=True), []
        except (ValueError, KeyError, TypeError) as error:
            self._not_understood(member.name, error)
            return Silence(member.name, f"gave an answer that is none: {error}", sent=True), []

    async def _ask(self, members: Sequence[Slice], question: Question) -> list[Outcome]:
        return await self._crew.ask_all(members, question.call, self._crew.timeouts.call_s)

    def _merged(
        self,
        outcomes: Sequence[Outcome],
        form: Form,
        read: Callable[[bytes], T],
        merge: Callable[[list[T]], Answer],
    ) -> Answer:
        """Merge what the slices that answered say; silent ones are left out."""
        verdict = Verdict.of(outcomes)
        if not verdict.took:
            return answer(verdict, form) if outcomes else form.fault(NO_SLICE)
        reply = verdict.took[0]
        try:
            found = []
            for reply in verdict.took:
                found.append(read(reply.body))
            return merge(found)
        except (ValueError, KeyError, TypeError) as error:
            self._not_understood(reply.slice, error)
            return form.fault(BAD_ANSWER.because(f"{reply.slice}: {error}"))

    @staticmethod
    def _not_understood(name: str, error: Exception) -> None:
        log.warning("answer.not_understood", slice=name, reason=repr(error))


def read_version(text: str) -> tuple[str, str]:
    """
    Read a version as Triton does.

    Returns:
        (the version's number, or "" for any; why it is none, or "").

    Source: Triton's `GetModelVersionFromString`, and what 2.51 answered when it was tried.
    """
    if not text:
        return "", ""
    found = _NUMBER.match(text)
    number = int(found[1]) if found is not None and len(found[1]) < 30 else _LONG_MAX + 1
    if not -_LONG_MAX - 1 <= number <= _LONG_MAX:
        return "", (
            f"failed to get model version from specified version string '{text}' "
            f"(details: stol){_NOT_INTEGRAL}"
        )
    if number < 0:
        return "", f"invalid model version specified '{text}' {_NOT_INTEGRAL}"
    return str(number), ""
