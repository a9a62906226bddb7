"""Workers agree on which slice has a sequence, whichever of them gets its requests."""

from collections.abc import Iterator

import pytest

from gateway.fleet.sequences import MARGIN_S, SequenceFields, SequenceTable, TableFullError
from gateway.fleet.slices import Slice
from gateway.workers.board import CELLS, Board
from gateway.workers.sequences import ENDED_S, NS, SharedSequenceTable
from tests.gateway.making import Fleet

IDLE_S = 5.0


class Workers:
    """Two tables on one board, and a third of a worker that is started later."""

    def __init__(self) -> None:
        self.fleet = Fleet("s0", "s1", "s2")
        self.members: tuple[Slice, ...] = tuple(self.fleet.registry.slices.values())
        for column, member in enumerate(self.members):
            member.column = column
        self.board = Board(3)
        self.now_s = 1000.0
        self.gone: set[int] = set()
        self.a, self.b = self.worker(0), self.worker(1)

    def worker(self, index: int) -> SharedSequenceTable:
        return SharedSequenceTable(
            "m", IDLE_S, self.board, index, self._member_at, lambda: int(self.now_s * NS)
        )

    def _member_at(self, model: str, column: int) -> Slice | None:
        return None if column in self.gone else self.members[column]

    def send(
        self, at: SequenceTable, sequence_id: int | str, marks: str = "", took_s: float = 0.01
    ) -> str:
        """Send a request (`S` starts, `E` ends) through a worker; return its slice, or ""."""
        fields = SequenceFields(sequence_id, "S" in marks, "E" in marks)
        self.now_s += 0.01
        sequence = at.begin(fields, self.members, self.now_s)
        if sequence is None:
            return ""
        self.now_s += took_s
        at.finish(sequence, self.now_s)
        return sequence.member.name


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.board.close()


def test_a_sequence_goes_on_at_another_worker(workers: Workers) -> None:
    for sequence_id in (7, "7", 8):
        name = workers.send(workers.a, sequence_id, "S")
        assert workers.send(workers.b, sequence_id) == name
        assert workers.send(workers.a, sequence_id) == name
        assert workers.send(workers.b, sequence_id, "E") == name
        assert workers.send(workers.a, sequence_id) == ""
        assert workers.send(workers.b, sequence_id) == ""
    workers.now_s += 2
    workers.a.sweep(workers.now_s)
    assert not workers.a.live
    assert not workers.a.counts
    assert not workers.b.counts


def test_the_same_id_begins_anew_wherever_it_ended(workers: Workers) -> None:
    first = workers.send(workers.a, 7, "S")
    workers.send(workers.b, 7, "E")
    workers.send(workers.a, 100, "S")  # another slice has the fewest now
    again = workers.send(workers.b, 7, "S")
    assert workers.send(workers.a, 7) == again
    assert workers.send(workers.b, 7, "E") == again
    assert first


def test_who_begins_anew_before_the_end_is_noted_is_not_forgotten(workers: Workers) -> None:
    """The client has read the answer to its END, and its next START is faster than our own note."""
    workers.send(workers.a, 7, "S")
    workers.send(workers.b, 7)
    workers.now_s += 0.01
    ending = workers.a.begin(SequenceFields(7, ends=True), workers.members, workers.now_s)
    assert ending is not None
    name = workers.send(workers.b, 7, "S")
    workers.a.finish(ending, workers.now_s)
    assert workers.send(workers.b, 7) == name
    assert workers.send(workers.a, 7) == name
    assert workers.send(workers.worker(2), 7) == name


def test_one_request_alone_leaves_nothing_behind(workers: Workers) -> None:
    for sequence_id in range(1, 200):
        assert workers.send(workers.a, sequence_id, "SE")
        assert workers.send(workers.b, sequence_id) == ""
    assert not any(bytes(workers.board._bytes))


def test_each_worker_spreads_its_own_and_begins_elsewhere(workers: Workers) -> None:
    assert [workers.send(workers.a, i, "S") for i in (1, 2, 3)] == ["s0", "s1", "s2"]
    assert [workers.send(workers.b, i, "S") for i in (4, 5, 6)] == ["s1", "s2", "s0"]


def test_a_worker_that_is_started_later_knows_the_sequences(workers: Workers) -> None:
    name = workers.send(workers.a, 7, "S")
    assert workers.send(workers.worker(0), 7) == name, "in place of one that was killed"
    assert workers.send(workers.worker(2), 7) == name


def test_idle_sequences_are_over_for_everybody(workers: Workers) -> None:
    workers.send(workers.a, 7, "S")
    workers.now_s += IDLE_S + MARGIN_S - 0.5
    assert workers.send(workers.b, 7)
    workers.now_s += IDLE_S + MARGIN_S - 0.5
    assert workers.send(workers.a, 7), "it was used at the other worker"
    workers.now_s += IDLE_S + MARGIN_S + 0.5
    assert workers.send(workers.b, 7) == ""
    assert workers.send(workers.a, 7) == ""


def test_a_request_that_takes_longer_than_that_keeps_its_sequence(workers: Workers) -> None:
    name = workers.send(workers.a, 7, "S", took_s=3 * IDLE_S)
    assert workers.send(workers.b, 7) == name


def test_a_slice_that_is_gone_has_no_sequences(workers: Workers) -> None:
    workers.send(workers.a, 7, "S")
    workers.gone = {0}
    workers.a.drop_slice(workers.members[0])
    assert workers.send(workers.b, 7) == ""
    assert workers.send(workers.a, 7) == ""
    workers.members = workers.members[1:]
    name = workers.send(workers.b, 7, "S")
    workers.members = tuple(workers.fleet.registry.slices.values())
    assert workers.send(workers.a, 7) == name != "s0"


def test_an_end_is_forgotten_once_all_have_seen_it(workers: Workers) -> None:
    workers.send(workers.a, 7, "S")
    workers.send(workers.b, 7, "E")
    workers.now_s += 1.5
    workers.a.sweep(workers.now_s)
    workers.now_s += ENDED_S
    assert workers.send(workers.a, 7) == ""
    assert not workers.board.is_noted(b"x" * 16, 0, but=2)


def test_the_sweep_looks_at_a_few_in_turn(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.workers.sequences.SWEPT_MAX", 2)
    for sequence_id in (1, 2, 3, 4):
        workers.send(workers.a, sequence_id, "S")
    for sequence_id in (3, 4):
        workers.send(workers.b, sequence_id, "E")
    for left in (4, 2):
        workers.now_s += 1.1
        workers.a.sweep(workers.now_s)
        assert len(workers.a.live) == left


def test_a_board_without_room_refuses_new_ones(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.workers.board.BUCKETS", 1)
    for sequence_id in range(1, CELLS + 1):
        workers.send(workers.a, sequence_id, "S")
    with pytest.raises(TableFullError):
        workers.send(workers.a, 99, "S")
    assert workers.send(workers.a, 3) != ""
