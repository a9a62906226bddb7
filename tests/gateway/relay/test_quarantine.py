"""Which contents are suspected of breaking slices, which are refused, and how they come free."""

from dataclasses import replace

import pytest

from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay import quarantine
from gateway.relay.quarantine import TRIAL_S, WATCH_S, Quarantine, Suspect

KEY = "infer/m"
BODY = b"a deadly request"


class Table:
    """A quarantine, what it has told, and a time."""

    def __init__(self, **limits: int) -> None:
        self.counters = Counters()
        self.table = Quarantine(Limits(**limits), Timeouts(), self.counters)
        self.told: list[tuple[str, float]] = []
        self.table.tell = lambda event, suspect, seconds: self.told.append((event, seconds))
        self.now_s = 100.0

    def suspect(self, body: bytes = BODY, key: str = KEY) -> Suspect | None:
        return self.table.suspect(key, body, self.now_s)

    def breaks(self, *losses: int, body: bytes = BODY) -> Suspect:
        """A request loses slices: its first, its second."""
        suspect = self.suspect(body)
        assert suspect is not None
        for count in losses or (1, 2):
            self.table.lost(suspect, count, self.now_s)
        return suspect

    def may_go(self, body: bytes = BODY) -> bool:
        return self.table.find(KEY, body, self.now_s)[1]

    def witness(self, body: bytes = BODY) -> Suspect | None:
        return self.table.find(KEY, body, self.now_s)[0]


def test_what_has_broken_two_slices_is_refused_and_nothing_else() -> None:
    table = Table()
    table.breaks()
    assert not table.may_go()
    assert table.may_go(b"another request!")
    assert table.table.find("infer/n", BODY, table.now_s) == (None, True)
    assert table.counters.quarantines == 1
    assert table.told == [("quarantined", 60.0)]


def test_what_has_broken_one_slice_is_watched_and_forgotten() -> None:
    table = Table()
    table.breaks(1)
    assert list(table.table.by_size) == [(KEY, len(BODY))]
    assert table.may_go()
    table.table.sweep(table.now_s + WATCH_S)
    assert not table.table.by_size
    assert table.told == []


def test_an_answer_to_the_same_content_ends_the_suspicion() -> None:
    """A popular request was on both slices by chance; its like is answered all the time."""
    table = Table()
    lost = table.breaks(1)
    witness = table.witness()
    assert witness is lost
    table.table.answered(witness)
    assert not table.table.by_size
    table.table.lost(lost, 2, table.now_s)
    assert table.may_go()
    assert table.told == []


def test_an_answer_that_comes_late_lifts_the_ban() -> None:
    table = Table()
    lost = table.breaks(1)
    witness = table.witness()
    assert witness is not None
    table.table.lost(lost, 2, table.now_s)
    assert not table.may_go()
    table.table.answered(witness)
    assert table.may_go()
    assert [event for event, _ in table.told] == ["quarantined", "released"]


def test_one_witness_at_a_time_is_enough() -> None:
    """So that requests of one size are not all hashed while something is watched."""
    table = Table()
    table.breaks(1)
    assert table.witness() is not None
    assert table.witness() is None
    table.now_s += 0.1
    assert table.witness() is not None


def test_after_a_ban_one_may_try_and_if_it_breaks_its_slice_the_ban_is_longer() -> None:
    table = Table()
    table.breaks()
    table.now_s += 60.0
    suspect, may_go = table.table.find(KEY, BODY, table.now_s)
    assert suspect is not None
    assert may_go
    assert not table.may_go(), "one at a time"
    table.table.lost(suspect, 1, table.now_s)
    table.now_s += 119.0
    assert not table.may_go()
    table.now_s += 1.0
    assert table.may_go()
    table.now_s += TRIAL_S
    assert table.may_go(), "nothing was heard of the one that tried"
    assert [seconds for _, seconds in table.told] == [60.0, 120.0]


def test_a_ban_that_nobody_tries_is_forgotten_after_as_long_again() -> None:
    table = Table()
    table.breaks()
    table.table.sweep(table.now_s + 119.0)
    assert table.table.by_size
    table.table.sweep(table.now_s + 120.0)
    assert not table.table.by_size


def test_when_no_slice_is_left_one_may_try_at_once() -> None:
    """A reset of the whole GPU is nobody's fault."""
    table = Table()
    table.breaks()
    table.table.none_left(table.now_s)
    suspect, may_go = table.table.find(KEY, BODY, table.now_s)
    assert may_go
    assert suspect is not None
    assert not table.may_go()
    table.table.answered(suspect)
    assert table.may_go()


@pytest.mark.parametrize("key", ["", "call", "call/m"])
def test_only_inference_is_suspected(key: str) -> None:
    assert Table().suspect(key=key) is None


def test_a_request_without_a_body_is_not_suspected() -> None:
    assert Table().suspect(b"") is None


@pytest.mark.parametrize(
    ("limits", "timeouts"),
    [(Limits(quarantined=0), Timeouts()), (Limits(), replace(Timeouts(), quarantine_s=0.0))],
)
def test_it_can_be_turned_off_also_live(limits: Limits, timeouts: Timeouts) -> None:
    table = Table()
    table.breaks()
    table.table.configure(limits, timeouts)
    assert not table.table.by_size
    assert table.suspect() is None


def test_the_table_is_bounded_and_keeps_the_banned() -> None:
    table = Table(quarantined=2)
    table.breaks()
    table.breaks(1, body=b"one")
    table.breaks(1, body=b"two")
    assert len(table.table) == 2
    assert not table.may_go()
    assert table.counters.limits == {"quarantined": 1}


def test_what_is_hashed_in_a_second_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "HASHED_BYTES_MAX", 100)
    table = Table()
    assert table.suspect(bytes(60)) is not None
    assert table.suspect(bytes(61)) is None
    table.now_s += 1.0
    assert table.suspect(bytes(61)) is not None
    assert table.counters.limits == {"quarantine_hashing": 1}


def test_contents_of_one_size_are_told_apart_to_the_last_byte() -> None:
    table = Table()
    body = bytes(600_000)
    table.breaks(body=body)
    for at in (0, 1, 299_999, 599_999):
        other = body[:at] + b"x" + body[at + 1 :]
        assert table.may_go(other), f"differs at {at}"
    assert not table.may_go(body)
