"""The budget for sending again what a slice may have begun with."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import REPLAY_ANY, REPLAY_UNSENT, Limits
from gateway.relay.replays import BUCKETS, Replays


class Traffic:
    """Counts that are set by hand."""

    def __init__(self, **limits: int) -> None:
        self.begun = 0
        self.in_flight = 0
        self.seconds: list[float] = []
        self.now_s = 0.0
        self.replays = Replays(
            Limits(**limits), REPLAY_ANY, lambda: self.begun, lambda: self.in_flight,
            self.seconds.append,
        )  # fmt: skip
        self.pass_s(1)

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.replays.on_deadline(self.now_s)

    def spend(self, wanted: int) -> int:
        return sum(self.replays.spend() for _ in range(wanted))


def test_an_idle_gateway_has_its_floor() -> None:
    traffic = Traffic(replay_floor=3)
    assert traffic.spend(10) == 3
    assert not traffic.replays.left


def test_a_share_of_the_last_ten_seconds_comes_on_top() -> None:
    traffic = Traffic(replay_floor=3, replay_percent=20)
    traffic.begun = 100
    assert traffic.spend(100) == 23
    traffic.pass_s(BUCKETS - 1)
    assert not traffic.replays.left, "spent within the last ten seconds, as the requests came"
    traffic.pass_s(1)
    assert traffic.replays.left == 3


def test_what_is_in_flight_may_go_whatever_the_share() -> None:
    """With two slices the death of one takes half of all requests with it."""
    traffic = Traffic(replay_floor=0, replay_percent=0)
    traffic.in_flight = 64
    assert traffic.spend(1000) == 64


def test_it_can_be_turned_off_by_choice_and_changed_live() -> None:
    traffic = Traffic()
    assert traffic.replays.sent_too
    traffic.replays.configure(Limits(replay_floor=1), REPLAY_UNSENT)
    assert not traffic.replays.sent_too
    assert traffic.replays.left == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(0, 80)), max_size=60))
def test_replays_never_exceed_the_share_for_long(steps: list[tuple[int, int, int]]) -> None:
    """In all: a floor for each ten seconds, and a fifth of the requests."""
    traffic = Traffic(replay_floor=5, replay_percent=20)
    spent = 0
    for begun, seconds, wanted in steps:
        traffic.begun += begun
        traffic.pass_s(seconds)
        spent += traffic.spend(wanted)
        windows = traffic.now_s // BUCKETS + 1
        assert spent <= 2 * (5 * windows + traffic.begun // 5 + 1)
    traffic.pass_s(BUCKETS)
    assert traffic.replays.left == 5
    assert len(traffic.seconds) == traffic.now_s
