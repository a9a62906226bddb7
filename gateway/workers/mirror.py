"""
Mirror: the fleet as the main process has it, told to workers and rebuilt there.

The main process decides who takes what; a worker is told the outcome, which is the pools, and none
of the reasons. What a worker learns of a slice by its traffic it reports, and acts upon at once only
as far as its own next picks go.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES, OverWorkers
from gateway.fleet.health import DISABLED, UP, Health, Order, Thresholds
from gateway.fleet.outcomes import OK, REJECTED
from gateway.fleet.pools import Policy, Trial
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.sequences import SequenceTables
from gateway.fleet.slices import CHARGE_MAX, SharedSlice, Slice
from gateway.fleet.tally import Tally
from gateway.workers.board import Board
from gateway.workers.lanes import ToldLanes
from gateway.workers.sequences import SharedSequenceTable
from gateway.workers.turns import Tables

Document = dict[str, Any]

_DIGITS: Final = 3
"""Of charge and drag: what changes less is not worth a message."""


def document(
    registry: SliceRegistry, columns: Mapping[str, int], queues: Document | None = None
) -> Document:
    """
    Return everything a worker must know of the fleet, as JSON has it.

    Args:
        columns: Of the slices, by name.
        queues: What it must know of lines; see gateway.workers.lanes.
    """
    members = list(registry.slices.values())
    index = {member: i for i, member in enumerate(members)}
    policy = next(name for name, make in POLICIES.items() if make is registry.make_policy)
    return {
        "policy": policy,
        "ready_when": registry.ready_when,
        "sequences": {model: table.idle_s for model, table in registry.sequences.by_model.items()},
        "slices": [
            {
                "spec": _spec_fields(member.spec),
                "column": columns[member.name],
                "order": member.order.value,
                "health": member.health.health.value,
                "hung": member.health.hung,
                "reason": member.health.reason,
                "models": member.models,
                "failed_at_s": member.failed_at_s,
            }
            for member in members
        ],
        "pools": {
            key: {
                "members": [index[member] for member in pool.members],
                "reserve": [index[member] for member in pool.reserve],
            }
            for key, pool in registry.pools.items()
        },
        "moods": moods(registry),
        "queues": queues or {"limits": {}, "lines": {}},
    }


def moods(registry: SliceRegistry) -> Document:
    """Return what changes without anybody being put in or taken out: weights and trials."""
    return {
        "slices": {
            member.name: [
                round(member.charge, _DIGITS), round(member.drag, _DIGITS), bool(member.tallies)
            ]
            for member in registry.slices.values()
        },
        "trials": {
            key: names
            for key, pool in registry.pools.items()
            if (names := [trial.member.name for trial in pool.trials if trial.due])
        },
    }  # fmt: skip


class Mirror(SliceRegistry):
    """
    A worker's registry: pools as it is told, counts in shared memory.

    Args:
        board: Where the workers' sequences are noted.
        row: The worker's row of each of `tables`, and its part of `board`.
        report: Sends a message to the main process.
    """

    def __init__(
        self,
        tables: Tables,
        board: Board,
        row: int,
        now_s: Callable[[], float],
        report: Callable[[Document], None],
    ) -> None:
        self._table = tables.slices
        self._row = self._table.rows[row]
        self._report = report
        self._policy_name = ""
        self._by_column: dict[int, Slice] = {}
        super().__init__(self._shared(next(iter(POLICIES))), Thresholds(), now_s)
        self.listeners.remove(self.sequences)
        self.sequences = SequenceTables(
            now_s,
            self._sequences_changed,
            lambda model, idle_s: SharedSequenceTable(model, idle_s, board, row, self._holder),
        )
        self.listeners.append(self.sequences)
        self._lanes = ToldLanes(tables, row, self.queues, now_s)

    def take_over(self, told: Document) -> None:
        """Become equal to the main process's registry, and tell the listeners what has changed."""
        events = self._slices(told["slices"])
        self.ready_when = told["ready_when"]
        if told["policy"] != self._policy_name:
            self._policy_name = told["policy"]
            self.set_policy(self._shared(told["policy"]))
        members = list(self.slices.values())
        for key in [key for key in self.pools if key not in told["pools"]]:
            self.pools.pop(key).clear()
        for key, names in told["pools"].items():
            pool = self._pool(key)
            # Equal members stay the same tuple, by which a policy knows that nothing has changed.
            found = tuple(members[i] for i in names["members"])
            if found != pool.members:
                pool.members = found
            pool.reserve = tuple(members[i] for i in names["reserve"])
        followed: dict[str, float] = told["sequences"]
        for model in {*self.sequences.by_model, *followed}:
            self.sequences.follow(model, followed.get(model))
        self.take_moods(told["moods"])
        self._lanes.take_over(told["queues"])
        self.fit_queues()
        for member, event, reason in events:
            self.tell(member, event, reason)

    def take_moods(self, told: Document) -> None:
        for name, (charge, drag, watched) in told["slices"].items():
            member = self.slices.get(name)
            if member is not None:
                member.charge, member.drag = charge, drag
                # The relays report what went well only of slices that have tallies.
                member.tallies = {"": Tally("", 1.0, 0.0)} if watched else {}
        for key, pool in self.pools.items():
            names = told["trials"].get(key, ())
            pool.trials = tuple(
                ReportedTrial(self.slices[name], key, self._begin_reported)
                for name in names
                if name in self.slices
            )

    def publish(self) -> None:
        """Nothing: the main process says who takes what."""

    def condemn(self, member: Slice, reason: str) -> None:
        self._report({"said": "condemned", "slice": member.name, "reason": reason})
        for pool in self.pools.values():
            if member in pool.members:
                pool.members = tuple(other for other in pool.members if other is not member)
        self.queues.want()

    def attempt_ended(self, member: Slice, key: str, outcome: int) -> None:
        self._report({"said": "ended", "slice": member.name, "key": key, "outcome": outcome})
        if outcome not in (OK, REJECTED):
            member.charge = min(member.charge + 1.0, CHARGE_MAX)
            member.failed_at_s = self._now_s()

    def _begin_reported(self, member: Slice, key: str) -> None:
        self._report({"said": "tried", "slice": member.name, "key": key})
        for pool in self.pools.values():
            pool.trials = tuple(trial for trial in pool.trials if trial.member is not member)

    def _holder(self, model: str, column: int) -> Slice | None:
        """Return the slice that may have sequences of `model`, by its column."""
        member = self._by_column.get(column)
        if member is None or member.health.health is not UP:
            return None
        return member if model in (member.models or ()) else None

    def _shared(self, policy: str) -> Callable[[], Policy]:
        return lambda: OverWorkers(POLICIES[policy](), self._table.sums)

    def _slices(self, told: list[Document]) -> list[tuple[Slice, str, str]]:
        """Make the slices those told, and return (slice, event, reason) for each change."""
        events: list[tuple[Slice, str, str]] = []
        before, self.slices = self.slices, {}
        self._by_column = {}
        for entry in told:
            spec = _spec(entry["spec"])
            member = before.pop(spec.name, None)
            self._table.widen(entry["column"] + 1)
            if member is None:
                now_s = self._now_s()
                member = SharedSlice(spec, self._thresholds, now_s, self._row, entry["column"])
                events.append((member, "added", "configured"))
            elif member.spec != spec:
                member.spec, member.weight = spec, spec.weight
                events.append((member, "changed", "configuration changed"))
            self.slices[spec.name] = self._by_column[entry["column"]] = member
            events += [(member, event, entry["reason"]) for event in _update(member, entry)]
        for gone in before.values():
            gone.order = DISABLED
            events.append((gone, "removed", "no longer configured"))
        return events


class ReportedTrial(Trial):
    """A trial that the main process is told of; whoever is first has it, here and elsewhere."""

    __slots__ = ("_key", "_report")

    def __init__(self, member: Slice, key: str, report: Callable[[Slice, str], None]) -> None:
        super().__init__(member, (), lambda member, tally: None)
        self._key = key
        self._report = report

    def take(self) -> bool:
        self._report(self.member, self._key)
        return True


def _update(member: Slice, entry: Document) -> list[str]:
    """Make `member` what it was told to be; return the events that this is."""
    events = []
    order, health = Order(entry["order"]), Health(entry["health"])
    if member.order is not order:
        member.order = order
        events.append("order")
    record = member.health
    if record.health is not health or record.hung is not entry["hung"]:
        record.health, record.hung, record.reason = health, entry["hung"], entry["reason"]
        events.append("health")
    models = entry["models"]
    models = models and {name: tuple(versions) for name, versions in models.items()}
    if member.models != models:
        member.models = models
        events.append("models")
    member.failed_at_s = max(member.failed_at_s, entry["failed_at_s"])
    return events


def _spec_fields(spec: SliceSpec) -> list[Any]:
    return [
        spec.name, str(spec.http), str(spec.grpc), str(spec.metrics) if spec.metrics else None,
        spec.weight, spec.mig_uuid, spec.profile, spec.simulated, spec.max_in_flight,
    ]  # fmt: skip


def _spec(fields: list[Any]) -> SliceSpec:
    name, http, grpc, metrics, weight, mig_uuid, profile, simulated, max_in_flight = fields
    return SliceSpec(
        name, Endpoint.parse(http), Endpoint.parse(grpc),
        Endpoint.parse(metrics) if metrics else None, weight, mig_uuid, profile, simulated,
        max_in_flight=max_in_flight,
    )  # fmt: skip
