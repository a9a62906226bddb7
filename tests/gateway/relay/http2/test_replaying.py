"""Which calls are sent to a second slice, how often, and which are refused because they break slices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import QUARANTINED
from gateway.fleet.health import Order
from gateway.limits import REPLAY_UNSENT, Limits, Timeouts
from gateway.relay.http2 import frames
from gateway.relay.quarantine import BREAKS_WITHIN_S
from tests.gateway.making import REFUSED, live
from tests.support.h2_peers import ANSWER_HEAD, INFER, OK_TRAILERS, STREAM_INFER, head, message
from tests.support.h2_stage import Stage

NAMES = "abcd"


@pytest.fixture
def four(make_stage):
    return make_stage(*NAMES)


def busy(stage) -> str:
    """Return the slices that have something in flight."""
    stage.settle()
    return "".join(name for name in NAMES if stage.slice(name).member.in_flight)


def sent(stage, size: int = 100, client=None):
    """Return (call, the slice that has it)."""
    before = busy(stage)
    call = (client or stage.client()).infers(size=size)
    [name] = set(busy(stage)) - set(before)
    return call, name


def lost(stage, name: str) -> None:
    """Slice `name` is killed: its connections break."""
    for connection in stage.slice(name).connections:
        if not connection.closed:
            connection.cuts()


def answered(stage, name: str) -> None:
    stage.slice(name).call().answers(b"reply")


def taken(stage, name: str) -> None:
    """Leave alone what has reached slice `name` so far."""
    while stage.slice(name).waiting():
        stage.slice(name).call()


def deadly(stage, size: int = 100) -> set[str]:
    """Make a call that breaks whoever gets it; return the slices that it broke."""
    call, first = sent(stage, size)
    taken(stage, first)
    lost(stage, first)
    second = busy(stage)
    taken(stage, second)
    lost(stage, second)
    assert call.grpc_status == 14
    stage.assert_at_rest()
    return {first, second}


# --- the choice ---------------------------------------------------------------------------------------


def test_with_unsent_a_slice_that_may_have_begun_is_the_last(four):
    four.core.replays.configure(Limits(), REPLAY_UNSENT)
    call, name = sent(four)
    lost(four, name)
    assert call.grpc_status == 14
    assert "it may have begun with the call" in call.grpc_message
    assert four.counters.replays == 0
    four.assert_at_rest()


def test_with_unsent_a_reset_call_is_not_moved(four):
    four.core.replays.configure(Limits(), REPLAY_UNSENT)
    call, name = sent(four)
    four.slice(name).call().resets(frames.INTERNAL_ERROR)
    assert call.grpc_status == 14
    four.assert_at_rest()


@pytest.mark.parametrize("how", ["refuses the connection", "refuses the stream", "is leaving"])
def test_with_unsent_what_never_reached_the_slice_moves_without_budget(four, how):
    limits = Limits(replay_floor=0, replay_percent=0)
    four.core.replays.configure(limits, REPLAY_UNSENT)
    if how == "refuses the connection":
        for name in "abc":
            four.slice(name).refusing = True
        call = four.client().infers()
    else:
        call, name = sent(four)
        served = four.slice(name).call()
        if how == "refuses the stream":
            served.resets(frames.REFUSED_STREAM)
        else:
            served.peer.raw(frames.goaway(0, frames.NO_ERROR))
    answered(four, busy(four))
    assert (call.body, call.grpc_status) == (b"reply", 0)
    four.assert_at_rest()


def test_with_unsent_what_has_not_left_the_gateway_yet_moves(four):
    """Its connection breaks in the very turn of the loop in which the call was given to it."""
    call, name = sent(four)
    answered(four, name)
    connection = four.slice(name).connection
    four.core.replays.configure(Limits(replay_floor=0, replay_percent=0), REPLAY_UNSENT)
    for other in NAMES:
        four.slice(other).member.charge = 5.0 * (other != name)
    client = four.client()
    peer_stream = client.conn.get_next_available_stream_id()
    call = client._exchange(peer_stream)
    client.conn.send_headers(peer_stream, head(INFER))
    client.conn.send_data(peer_stream, message("m", 100), end_stream=True)
    client.wire.feed(client.to_send())  # and no turn of the loop ends
    assert four.slice(name).member.in_flight == 1
    connection.wire.cut()
    four.settle()
    assert busy(four) not in ("", name)
    answered(four, busy(four))
    assert (call.body, call.grpc_status) == (b"reply", 0)


def test_with_unsent_what_a_hanging_slice_has_waits_for_it(four):
    four.core.replays.configure(Limits(), REPLAY_UNSENT)
    call, name = sent(four)
    four.links.slice_down(four.slice(name).member)
    assert busy(four) == name
    answered(four, name)
    assert call.grpc_status == 0


# --- the budget ---------------------------------------------------------------------------------------


def spend_all(stage) -> None:
    while stage.core.replays.spend():
        pass


def test_beyond_the_budget_a_loss_is_told_to_the_client(four):
    call, name = sent(four)
    spend_all(four)
    lost(four, name)
    assert call.grpc_status == 14
    assert "too many requests are being sent to a second slice already" in call.grpc_message
    assert four.counters.faults == {"replay_budget": 1}
    four.assert_at_rest()


def test_beyond_the_budget_a_hanging_slice_is_waited_for(four):
    call, name = sent(four)
    spend_all(four)
    four.links.slice_down(four.slice(name).member)
    assert busy(four) == name
    assert four.counters.limits == {"replay_percent": 1}
    answered(four, name)
    assert call.grpc_status == 0


def test_the_death_of_a_slice_costs_nobody_an_answer_however_small_the_budget(make_stage):
    stage = make_stage("a", "b", limits=Limits(replay_floor=0, replay_percent=0))
    client = stage.client()
    calls = [client.infers(size=100 + number) for number in range(40)]
    assert stage.slice("a").member.in_flight == 20
    taken(stage, "a")
    stage.slice("a").refusing = True
    lost(stage, "a")
    while stage.slice("b").waiting():
        answered(stage, "b")
    assert [call.grpc_status for call in calls] == [0] * 40
    stage.assert_at_rest()


# --- never --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [b"2", b"4", b"13", b"14", b"15"])
def test_an_answer_that_says_it_failed_is_an_answer(four, code):
    call, name = sent(four)
    four.slice(name).call().sends_head([*ANSWER_HEAD, (b"grpc-status", code)], ends=True)
    assert call.grpc_status == int(code)
    assert busy(four) == ""
    assert four.counters.replays == 0


def test_a_timeout_is_not_replayed(four):
    call, _ = sent(four)
    four.advance(Timeouts().stream_idle_s + 1)
    assert call.grpc_status == 4
    assert busy(four) == ""
    assert four.counters.replays == 0


def test_a_stream_with_a_relayed_message_is_not_replayed(four):
    call = four.client().calls(STREAM_INFER, message("m"))
    name = busy(four)
    served = four.slice(name).call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"one")
    lost(four, name)
    assert (call.body, call.grpc_status) == (b"one", 14)
    assert busy(four) == ""
    assert four.counters.replays == 0


@pytest.mark.parametrize("leaves", ["before the loss", "after it"])
def test_a_client_that_cancels_ends_it_all(four, leaves):
    call, first = sent(four)
    if leaves == "after it":
        lost(four, first)
        taken(four, first)
    holder = busy(four)
    served = four.slice(holder).call()
    call.resets()
    assert served.reset_code == frames.CANCEL
    lost(four, holder)
    assert busy(four) == ""
    assert four.counters.replays == (leaves == "after it")
    four.assert_at_rest()


# --- what breaks slices -------------------------------------------------------------------------------


def test_a_call_that_broke_two_slices_is_refused_from_then_on(four):
    assert len(deadly(four)) == 2
    for _ in range(3):
        call = four.client().infers(size=100)
        assert (call.status, call.grpc_status) == (200, 13)
        assert call.grpc_message == QUARANTINED.message
    assert busy(four) == ""
    assert (four.counters.quarantines, four.counters.faults["quarantined"]) == (1, 3)
    call, name = sent(four, size=101)
    answered(four, name)
    assert call.grpc_status == 0


def test_a_large_call_is_known_again_when_all_of_it_has_come(make_stage):
    """Windows are far smaller than the message, and must open while it is waited for."""
    limits = Limits(stream_window=65_535, connection_window=65_535)
    stage = make_stage(*NAMES, limits=limits)
    whole = message("m", 300_000)
    call = stage.client().calls()
    call.sends_all(whole, ends=True)
    for _ in range(2):
        name = busy(stage)
        taken(stage, name)
        lost(stage, name)
    assert call.grpc_status == 14
    client = stage.client()
    call = client.calls()
    call.sends_all(whole[:200_000])
    assert busy(stage) == "", "it waits until it is known"
    call.sends_all(whole[200_000:], ends=True)
    assert call.grpc_status == 13
    other = whole[:-1] + b"y"
    call = client.calls()
    call.sends_all(other, ends=True)
    served = stage.slice(busy(stage)).call()
    assert served.body == other
    served.answers(b"reply")
    assert call.body == b"reply"
    stage.assert_at_rest()


def test_a_call_that_was_not_all_sent_is_not_blamed(four):
    call = four.client().calls(INFER, message("m", 50_000)[:20_000])
    for _ in range(2):
        name = busy(four)
        taken(four, name)
        lost(four, name)
    assert call.grpc_status == 14
    assert not four.core.suspects


def test_a_slice_that_broke_long_after_the_call_came_is_not_its_fault(four):
    call, first = sent(four)
    lost(four, first)
    four.advance(BREAKS_WITHIN_S + 1)
    lost(four, busy(four))
    assert call.grpc_status == 14
    assert four.counters.quarantines == 0


def test_a_call_that_slices_reset_while_they_live_is_not_banned(four):
    call, first = sent(four)
    four.slice(first).call().resets(frames.INTERNAL_ERROR)
    four.slice(busy(four)).call().resets(frames.INTERNAL_ERROR)
    assert call.grpc_status == 14
    assert not four.core.suspects


def test_a_popular_call_that_others_answer_is_not_banned(four):
    call, first = sent(four)
    lost(four, first)
    second = busy(four)
    popular, third = sent(four)
    answered(four, third)
    assert popular.grpc_status == 0
    lost(four, second)
    assert call.grpc_status == 14
    assert not four.core.suspects
    popular, name = sent(four)
    taken(four, name)
    assert four.counters.quarantines == 0


def test_a_popular_call_that_is_answered_a_moment_later_is_released(four):
    call, first = sent(four)
    lost(four, first)
    second = busy(four)
    popular, third = sent(four)
    lost(four, second)
    assert four.counters.quarantines == 1
    answered(four, third)
    assert popular.grpc_status == 0
    assert call.grpc_status == 14
    assert not four.core.suspects


def test_others_of_a_banned_content_take_no_further_slice_with_them(four):
    at_once = [sent(four) for _ in range(2)]
    call, first = sent(four)
    lost(four, first)
    [second] = set(busy(four)) - {name for _, name in at_once}
    lost(four, second)
    assert call.grpc_status == 14
    for other, name in at_once:
        lost(four, name)
        assert other.grpc_status == 13
    assert busy(four) == ""
    four.assert_at_rest()


def test_one_that_tries_after_the_ban_and_breaks_its_slice_takes_no_second_with_it(four):
    deadly(four)
    four.advance(Timeouts().quarantine_s + 1)
    trying, name = sent(four)
    assert four.client().infers(size=100).grpc_status == 13
    taken(four, name)
    lost(four, name)
    assert trying.grpc_status == 13
    assert busy(four) == ""
    four.assert_at_rest()


def test_when_every_slice_was_out_one_may_try_as_soon_as_one_is_back(four):
    deadly(four)
    members = list(four.registry.slices.values())
    for member in members:
        four.registry.record(member, REFUSED)
    for member in members:
        four.registry.record(member, live("m"))
        four.registry.record(member, live("m"))
    call, name = sent(four)
    answered(four, name)
    assert call.grpc_status == 0
    assert not four.core.suspects


def test_a_stream_is_neither_watched_nor_kept_waiting(four):
    deadly(four)
    call = four.client().calls(STREAM_INFER, message("m", 100))
    served = four.slice(busy(four)).call()
    served.sends_head(ANSWER_HEAD)
    served.sends_head(OK_TRAILERS, ends=True)
    assert call.grpc_status == 0


def test_with_quarantine_off_nothing_is_remembered(make_stage):
    stage = make_stage(*NAMES, limits=Limits(quarantined=0))
    deadly(stage)
    call, name = sent(stage)
    answered(stage, name)
    assert call.grpc_status == 0


# --- in any order -------------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.sampled_from(["send", "send", "cancel", "leave"]), st.integers(0, 1)),
    st.tuples(
        st.sampled_from(
            ["answer", "kill", "kill", "reset", "refuse", "go away", "hang", "disable", "enable"]
        ),
        st.sampled_from(NAMES),
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.2, 2.0, 70.0])),
)


def happens(stage: Stage, what: str, name: str) -> None:
    """Something happens to slice `name`."""
    peer = stage.slice(name)
    if what == "kill":
        lost(stage, name)
    elif what == "go away":
        for connection in peer.connections:
            if not connection.closed:
                connection.raw(frames.goaway(0, frames.NO_ERROR))
    elif what in ("answer", "reset", "refuse"):
        waiting = [each for each in peer.waiting() if each.reset_code is None]
        taken(stage, name)
        for exchange in waiting:
            if exchange.peer.closed:
                continue
            if what == "answer":
                exchange.answers(b"reply")
            else:
                exchange.resets(
                    frames.REFUSED_STREAM if what == "refuse" else frames.INTERNAL_ERROR
                )
    elif what == "hang":
        stage.links.slice_down(peer.member)
    else:
        disabled = what == "disable"
        stage.registry.order(peer.member, Order.DISABLED if disabled else Order.ENABLED, "test")
        if disabled:
            stage.links.close_slice(peer.member)
        else:
            stage.registry.record(peer.member, live("m"))
    stage.settle()


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=30), st.sampled_from([0, 10]), st.booleans())
def test_no_call_is_begun_by_a_third_slice_and_all_counts_return_to_zero(events, floor, unsent):
    """Whatever slices, clients and operators do, and however small the budget is."""
    limits = Limits(replay_floor=floor, replay_percent=0)
    stage = Stage(*NAMES, limits=limits)
    stage.core.replays.configure(limits, REPLAY_UNSENT if unsent else "any")
    clients = [stage.client() for _ in range(2)]
    refused: set[bytes] = set()  # by a slice that has not begun with it
    sizes: list[int] = []
    for what, whom in events:
        if what == "wait":
            stage.advance(whom)
        elif what == "send":
            sizes.append(100 + len(sizes))
            clients[whom].infers(size=sizes[-1])
        elif isinstance(whom, str):
            if what in ("refuse", "go away"):
                refused |= {exchange.body for exchange in stage.slice(whom).waiting()}
            happens(stage, what, whom)
        elif what == "cancel":
            going_on = [e for e in clients[whom].exchanges.values() if not e.ended]
            for exchange in going_on[-1:]:
                exchange.resets()
                exchange.ended = True
        else:
            clients[whom].cuts()
            clients[whom] = stage.client()
    for size in sizes:
        body = message("m", size)
        reached = [
            name for name in NAMES if any(
                exchange.body == body
                for connection in stage.slice(name).connections
                for exchange in connection.exchanges.values()
            )
        ]  # fmt: skip
        assert body in refused or len(reached) <= 1 + (not unsent)
    for client in clients:
        client.cuts()
    stage.advance(120)
    stage.assert_at_rest()
