"""
Crew: the slices that a composed call concerns, and putting calls to them.

A slice that is out while something is changed is brought to the same state when it returns; one
that becomes part of the crew during a change is still told, since `everyone()` asks again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.fleet.health import DISABLED, ENABLED, UP
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.triton.asking import Asker
from gateway.triton.calls import Call, Outcome, Silence

LOOK_S: Final = 0.2
"""How often it is looked whether a slice that is waited for is still there."""


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """
    Times in seconds.

    Attributes:
        call_s: For one slice to answer a composed call.
        load_s: The same for a load or unload.
    """

    call_s: float = 5.0
    load_s: float = 600.0


class Crew:
    """
    The slices that are there.

    Args:
        check_now: Checks slices and returns when the registry knows the result.
    """

    def __init__(
        self,
        registry: SliceRegistry,
        asker: Asker,
        timeouts: CallTimeouts,
        check_now: Callable[[Sequence[Slice]], Awaitable[None]],
    ) -> None:
        self.registry = registry
        self.asker = asker
        self.timeouts = timeouts
        self._check_now = check_now

    @property
    def present(self) -> list[Slice]:
        """Slices that are up and in service, those that are being drained included."""
        return [member for member in self.registry.slices.values() if _is_present(member)]

    @property
    def enabled(self) -> list[Slice]:
        """Of those present, the ones that are to take work."""
        return [member for member in self.present if member.order is ENABLED]

    async def ask(self, member: Slice, call: Call, timeout_s: float) -> Outcome:
        """Put a call to one slice; do not wait for a slice that is found to be gone."""
        asking = asyncio.ensure_future(self.asker.ask(member.spec, call, timeout_s))
        try:
            while True:
                done, _ = await asyncio.wait({asking}, timeout=LOOK_S)
                if done:
                    return asking.result()
                if not _is_present(member):
                    return Silence(member.name, f"went away: {member.health.reason}", sent=True)
        finally:
            asking.cancel()

    async def ask_all(
        self, members: Sequence[Slice], call: Call, timeout_s: float
    ) -> list[Outcome]:
        """Put a call to `members` at the same time; return what came of it, in their order."""
        return list(
            await asyncio.gather(*(self.ask(member, call, timeout_s) for member in members))
        )

    async def everyone(
        self, call: Call, timeout_s: float, done: dict[str, Outcome] | None = None
    ) -> list[Outcome]:
        """
        Put a change to every slice present, and to those that come while it goes on.

        On return every slice present has been asked. Whoever calls must record the change before
        awaiting anything: a slice that comes later is given what has been recorded.

        Args:
            call: The change.
            timeout_s: For each slice.
            done: Outcomes there are already, by slice name.
        """
        outcomes = dict(done or {})
        while missing := [member for member in self.present if member.name not in outcomes]:
            for outcome in await self.ask_all(missing, call, timeout_s):
                outcomes[outcome.slice] = outcome
        return list(outcomes.values())

    def set_aside(self, silent: Sequence[Silence]) -> None:
        """Take slices that missed a change out until they have been brought up to date."""
        for silence in silent:
            member = self.registry.slices.get(silence.slice)
            if member is not None:
                self.registry.condemn(member, f"missed a change: {silence.why}")

    async def look_again(self) -> None:
        """Learn at once which models are ready where."""
        await self._check_now(self.present)


def _is_present(member: Slice) -> bool:
    return member.order is not DISABLED and member.health.health is UP
