"""What one worker notes about a sequence the others read, torn or stale notes never."""

import os
from collections.abc import Iterator

import pytest

from gateway.workers import board as board_module
from gateway.workers.board import (
    BUCKETS,
    CELL_BYTES,
    CELLS,
    ENDED,
    PART_BYTES,
    Board,
    BoardFullError,
    Note,
    key_of,
)

KEY = key_of("m", 7)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board(3)
    yield made
    made.close()


def in_one_bucket(count: int) -> list[bytes]:
    return [b"\0\0\0\0" + number.to_bytes(12, "little") for number in range(1, count + 1)]


def test_the_newest_note_counts_whoever_made_it(board: Board) -> None:
    assert board.newest(KEY, 0) is None
    board.note(0, KEY, Note(10, 100, 3, 0), 10)
    board.note(2, KEY, Note(12, 100, 5, 2), 12)
    assert board.newest(KEY, 20) == Note(12, 100, 5, 2)
    board.note(0, KEY, Note(15, 100, ENDED, 0), 15)
    assert board.newest(KEY, 20) == Note(15, 100, ENDED, 0)
    board.clear(0, KEY)
    assert board.newest(KEY, 20) == Note(12, 100, 5, 2)
    assert board.newest(KEY, 101) is None, "it counts no longer"


def test_another_process_sees_it(board: Board) -> None:
    board.note(1, KEY, Note(10, 100, 3, 1), 10)
    other = Board(3, os.dup(board.number))
    assert other.newest(KEY, 20) == Note(10, 100, 3, 1)
    assert other.is_noted(KEY, 20, but=0)
    assert not other.is_noted(KEY, 20, but=1)
    other.close()


def test_ids_and_models_are_told_apart() -> None:
    keys = {
        key_of(m, i) for m in ("m", "mi") for i in (1, "1", "i1", "s1", 2**64 - 1, "é", "\ud800")
    }
    assert len(keys) == 14


def test_a_full_bucket_refuses_and_gives_expired_and_ended_ones_away(board: Board) -> None:
    keys = in_one_bucket(CELLS + 3)
    for at, key in enumerate(keys[:CELLS]):
        board.note(0, key, Note(10 + at, 100 + at, at, 0), 20)
    with pytest.raises(BoardFullError):
        board.note(0, keys[CELLS], Note(30, 200, 1, 0), 30)
    board.note(0, keys[4], Note(31, 200, 9, 0), 31)  # its own place is there
    board.note(1, keys[CELLS], Note(30, 200, 1, 1), 30)  # as is another worker's part
    board.note(0, keys[CELLS], Note(101, 200, 1, 0), 101)  # the first one has expired
    assert board.newest(keys[0], 101) is None
    for at in (5, 6):
        board.note(0, keys[at], Note(32 + at, 300, ENDED, 0), 32)
    board.note(0, keys[CELLS + 1], Note(50, 300, 2, 0), 33)
    assert board.newest(keys[5], 33) is None, "the oldest end is forgotten first"
    assert board.newest(keys[6], 33) is not None


def test_a_note_that_is_half_written_is_not_believed(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.note(0, KEY, Note(10, 100, 3, 0), 10)
    start = int.from_bytes(KEY[:4], "little") % BUCKETS * CELLS * CELL_BYTES
    monkeypatch.setattr(board_module, "READS_MAX", 3)
    memory = board._bytes
    at = bytes(memory[start : start + CELLS * CELL_BYTES]).find(KEY)
    memory[start + at + 20] ^= 1
    assert board.newest(KEY, 20) is None
    assert len(memory) == 3 * PART_BYTES
