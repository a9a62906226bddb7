"""A worker's fleet is what the main process has decided; what it sees itself it reports."""

import json
from typing import Any

import pytest

from gateway.balance.policies import POLICIES
from gateway.fleet.health import CheckResult, Order
from gateway.fleet.outcomes import OK, SERVER_ERROR
from gateway.fleet.readiness import ALL, is_ready
from gateway.fleet.sequences import SequenceFields
from gateway.workers.board import Board
from gateway.workers.lanes import LaneKeeper
from gateway.workers.mirror import Mirror, document, moods
from gateway.workers.sequences import SharedSequenceTable
from gateway.workers.turns import Tables
from tests.gateway.making import REFUSED, Fleet, live, make_spec


class Pair:
    """A main process's registry and the mirror of it in one of two workers."""

    def __init__(self, *names: str) -> None:
        self.fleet = Fleet(*names)
        self.tables = Tables(2)
        self.table = self.tables.slices
        self.lanes = LaneKeeper(self.tables, self.fleet.registry.queues)
        self.reports: list[Any] = []
        self.told: list[tuple[str, str]] = []
        self.board = Board(2)
        self.mirror = Mirror(self.tables, self.board, 0, lambda: 5.0, self.reports.append)
        self.mirror.listeners.append(self)
        self.columns = {name: i for i, name in enumerate(names)}
        self.tell()
        self.told.clear()

    def slice_changed(self, member: Any, event: str, reason: str) -> None:
        self.told.append((member.name, event))

    def tell(self) -> None:
        told = document(self.fleet.registry, self.columns, self.lanes.document())
        self.mirror.take_over(json.loads(json.dumps(told)))

    def members(self, key: str) -> list[str]:
        return [member.name for member in self.mirror.pool(key).members]


@pytest.fixture
def pair() -> Any:
    made = Pair("s0", "s1", "s2")
    yield made
    made.table.close()
    made.board.close()


def same(pair: Pair) -> bool:
    return {k: [m.name for m in p.members] for k, p in pair.mirror.pools.items()} == {
        k: [m.name for m in p.members] for k, p in pair.fleet.registry.pools.items()
    }


def test_pools_are_the_same_after_every_change(pair: Pair) -> None:
    registry = pair.fleet.registry
    assert pair.members("infer/m") == ["s0", "s1", "s2"]
    registry.order(pair.fleet["s1"], Order.DRAINED, "test")
    pair.tell()
    assert pair.members("infer/m") == ["s0", "s2"]
    registry.record(pair.fleet["s0"], REFUSED)
    registry.record(pair.fleet["s2"], live("other"))
    pair.tell()
    assert same(pair)
    assert pair.members("infer/m") == ["s2"]  # nobody has it, so anybody may say so
    pair.columns["s9"] = 3
    registry.replace([make_spec("s9", 19000), *pair.fleet.specs[1:]])
    registry.record(registry.slices["s9"], live("m"))
    pair.tell()
    assert same(pair)
    assert list(pair.mirror.slices) == ["s9", "s1", "s2"]


def test_listeners_hear_what_closes_connections(pair: Pair) -> None:
    registry = pair.fleet.registry
    registry.order(pair.fleet["s1"], Order.DISABLED, "test")
    registry.replace([make_spec("s0", 17000), *pair.fleet.specs[1:2]])
    pair.tell()
    assert ("s1", "order") in pair.told
    assert ("s0", "changed") in pair.told
    assert ("s2", "removed") in pair.told
    assert pair.mirror.slices["s0"].spec.http.port == 17000


def test_a_slice_that_hangs_is_told_as_such(pair: Pair) -> None:
    for _ in range(3):
        pair.fleet.registry.record(pair.fleet["s0"], CheckResult(False, "no answer"))
    pair.tell()
    assert ("s0", "health") in pair.told
    assert pair.mirror.slices["s0"].health.hung


def test_members_that_have_not_changed_are_the_same_tuple(pair: Pair) -> None:
    """Else round robin would begin anew with every message."""
    before = pair.mirror.pool("infer/m").members
    pair.tell()
    assert pair.mirror.pool("infer/m").members is before


def test_a_pick_sees_what_the_other_worker_has_in_flight(pair: Pair) -> None:
    pool = pair.mirror.pool("infer/m")
    pair.table.rows[1][0] = pair.table.rows[1][1] = 2
    for expected in ("s2", "s2"):
        target = pool.pick()
        assert target is not None
        assert target.name == expected
        target.begin()
    picked = pool.pick()
    assert picked is not None
    assert picked.in_flight == 2
    pool.members[2].end()
    assert pair.table.rows[0][2] == 1


def test_an_end_without_a_beginning_is_loud_whatever_others_have(pair: Pair) -> None:
    pair.table.rows[1][0] = 2
    pair.mirror.pool("infer/m").pick()
    with pytest.raises(AssertionError, match="end\\(\\) without begin"):
        pair.mirror.slices["s0"].end()


def test_the_last_request_here_tells_who_waits_for_that(pair: Pair) -> None:
    member, told = pair.mirror.slices["s0"], []
    member.begin()
    pair.table.rows[1][0] = 2  # another worker's
    member.on_idle.append(lambda: told.append("idle"))
    member.end()
    assert told == ["idle"]


def test_when_the_server_is_ready_follows(pair: Pair) -> None:
    pair.fleet.registry.ready_when = ALL
    pair.tell()
    assert is_ready(pair.mirror)
    pair.fleet.registry.record(pair.fleet["s0"], REFUSED)
    pair.tell()
    assert not is_ready(pair.mirror)
    assert pair.mirror.everywhere.members


def test_models_that_batch_sequences_follow(pair: Pair) -> None:
    registry = pair.fleet.registry
    told: list[str] = []
    registry.on_publish.append(lambda: told.append("published"))
    registry.sequences.follow("m", 2.0)
    assert told, "workers hear of it at once"
    pair.tell()
    table = pair.mirror.pool("infer/m").sequences
    assert isinstance(table, SharedSequenceTable)
    assert table.idle_s == 2.0
    registry.sequences.follow("m", 3.0)
    assert len(told) == 2
    pair.tell()
    assert table.idle_s == 3.0
    registry.sequences.follow("m", None)
    pair.tell()
    assert pair.mirror.pool("infer/m").sequences is None


def test_sequences_of_a_slice_that_has_lost_its_model_are_dropped(pair: Pair) -> None:
    pair.fleet.registry.sequences.follow("m", 2.0)
    pair.tell()
    table = pair.mirror.sequences.by_model["m"]
    sequence = table.begin(SequenceFields(7, starts=True), pair.mirror.pool("infer/m").members, 5.0)
    assert sequence is not None
    name = sequence.member.name
    pair.fleet.registry.record(pair.fleet[name], CheckResult(True, "up", models={}))
    pair.tell()
    assert not table.live
    assert table.find(SequenceFields(7), 5.0) is None, "not by the board either"


def test_the_policy_follows(pair: Pair) -> None:
    pair.fleet.registry.set_policy(POLICIES["round_robin"])
    pair.tell()
    names = [pair.mirror.pool("infer/m").pick().name for _ in range(6)]  # type: ignore[union-attr]
    assert sorted(names) == ["s0", "s0", "s1", "s1", "s2", "s2"]


def test_a_refused_slice_is_reported_and_not_picked_again(pair: Pair) -> None:
    pair.mirror.condemn(pair.mirror.slices["s0"], "connection refused")
    assert pair.members("infer/m") == ["s1", "s2"]
    assert pair.reports == [{"said": "condemned", "slice": "s0", "reason": "connection refused"}]


def test_failures_are_reported_and_weigh_at_once(pair: Pair) -> None:
    member = pair.mirror.slices["s0"]
    pair.mirror.attempt_ended(member, "infer/m", SERVER_ERROR)
    pair.mirror.attempt_ended(member, "infer/m", OK)
    assert member.charge == 1
    assert [report["outcome"] for report in pair.reports] == [SERVER_ERROR, OK]


def test_weights_follow_without_a_change_of_members(pair: Pair) -> None:
    member = pair.fleet["s1"]
    member.charge, member.drag = 2.5, 4.0
    pair.mirror.take_moods(moods(pair.fleet.registry))
    mirrored = pair.mirror.slices["s1"]
    assert (mirrored.charge, mirrored.drag, bool(mirrored.tallies)) == (2.5, 4.0, False)


def eject(pair: Pair, name: str) -> None:
    for _ in range(5):
        pair.fleet.registry.attempt_ended(pair.fleet[name], "infer/m", SERVER_ERROR)


def test_an_ejected_slice_returns_through_one_request(pair: Pair) -> None:
    registry = pair.fleet.registry
    eject(pair, "s1")
    pair.tell()
    assert pair.members("infer/m") == ["s0", "s2"]
    assert pair.mirror.slices["s1"].tallies  # so that what goes well is reported
    pair.fleet.clock.now_s += 10
    registry.tick(0.5)
    pair.tell()
    target = pair.mirror.pool("infer/m").pick()
    assert target is not None
    assert target.name == "s1"
    assert pair.reports == [{"said": "tried", "slice": "s1", "key": "infer/m"}]
    later = [pair.mirror.pool("infer/m").pick() for _ in range(4)]
    assert {member.name for member in later if member} == {"s0", "s2"}
    for trial in registry.pools["infer/m"].trials:
        assert trial.take()  # what the main process does when it hears of it
    assert moods(registry)["trials"] == {}
