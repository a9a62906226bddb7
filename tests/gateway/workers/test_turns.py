"""Several workers in front of the same slices: limits hold for all together, and nobody starves."""

import json
from collections.abc import Iterator

import pytest

from gateway.fleet.lanes import ModelLimit
from gateway.fleet.places import QueueSettings
from gateway.workers.board import Board
from gateway.workers.lanes import LaneKeeper
from gateway.workers.mirror import Mirror, document
from gateway.workers.table import COLUMNS
from gateway.workers.turns import GRACE_S, POLL_S, SLACK_S, Tables, Turn
from tests.gateway.fleet.waiting import Request
from tests.gateway.making import Fleet, make_spec


class TwoWorkers:
    """A main process's registry, and two workers' in which requests wait."""

    def __init__(self) -> None:
        self.fleet = Fleet("a", "b")
        self.tables = Tables(2)
        queues = self.fleet.registry.queues
        self.keeper = LaneKeeper(self.tables, queues)
        queues.configure(QueueSettings())
        queues.follow("m", ModelLimit(1))
        self.board = Board(2)
        self.workers = [
            Mirror(self.tables, self.board, row, self.fleet.clock, print) for row in range(2)
        ]
        self.tell()

    def tell(self) -> None:
        told = document(self.fleet.registry, {"a": 0, "b": 1}, self.keeper.document())
        for worker in self.workers:
            worker.take_over(json.loads(json.dumps(told)))

    def ask(self, worker: int) -> Request:
        """A request comes to a worker."""
        request = Request()
        pool = self.workers[worker].pool("infer/m")
        assert pool.line is not None
        lane = pool.line.admit(pool)
        if lane is not None:
            request.on_turn(lane)
        else:
            place = pool.line.enter(request, pool, 3, 0, 0.0)
            assert not hasattr(place, "code"), "refused"
            request.place = place  # type: ignore[assignment]
            self.pump(worker)
        return request

    def pump(self, worker: int) -> float:
        return self.workers[worker].queues.pump()


@pytest.fixture
def two() -> Iterator[TwoWorkers]:
    made = TwoWorkers()
    yield made
    made.tables.close()
    made.board.close()


def test_a_limit_holds_for_all_workers_together(two: TwoWorkers) -> None:
    first, second = two.ask(0), two.ask(1)
    third = two.ask(1)
    assert (first.served, second.served, third.served) == (["a"], ["b"], [])
    lanes = two.fleet.registry.queues.lines["m"].lanes
    assert [lane.taken() for lane in lanes.values()] == [1, 1], "as the admin API tells it"
    assert [len(row) for row in two.tables.lanes.rows] == [COLUMNS] * 2


def test_a_slices_own_limit_is_told_to_the_workers(two: TwoWorkers) -> None:
    two.fleet.registry.replace([make_spec("a", max_in_flight=7), make_spec("b", 18010)])
    two.tell()
    slices = two.workers[0].slices
    assert [slices[name].spec.max_in_flight for name in "ab"] == [7, None]
    assert slices["a"].max_in_flight == 7


def test_a_slot_that_another_worker_frees_is_found_by_looking(two: TwoWorkers) -> None:
    first, second, waiting = two.ask(0), two.ask(0), two.ask(1)
    assert two.pump(1) == POLL_S
    first.end()
    assert not waiting.served
    two.pump(1)
    assert waiting.served == ["a"]
    second.end()


def test_who_has_waited_longest_over_all_workers_goes_first(two: TwoWorkers) -> None:
    busy = [two.ask(0), two.ask(0)]
    long_ago = two.ask(1)
    two.fleet.clock.now_s += 2 * SLACK_S
    younger = two.ask(0)
    busy[0].end()
    two.pump(0)
    assert not younger.served, "its worker sees the free slot first, and leaves it"
    newcomer = two.ask(0)
    assert not newcomer.served, "who has just come does not take it either"
    two.pump(1)
    assert long_ago.served == ["a"]


def test_a_worker_that_hangs_keeps_nobody_waiting(two: TwoWorkers) -> None:
    busy = [two.ask(0), two.ask(0)]
    two.ask(1)
    two.fleet.clock.now_s += 2 * SLACK_S
    waiting = two.ask(0)
    busy[0].end()
    two.pump(0)
    assert not waiting.served
    two.fleet.clock.now_s += GRACE_S + 0.001
    two.pump(0)
    assert waiting.served == ["a"]


def test_a_worker_that_has_ended_is_not_waited_for(two: TwoWorkers) -> None:
    busy = [two.ask(1), two.ask(0)]
    two.ask(1)
    two.fleet.clock.now_s += 2 * SLACK_S
    waiting = two.ask(0)
    assert busy[0].lane is not None
    two.tables.clear(1)
    two.pump(0)
    assert waiting.served == ["a"], "what it had in flight is not counted any more"


def test_a_worker_without_waiting_requests_says_so(two: TwoWorkers) -> None:
    busy, other, waiting = two.ask(0), two.ask(0), two.ask(1)
    column = two.keeper.document()["lines"]["m"][0]
    assert two.tables.ranks.rows[1][column] > 0
    busy.end()
    two.pump(1)
    assert waiting.served
    assert two.tables.ranks.rows[1][column] == 0
    other.end()


def test_requests_within_the_slack_are_served_by_whoever_sees_the_slot() -> None:
    tables = Tables(2)
    now_s = 5.0
    one, other = (Turn(tables.ranks.rows, row, 0, lambda: now_s) for row in range(2))
    other.tell(now_s - SLACK_S / 2)
    assert not one.is_others(now_s)
    other.tell(now_s - SLACK_S * 2)
    assert one.is_others(now_s)
    other.tell(0)
    assert not one.is_others(now_s)
    tables.close()
