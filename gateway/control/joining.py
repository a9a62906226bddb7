"""
What comes between a check that passes and the traffic that follows from it.

A slice that was out may have missed what clients have changed on all slices meanwhile (models
loaded, shared memory registered, settings); it is brought up to date before it is up.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final, Protocol

from gateway.fleet.health import CheckResult
from gateway.fleet.slices import Slice

ROUNDS_MAX: Final = 8
"""Clients go on making changes while a slice is brought up to date; so often it is tried again."""


class Preparer(Protocol):
    """Knows what all slices must have in common."""

    def is_prepared(self, member: Slice) -> bool:
        """Return whether a slice that is out has all that the others have."""

    async def prepare(self, member: Slice) -> str:
        """Bring a slice that is out up to date; return why that failed, or ""."""

    async def learn(self, member: Slice, models: Iterable[str]) -> None:
        """Learn what must be known of models before requests for them go to the slice."""


async def joined(
    member: Slice,
    result: CheckResult,
    preparer: Preparer,
    check_again: Callable[[], Awaitable[CheckResult]],
) -> CheckResult:
    """
    Return what is to be recorded for a check of `member` that found `result`.

    Nothing is awaited between the last look at `is_prepared` and the return, so a result that is
    recorded at once cannot let a slice in that a change has just passed by.
    """
    for _ in range(ROUNDS_MAX):
        if not result.passed:
            return result
        if result.models:
            await preparer.learn(member, result.models)
        if not member.health.would_rise(result) or preparer.is_prepared(member):
            return result
        why = await preparer.prepare(member)
        if why:
            return replace(result, passed=False, reason=why, models=None)
        result = await check_again()  # what it has ready may have changed
    reason = "not brought up to date: changes come faster than they can be repeated"
    return replace(result, passed=False, reason=reason, models=None)
