"""
Ejector: takes slices out of the traffic by what comes of the traffic, and lets them back.

Made for pools of 2 to 56: no share of the pool is kept in, only the last slice is. A slice is judged
against the others: where all fail alike it is the request, the model or the network, and taking
slices out would only load the rest. It returns through one live request (half-open) and a slow start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.fleet.health import DOWN
from gateway.fleet.lifecycle import DUE, EJECTED, FREE, TRYING, Step
from gateway.fleet.outcomes import (
    CONNECT_FAILED,
    LOST,
    OK,
    REJECTED,
    SERVER_ERROR,
    TIMEOUT,
)
from gateway.fleet.slices import Slice
from gateway.fleet.tally import Tally

ALIKE: Final = 2.0
"""A slice stands out when some other slice fails less than its share divided by this."""
ALIKE_LATE: Final = 10.0
"""The same for time-outs, of which most of the others must have so few: too much work makes all of
them late, but one of them first, and some more than others."""
SETTLE: Final = 0.5
"""Share of the window after a time-out until a slice is judged by it: how do the others do by then?"""
TRIAL_S: Final = 10.0
"""A trial whose request has not ended by then is followed by another; it may be a long one."""
DRAG_MAX: Final = 10.0
"""Slow start begins with a tenth."""

_WHAT: Final = {
    CONNECT_FAILED: "no connection could be opened",
    LOST: "the connection broke or the answer was nonsense",
    SERVER_ERROR: "it answered with a server error",
    TIMEOUT: "it did not answer in time",
}


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """
    When slices are ejected; times in seconds; 0 turns a rule off.

    Attributes:
        enabled: Whether anything is ejected at all.
        consecutive: Failures in a row.
        window_s: What the ratio and the latencies look back on.
        ratio: Share of the attempts within the window that failed, of at least `samples`.
        latency_factor: Median latency of a model's answers in what is usual for it, of at least
            `samples` answers each, among three slices or more.
        latency_min_s: A median below this is never too slow.
        duration_s: Of the first ejection; each further one lasts twice as long.
        duration_max_s: Of any.
        jitter: Share by which a duration is moved, so that slices do not return together.
        slow_start_s: Until a slice that returns is given as much as the others.
        panic_s: How long a slice that stopped answering is still asked while there is no other.
    """

    enabled: bool = True
    consecutive: int = 5
    window_s: float = 10.0
    ratio: float = 0.5
    samples: int = 20
    latency_factor: float = 5.0
    latency_min_s: float = 0.02
    duration_s: float = 5.0
    duration_max_s: float = 300.0
    jitter: float = 0.2
    slow_start_s: float = 10.0
    panic_s: float = 30.0


class Fleet(Protocol):
    """What the ejector sees of the registry."""

    slices: dict[str, Slice]

    def others(self, member: Slice, model: str) -> list[Slice]:
        """Return who else takes the slice's work, or its inference for `model`."""

    def publish(self) -> None:
        """Recompute who takes what."""

    def tell(
        self, member: Slice, event: str, reason: str, before: str, after: str, model: str
    ) -> None:
        """Tell the listeners of a change that has been made."""


class Ejector:
    """
    Judges attempts as they end; a tick ends ejections and slow starts.

    Args:
        fleet: The registry.
        settings: May be replaced at any time.
        chance: Returns a number from 0 to 1, for the jitter.
    """

    def __init__(
        self, fleet: Fleet, settings: EjectionSettings, chance: Callable[[], float]
    ) -> None:
        self.settings = settings
        self._fleet = fleet
        self._chance = chance
        self._returning: dict[Slice, float] = {}  # since when, for those in slow start

    def ended(self, member: Slice, key: str, outcome: int, now_s: float) -> None:
        """
        Take in what came of an attempt at `member` for a request of the pool `key`.

        Call it for each failure, and for each success while the slice has tallies.
        """
        model = _model_of(member, key)
        if outcome == OK:
            self._well(member, "", now_s)
            if model:
                self._well(member, model, now_s)
            return
        if outcome == REJECTED:
            self._undecided(member, "", now_s)
            self._undecided(member, model, now_s)
            return
        member.failed()
        member.failed_at_s = now_s
        if member.health.health is DOWN:
            # The checks have found out why, and say when it is well again: it must not be out for
            # longer because of what it had been given before that.
            self._undecided(member, "", now_s)
            self._undecided(member, model, now_s)
            return
        if outcome in (CONNECT_FAILED, LOST):
            if model:
                self._undecided(member, model, now_s)
            self._failed(member, "", outcome, now_s)
            return
        whole = member.tallies.get("")
        if not model and (not key or outcome == TIMEOUT):
            self._failed(member, "", outcome, now_s)
        elif outcome == SERVER_ERROR:
            self._well(member, "", now_s)  # as a server it has answered
        elif whole is not None and whole.ejection is TRYING:
            self._failed(member, "", outcome, now_s)
        if model:
            # Without a model, an error says little: a call that is no inference, or an unknown name.
            self._failed(member, model, outcome, now_s)

    def begin_trial(self, member: Slice, tally: Tally, now_s: float) -> None:
        """One live request goes to `member` to see whether it is well again."""
        tally.move(Step.TRY, now_s)
        tally.until_s = now_s + TRIAL_S

    def forget(self, member: Slice, now_s: float) -> None:
        """Another server, or a new beginning: what was counted is not its own."""
        tallies, member.tallies = member.tallies, {}
        self._returning.pop(member, None)
        member.drag = 1.0
        ejected = [tally for tally in tallies.values() if tally.ejection is not FREE]
        if ejected:
            self._fleet.publish()
            for tally in ejected:
                before = tally.ejection.value
                tally.move(Step.FORGET, now_s)
                self._fleet.tell(
                    member, "returned", "it starts over", before, FREE.value, tally.model
                )

    def start_slowly(self, member: Slice, now_s: float) -> None:
        """
        Give a slice that returns little at first, unless there is nobody else to take it.

        Its charge is spent: what it failed before is what it was out for.
        """
        member.charge = 0.0
        if self.settings.slow_start_s and self._fleet.others(member, ""):
            self._returning[member] = now_s
            member.drag = DRAG_MAX

    def eject_slow(self, member: Slice, model: str, reason: str, now_s: float) -> None:
        """Eject a slice ("") or a model on it for its latency; not the last one."""
        tally = self._tally(member, model, now_s)
        if tally.ejection is FREE and self._fleet.others(member, model):
            self._eject(member, tally, Step.EJECT, reason, now_s)

    def tick(self, now_s: float) -> None:
        """Let time do its part; call it a few times a second."""
        for member in list(self._fleet.slices.values()):
            for tally in list(member.tallies.values()):
                self._age(member, tally, now_s)
        for member, since_s in list(self._returning.items()):
            passed = (now_s - since_s) / (self.settings.slow_start_s or 1e-9)
            if passed >= 1 or self._fleet.slices.get(member.name) is not member:
                del self._returning[member]
                member.drag = 1.0
            else:
                member.drag = min(DRAG_MAX, 1 / max(passed, 1e-9))

    # --- inside -------------------------------------------------------------------------------

    def _well(self, member: Slice, model: str, now_s: float) -> None:
        tally = member.tallies.get(model)
        if tally is None:
            return
        if tally.ejection is TRYING:
            tally.move(Step.ANSWERED, now_s)
            self._fleet.publish()
            if not model or len(member.models or ()) == 1:
                self.start_slowly(member, now_s)
            self._fleet.tell(
                member, "returned", "it answered the request that tried it",
                TRYING.value, FREE.value, model,
            )  # fmt: skip
        elif tally.ejection is FREE:
            tally.succeeded(now_s)

    def _undecided(self, member: Slice, model: str, now_s: float) -> None:
        tally = member.tallies.get(model)
        if tally is not None and tally.ejection is TRYING:
            tally.move(Step.UNDECIDED, now_s)

    def _failed(self, member: Slice, model: str, outcome: int, now_s: float) -> None:
        if not self.settings.enabled:
            return
        tally = self._tally(member, model, now_s)
        if tally.ejection is TRYING:
            reason = f"{_WHAT[outcome]} when it was tried"
            self._eject(member, tally, Step.FAILED, reason, now_s)
        elif tally.ejection is FREE:
            tally.failed(now_s)
            if outcome == TIMEOUT:
                # Where there is too much work all slices are late, one of them first.
                tally.late_s = tally.late_s or now_s
            else:
                self._judge(member, tally, outcome, now_s)

    def _judge(self, member: Slice, tally: Tally, outcome: int, now_s: float) -> None:
        reason = self._too_many(tally, outcome, now_s)
        if reason and self._stands_out(member, tally, outcome, now_s):
            self._eject(member, tally, Step.EJECT, reason, now_s)

    def _too_many(self, tally: Tally, outcome: int, now_s: float) -> str:
        """Say which bound the failures have passed; "" while none."""
        settings = self.settings
        if settings.consecutive and tally.streak >= settings.consecutive:
            return f"{tally.streak} failures in a row, at the last {_WHAT[outcome]}"
        attempts, failed = tally.totals(now_s)
        if settings.ratio and attempts >= settings.samples and failed >= settings.ratio * attempts:
            return (
                f"{failed} of {attempts} attempts failed within {settings.window_s:g} s, "
                f"at the last {_WHAT[outcome]}"
            )
        return ""

    def _stands_out(self, member: Slice, tally: Tally, outcome: int, now_s: float) -> bool:
        """Say whether some other slice, or most for time-outs, which could take the work, fail less."""
        others = self._fleet.others(member, tally.model)
        bound = tally.share(now_s) / (ALIKE_LATE if outcome == TIMEOUT else ALIKE)
        better = 0
        for other in others:
            theirs = other.tallies.get(tally.model)
            better += theirs is None or theirs.share(now_s) < bound
        return 2 * better > len(others) if outcome == TIMEOUT else better > 0

    def _eject(self, member: Slice, tally: Tally, step: Step, reason: str, now_s: float) -> None:
        settings = self.settings
        before = tally.ejection.value
        # Doubling past what any ceiling allows would only make the number large.
        out_s = min(settings.duration_s * 2.0 ** min(tally.times, 32), settings.duration_max_s)
        out_s *= 1 + settings.jitter * (2 * self._chance() - 1)
        tally.times += 1
        tally.move(step, now_s)
        tally.out_s = out_s
        tally.until_s = now_s + out_s
        tally.reason = reason
        self._fleet.publish()
        self._fleet.tell(
            member, "ejected", f"{reason}; out for {out_s:.1f} s",
            before, EJECTED.value, tally.model,
        )  # fmt: skip

    def _age(self, member: Slice, tally: Tally, now_s: float) -> None:
        if tally.model and tally.model not in (member.models or ()):
            del member.tallies[tally.model]  # unloaded: whatever comes back is not the same
            if tally.ejection is not FREE:
                before = tally.ejection.value
                tally.move(Step.FORGET, now_s)
                self._fleet.publish()
                self._fleet.tell(
                    member, "returned", "the model is no longer ready there",
                    before, FREE.value, tally.model,
                )  # fmt: skip
        elif tally.ejection is FREE:
            if tally.late_s and now_s >= tally.late_s + SETTLE * self.settings.window_s:
                tally.late_s = 0.0
                self._judge(member, tally, TIMEOUT, now_s)
                return
            # Kept for as long as it was out, so that a slice that fails again is out for longer.
            well_s = now_s - max(tally.since_s, member.failed_at_s)
            if not tally.totals(now_s)[1] and well_s >= tally.out_s:
                del member.tallies[tally.model]
        elif tally.ejection is not DUE and now_s >= tally.until_s:
            was_trying = tally.ejection is TRYING
            tally.move(Step.TIME, now_s)
            if not was_trying:
                self._fleet.publish()
                self._fleet.tell(
                    member, "due", "its time is over: the next request tries it",
                    EJECTED.value, DUE.value, tally.model,
                )  # fmt: skip

    def _tally(self, member: Slice, model: str, now_s: float) -> Tally:
        tally = member.tallies.get(model)
        if tally is None:
            tally = member.tallies[model] = Tally(model, self.settings.window_s, now_s)
        return tally


def _model_of(member: Slice, key: str) -> str:
    """
    Return the model whose inference a pool's key stands for; "" where it is none of the slice's.

    What a client names is never kept: only models that the slice has reported have tallies.
    """
    if not key.startswith("infer/"):
        return ""
    model = key.split("/", 2)[1]
    return model if member.models is not None and model in member.models else ""
