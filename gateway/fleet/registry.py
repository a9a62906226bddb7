"""
SliceRegistry: which slices there are, and which of them take a given model's requests.

The control plane changes slices and calls `publish()`; the relays read `SlicePool.members`, a tuple
that is replaced as a whole. A pool object lives as long as its key, so a relay may remember it.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from contract.slice_spec import SliceSpec
from gateway.fleet.ejection import EjectionSettings, Ejector
from gateway.fleet.health import (
    DOWN,
    ENABLED,
    UNKNOWN,
    CheckResult,
    Health,
    Order,
    State,
    Thresholds,
)
from gateway.fleet.latency import LatencyWatch
from gateway.fleet.lifecycle import ALL, DUE, MODEL, NONE, ONE, RESERVE, Traffic, least
from gateway.fleet.pools import Policy, SlicePool, Trial
from gateway.fleet.queues import Queues
from gateway.fleet.readiness import ANY
from gateway.fleet.sequences import SequenceTables
from gateway.fleet.slices import CHARGE_DECAY_S, Slice
from gateway.fleet.tally import Tally

Candidate = tuple[Slice, str, Traffic]
"""A slice, the model it is asked for ("" for none), and what the slice takes whatever the model."""

EVENTS: Final = (
    "added", "removed", "changed", "health", "order", "drained", "models", "ejected", "due",
    "returned", "panic",
)  # fmt: skip
"""Every kind of Change."""

__all__ = ["EVENTS", "Change", "Policy", "SliceListener", "SlicePool", "SliceRegistry"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change of a slice, told after it has been made.

    Attributes:
        member: Whose; None for `panic`, which is all slices' together.
        event: One of EVENTS.
        before, after: Of what the event is about: a Health, an Order, an Ejection, how many models;
            empty where there is nothing of the kind.
        state: What users were told of the slice from then on.
        model: The model that is ejected or returns; "" for the whole slice.
    """

    member: Slice | None
    event: str
    reason: str
    before: str
    after: str
    state: str
    model: str


class SliceListener(Protocol):
    """Told of every change that others may care about, after it has been made."""

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """`event` is one of Change.event, but `panic`."""


class SliceRegistry:
    """
    All slices and all pools.

    `pools` maps a key to its pool: `""` is every routable slice, for requests that name no model,
    `"call"` the same for calls that are no inference, `"infer/M"`, `"infer/M/V"` and `"call/M"`
    are the slices where model M (version V) is ready. Inference has pools of its own so that
    round robin stays even whatever else is asked in between. Keys exist only for models that a
    slice has reported, so a client cannot make new ones.

    `sequences` is told which models batch sequences, and has their tables; `queues` is told what
    the models' configurations say of requests at once, and has their lines. `ready_when` says when
    all of it is ready as one server, see gateway.fleet.readiness.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        thresholds: Thresholds,
        now_s: Callable[[], float],
        ejection: EjectionSettings | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.slices: dict[str, Slice] = {}
        self.pools: dict[str, SlicePool] = {}
        self.sequences = SequenceTables(now_s, self._sequences_changed)
        self.queues = Queues(now_s, self.pool, lambda: self.slices, self._queues_configured)
        self.listeners: list[SliceListener] = [self.sequences]
        self.recorders: list[Callable[[Change], None]] = []
        self.on_publish: list[Callable[[], None]] = []
        self.panicking = False
        self.ready_when = ANY
        self.ejector = Ejector(self, ejection or EjectionSettings(), chance)
        self._latencies = LatencyWatch(self.ejector)
        self._draining: set[Slice] = set()
        self._untold: deque[Change] = deque()
        self._telling = False
        self._told_panic = False
        self._reserve_until_s = 0.0
        self._started_s = now_s()
        self.make_policy = make_policy
        self._thresholds = thresholds
        self._now_s = now_s
        self.everywhere = self._pool("")
        self.calls = self._pool("call")

    def pool(self, key: str) -> SlicePool:
        """
        Return the pool for `key`, or the general one when no slice has reported that model.

        A model nobody knows goes to any slice, whose own error is what the client should read.
        """
        pool = self.pools.get(key)
        if pool is not None and (pool.members or pool.trials or pool.reserve):
            return pool
        if pool is not None and pool.sequences is not None and pool.sequences.has_live:
            return pool  # on slices that take nothing else
        return self.calls if key.startswith("call") else self.everywhere

    def replace(self, specs: Sequence[SliceSpec]) -> None:
        """
        Make the set of slices equal to `specs`, by name.

        A slice whose endpoints changed is a new server under an old name: it keeps its order and
        its totals and is checked anew. One that is gone gets no new work; what it has in flight
        runs to its end.
        """
        wanted = {spec.name: spec for spec in specs}
        for name in [name for name in self.slices if name not in wanted]:
            gone = self.slices.pop(name)
            before = gone.state.value
            gone.order = Order.DISABLED
            self.tell(gone, "removed", "no longer configured", before)
        for name, spec in wanted.items():
            member = self.slices.get(name)
            if member is None:
                member = Slice(spec, self._thresholds, self._now_s())
                self.slices[name] = member
                self.tell(member, "added", "configured", after=member.state.value)
            elif member.spec != spec:
                moved = (member.spec.http, member.spec.grpc) != (spec.http, spec.grpc)
                member.spec, member.weight = spec, spec.weight
                if moved or member.spec.mig_uuid != spec.mig_uuid:
                    member.health.forget(self._now_s())
                    member.models = None
                    self.ejector.forget(member, self._now_s())
                self.tell(member, "changed", "configuration changed")
        self.slices = {name: self.slices[name] for name in wanted}
        self.publish()
        self._tell_all()

    def order(self, member: Slice, order: Order, reason: str) -> None:
        """Carry out the operator's choice at once."""
        if member.order is order:
            return
        before, now_s = member.order, self._now_s()
        if before is Order.DISABLED:
            # Nobody looked at it while it was out: it is checked before it takes traffic.
            member.health.forget(now_s)
            self.ejector.forget(member, now_s)
        member.order = order
        if order is ENABLED and member.routable:
            self.ejector.start_slowly(member, now_s)
        self.publish()
        self.tell(member, "order", reason, before.value, order.value)
        if order is not ENABLED and member.in_flight and member not in self._draining:
            self._draining.add(member)
            member.on_idle.append(partial(self._drained, member))

    def _drained(self, member: Slice) -> None:
        self._draining.discard(member)
        if member.order is not ENABLED and self.slices.get(member.name) is member:
            self.tell(
                member, "drained", "the last request in flight has ended",
                State.DRAINING.value, member.order.value,
            )  # fmt: skip

    def record(self, member: Slice, result: CheckResult) -> None:
        """Take the result of a check in."""
        before, now_s = member.health.health, self._now_s()
        flipped = member.health.record(result, now_s)
        models = member.models
        learned = result.models is not None and result.models != models
        if learned:
            member.models = result.models
        if flipped and member.routable and not self._is_starting(before, now_s):
            self.ejector.start_slowly(member, now_s)
        if flipped or learned:
            self.publish()
        if flipped:
            self.tell(member, "health", result.reason, before.value, member.health.health.value)
        if learned and models is not None:
            self.tell(member, "models", _difference(models, member.models or {}),
                      str(len(models)), str(len(member.models or {})))  # fmt: skip

    def condemn(self, member: Slice, reason: str) -> None:
        """Take a slice out on evidence from traffic: nobody listens at its port."""
        before = member.health.health.value
        if member.health.condemn(reason, self._now_s()):
            self.publish()
            self.tell(member, "health", reason, before, member.health.health.value)

    def attempt_ended(self, member: Slice, key: str, outcome: int) -> None:
        """See Ejector.ended; the relays come here through RelayCore.attempt_ended."""
        self.ejector.ended(member, key, outcome, self._now_s())

    def set_policy(self, make_policy: Callable[[], Policy]) -> None:
        """Use another policy from the next request on."""
        self.make_policy = make_policy
        for pool in self.pools.values():
            pool.policy = make_policy()
        for callback in self.on_publish:
            callback()

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Judge checks by other thresholds from now on; runs that have begun go on."""
        self._thresholds = thresholds
        for member in self.slices.values():
            member.health.thresholds = thresholds

    def decay_charges(self, elapsed_s: float) -> None:
        """Let failed attempts weigh less as time passes."""
        for member in self.slices.values():
            if member.charge:
                left = member.charge * max(0.0, 1.0 - elapsed_s / CHARGE_DECAY_S * 3)
                member.charge = left if left > 0.01 else 0.0

    def tick(self, elapsed_s: float) -> None:
        """Let `elapsed_s` do their part: charges, ejections, latencies, slow starts, reserves."""
        now_s = self._now_s()
        self.decay_charges(elapsed_s)
        self.ejector.tick(now_s)
        self._latencies.tick(self.everywhere.members, now_s)
        self.sequences.tick(now_s)
        if 0 < self._reserve_until_s <= now_s:
            self.publish()
        self._tell_all()

    def others(self, member: Slice, model: str) -> list[Slice]:
        """Return who else takes the slice's work, or its inference for `model`."""
        pool = self.pools.get(f"infer/{model}") if model else self.everywhere
        return [] if pool is None else [other for other in pool.members if other is not member]

    def publish(self) -> None:
        """Recompute who takes what, in every pool."""
        found: dict[str, list[Candidate]] = {"": [], "call": []}
        self._reserve_until_s = 0.0
        now_s = self._now_s()
        for member in self.slices.values():
            traffic = member.traffic
            if traffic is NONE and self._may_recover(member, now_s):
                traffic = RESERVE
            # A pool stays, empty, while a slice that is out has the model: its policy keeps its turn.
            for key, model in _keys(member):
                found.setdefault(key, []).append((member, model, traffic))
        for key in [key for key in self.pools if key not in found]:
            # Emptied as well: whoever still holds it must not go on sending to its members.
            self.pools.pop(key).clear()
        for key, candidates in found.items():
            self._fill(self._pool(key), candidates)
        self._latencies.keep_only(self.everywhere.members)
        self.panicking = not self.everywhere.members and bool(self.everywhere.reserve)
        self.fit_queues()
        for callback in self.on_publish:
            callback()

    @property
    def health_counts(self) -> dict[Health, int]:
        """How many slices are in each health."""
        counts = dict.fromkeys(Health, 0)
        for member in self.slices.values():
            counts[member.health.health] += 1
        return counts

    def _pool(self, key: str) -> SlicePool:
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = SlicePool(self.make_policy(), key)
            pool.sequences = self.sequences.of_pool(key)
        return pool

    def _sequences_changed(self) -> None:
        for key, pool in self.pools.items():
            pool.sequences = self.sequences.of_pool(key)
        for callback in self.on_publish:
            callback()

    def _queues_configured(self) -> None:
        self.fit_queues()
        for callback in self.on_publish:
            callback()

    def fit_queues(self) -> None:
        """Bring the lines and their limits up to date with slices, pools and settings."""
        self.queues.fit_slices()
        for key, pool in self.pools.items():
            pool.line = self.queues.of_pool(key)
        self.queues.fit_lanes()

    def _fill(self, pool: SlicePool, candidates: list[Candidate]) -> None:
        members: list[Slice] = []
        trials: list[Trial] = []
        reserve: list[Slice] = []
        for member, model, whole in candidates:
            tallies = member.tallies
            traffic = least(whole, MODEL[tallies[model].ejection]) if model in tallies else whole
            if traffic is ALL:
                members.append(member)
                continue
            if traffic is ONE:
                due = [
                    t for name, t in tallies.items() if name in ("", model) and t.ejection is DUE
                ]
                trials.append(Trial(member, due, self._begin_trial))
            if traffic is not NONE:
                reserve.append(member)
        pool.members = tuple(members)
        pool.trials = tuple(trials)
        pool.reserve = () if members else tuple(reserve)

    def _may_recover(self, member: Slice, now_s: float) -> bool:
        """Say whether a slice that is down is worth a request that nobody else would take."""
        record = member.health
        if not (record.health is DOWN and record.hung):
            return False
        until_s = record.since_s + self.ejector.settings.panic_s
        if member.order is not ENABLED or not member.weight or now_s >= until_s:
            return False
        earliest_s = self._reserve_until_s
        self._reserve_until_s = min(until_s, earliest_s) if earliest_s else until_s
        return True

    def _begin_trial(self, member: Slice, tally: Tally) -> None:
        self.ejector.begin_trial(member, tally, self._now_s())

    def _is_starting(self, before: Health, now_s: float) -> bool:
        """Say whether a slice comes up because the gateway has just been started."""
        return before is UNKNOWN and now_s - self._started_s < self.ejector.settings.slow_start_s

    def tell(
        self,
        member: Slice,
        event: str,
        reason: str,
        before: str = "",
        after: str = "",
        model: str = "",
    ) -> None:
        """
        Tell everybody of a change that has been made, in the order the changes were made.

        A listener may bring about the next change; all hear of this one first.
        """
        self._untold.append(Change(member, event, reason, before, after, member.state.value, model))
        self._tell_all()

    def _tell_all(self) -> None:
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold or self.panicking is not self._told_panic:
                change = self._untold.popleft() if self._untold else self._panic_change()
                for recorder in list(self.recorders):
                    recorder(change)
                if change.member is not None:
                    for listener in list(self.listeners):
                        listener.slice_changed(change.member, change.event, change.reason)
        finally:
            self._telling = False

    def _panic_change(self) -> Change:
        self._told_panic = now = self.panicking
        if now:
            names = ", ".join(member.name for member in self.everywhere.reserve[:8])
            reason = f"no slice is well; asked all the same: {names}"
        else:
            reason = "a slice is well again" if self.everywhere.members else "nobody is left to ask"
        return Change(None, "panic", reason, "no" if now else "yes", "yes" if now else "no", "", "")


def _keys(member: Slice) -> list[tuple[str, str]]:
    """Return (key, model) of the pools that `member` belongs to; model "" where none is asked."""
    keys = [("", ""), ("call", "")]
    for model, versions in (member.models or {}).items():
        keys += [(f"infer/{model}", model), (f"call/{model}", "")]
        keys += [(f"infer/{model}/{version}", model) for version in versions]
    return keys


def _difference(before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> str:
    """Say which models have come, gone or changed their versions; at most a few by name."""
    parts = []
    for what, names in (
        ("ready", sorted(after.keys() - before.keys())),
        ("no longer ready", sorted(before.keys() - after.keys())),
        (
            "other versions",
            sorted(m for m in after.keys() & before.keys() if after[m] != before[m]),
        ),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            parts.append(f"{what}: {', '.join(names[:8])}{more}")
    return "; ".join(parts)
