"""Which requests are sent to a second slice, how often, and which are refused because they break slices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import QUARANTINED
from gateway.fleet.health import DOWN, Order
from gateway.limits import REPLAY_UNSENT, Limits, Timeouts
from gateway.relay.quarantine import BREAKS_WITHIN_S
from tests.gateway.making import REFUSED, live
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status, took

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
OTHER = INFER[:-4] + b"else"
NAMES = "abcd"


def make_stage(**limits: int) -> Stage:
    return Stage(*NAMES, limits=Limits(**limits))


@pytest.fixture
def stage():
    return make_stage()


def busy(stage: Stage) -> str:
    """Return the slices that have something in flight."""
    stage.run()
    return "".join(name for name in NAMES if stage.fleet[name].in_flight)


def sent(stage: Stage, request: bytes = INFER):
    """Return (client, the slice that has its request)."""
    before = busy(stage)
    client = stage.client()
    client.sends(request)
    [name] = set(busy(stage)) - set(before)
    return client, name


def lost(stage: Stage, name: str) -> None:
    stage.slice(name).resets()
    stage.run()


def is_live(stage: Stage, name: str) -> None:
    stage.fleet.registry.record(stage.fleet[name], live("m"))


def deadly(stage: Stage, request: bytes = INFER) -> set[str]:
    """Send a request that breaks whoever gets it; return the slices that it broke."""
    client, first = sent(stage, request)
    lost(stage, first)
    second = busy(stage)
    lost(stage, second)
    assert status(client) == 502
    assert stage.idle
    return {first, second}


# --- the choice ---------------------------------------------------------------------------------------


def test_with_unsent_a_slice_that_may_have_begun_is_the_last(stage):
    stage.core.replays.configure(Limits(), REPLAY_UNSENT)
    client, name = sent(stage)
    stage.slice(name).resets()
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"it may have begun with the request" in answer
    assert stage.counters.replays == 0
    assert stage.idle


def test_with_unsent_a_refused_connection_still_moves_the_request(stage):
    stage.core.replays.configure(Limits(replay_floor=0, replay_percent=0), REPLAY_UNSENT)
    stage.dialer.refusing = {stage.port(name) for name in "abc"}
    client, name = sent(stage)
    assert name == "d"
    stage.slice("d").sends(OK)
    assert took(client) == OK


def test_with_unsent_a_kept_connection_that_breaks_ends_the_request(stage):
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK
    stage.core.replays.configure(Limits(), REPLAY_UNSENT)
    for other in NAMES:
        stage.fleet[other].charge = 5.0 * (other != name)
    client.sends(INFER)
    lost(stage, name)
    assert status(client) == 502
    assert stage.idle


def test_a_kept_connection_known_to_be_closed_is_not_used(stage):
    """The slice's FIN has been seen and the loss not yet been told: nothing may be sent there."""
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK
    stage.core.replays.configure(Limits(), REPLAY_UNSENT)
    for other in NAMES:
        stage.fleet[other].charge = 5.0 * (other != name)
    stage.slice(name).sends_eof()
    client.sends(INFER)
    stage.run()
    assert stage.opened(name) == 2
    stage.slice(name).sends(OK)
    assert took(client) == OK


def test_with_unsent_what_a_hanging_slice_has_waits_for_it(stage):
    stage.core.replays.configure(Limits(), REPLAY_UNSENT)
    client, name = sent(stage)
    stage.stocks.slice_down(stage.fleet[name])
    assert busy(stage) == name
    stage.slice(name).sends(OK)
    assert took(client) == OK


# --- the budget ---------------------------------------------------------------------------------------


def spend_all(stage: Stage) -> None:
    while stage.core.replays.spend():
        pass


def test_beyond_the_budget_a_loss_is_told_to_the_client(stage):
    client, name = sent(stage)
    spend_all(stage)
    stage.slice(name).resets()
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"too many requests are being sent to a second slice already" in answer
    assert stage.counters.faults == {"replay_budget": 1}
    assert stage.idle


def test_what_never_reached_a_slice_costs_no_budget(stage):
    spend_all(stage)
    stage.dialer.refusing = {stage.port(name) for name in "abc"}
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK


def test_beyond_the_budget_a_hanging_slice_is_waited_for(stage):
    client, name = sent(stage)
    spend_all(stage)
    stage.stocks.slice_down(stage.fleet[name])
    assert busy(stage) == name
    assert stage.counters.limits == {"replay_percent": 1}
    stage.slice(name).sends(OK)
    assert took(client) == OK


def test_the_death_of_a_slice_costs_nobody_an_answer_however_small_the_budget():
    stage = Stage("a", "b", limits=Limits(replay_floor=0, replay_percent=0))
    clients = [stage.client() for _ in range(40)]
    for number, client in enumerate(clients):
        client.sends(INFER[:-4] + b"%04d" % number)
    stage.run()
    dead = list(stage.connections[stage.port("a")])
    assert len(dead) == 20
    stage.dialer.refusing = {stage.port("a")}
    for connection in dead:
        connection.resets()
    stage.run()
    for connection in stage.connections[stage.port("b")]:
        connection.sends(OK)
    assert [status(client) for client in clients] == [200] * 40
    assert stage.idle


# --- never --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_an_answer_that_says_it_failed_is_an_answer(stage, code):
    client, name = sent(stage)
    stage.slice(name).sends(b"HTTP/1.1 %d Error\r\nContent-Length: 0\r\n\r\n" % code)
    assert status(client) == code
    assert busy(stage) == ""
    assert stage.counters.replays == 0


def test_a_timeout_is_not_replayed(stage):
    client, _ = sent(stage)
    stage.pass_time(Timeouts().response_s + 1)
    assert status(client) == 504
    assert busy(stage) == ""
    assert stage.counters.replays == 0


def test_an_answer_that_has_begun_is_not_replayed(stage):
    client, name = sent(stage)
    stage.slice(name).sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    lost(stage, name)
    assert client.aborted
    assert busy(stage) == ""
    assert stage.counters.replays == 0


@pytest.mark.parametrize("leaves", ["before the loss", "after it"])
def test_a_client_that_leaves_ends_it_all(stage, leaves):
    client, first = sent(stage)
    if leaves == "before the loss":
        client.resets()
        stage.run()
        lost(stage, first)
        assert busy(stage) == ""
        assert stage.counters.replays == 0
    else:
        lost(stage, first)
        client.resets()
        stage.run()
        lost(stage, busy(stage))
        assert busy(stage) == ""
        assert stage.counters.replays == 1
    assert stage.idle


# --- what breaks slices -------------------------------------------------------------------------------


def test_a_request_that_broke_two_slices_is_refused_from_then_on(stage):
    assert len(deadly(stage)) == 2
    for _ in range(3):
        client = stage.client()
        client.sends(INFER)
        answer = took(client)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert QUARANTINED.message.encode() in answer
        assert not client.closing
    assert busy(stage) == ""
    assert (stage.counters.quarantines, stage.counters.faults["quarantined"]) == (1, 3)
    client, name = sent(stage, OTHER)
    stage.slice(name).sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_the_client_is_told_that_its_request_broke_two(stage):
    client, first = sent(stage)
    lost(stage, first)
    lost(stage, busy(stage))
    assert b"the second at this request, which is now refused for 60 s" in took(client)


class ClosesWhatIsDown:
    """A SliceListener that closes the connections to a slice as it goes down: so does DataPlane."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def slice_changed(self, member, event, reason):
        if event == "health" and member.health.health is DOWN:
            self._stage.stocks.close_slice(member)


@pytest.mark.parametrize("closes", [False, True])
def test_over_kept_connections_it_breaks_two_as_well(stage, closes):
    """There a break may mean an idle connection that was closed; that the slice is gone tells."""
    if closes:
        stage.fleet.registry.listeners.append(ClosesWhatIsDown(stage))
    for _ in NAMES:
        client, name = sent(stage, OTHER)
        stage.slice(name).sends(OK)
        assert took(client) == OK
    client, first = sent(stage)
    stage.dialer.refusing = {stage.port(first)}
    lost(stage, first)
    second = busy(stage)
    assert second != first
    stage.dialer.refusing |= {stage.port(second)}
    lost(stage, second)
    assert status(client) == 502
    assert busy(stage) == ""
    client = stage.client()
    client.sends(INFER)
    assert status(client) == 500
    assert stage.idle


def test_a_large_request_is_known_again_when_all_of_it_has_come(stage):
    body = b"x" * 200_000
    client, first = sent(stage, HEAD % len(body))
    client.sends(body)
    lost(stage, first)
    lost(stage, busy(stage))
    assert status(client) == 502
    client = stage.client()
    client.sends(HEAD % len(body) + body[:50_000])
    client.sends(body[50_000:150_000])
    assert busy(stage) == "", "it waits until it is known"
    client.sends(body[150_000:])
    assert status(client) == 500
    other = body[:-1] + b"y"
    client.sends(HEAD % len(other) + other[:50_000])
    client.sends(other[50_000:])
    [name] = busy(stage)
    assert took(stage.slice(name)) == HEAD % len(other) + other
    stage.slice(name).sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_a_request_that_was_not_all_sent_is_not_blamed(stage):
    client, first = sent(stage, HEAD % 100_000 + b"x" * 40_000)
    lost(stage, first)
    lost(stage, busy(stage))
    assert status(client) == 502
    assert not stage.core.suspects


def test_a_slice_that_broke_long_after_the_request_came_is_not_its_fault(stage):
    """A rolling restart under requests that take their time."""
    client, first = sent(stage)
    lost(stage, first)
    stage.pass_time(BREAKS_WITHIN_S + 1)
    lost(stage, busy(stage))
    assert status(client) == 502
    assert stage.counters.quarantines == 0


def test_refused_connections_are_nobody_s_fault(stage):
    stage.dialer.refusing = {stage.port(name) for name in NAMES}
    client = stage.client()
    client.sends(INFER)
    assert status(client) in (502, 503)
    assert not stage.core.suspects


def test_a_popular_request_that_others_answer_is_not_banned(stage):
    """Two slices are killed under it, one after the other, and the others serve its like."""
    client, first = sent(stage)
    lost(stage, first)
    second = busy(stage)
    popular, third = sent(stage)
    stage.slice(third).sends(OK)
    assert took(popular) == OK
    lost(stage, second)
    assert status(client) == 502
    assert not stage.core.suspects
    popular, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(popular) == OK
    assert stage.counters.quarantines == 0


def test_a_popular_request_that_is_answered_a_moment_later_is_released(stage):
    client, first = sent(stage)
    lost(stage, first)
    second = busy(stage)
    popular, third = sent(stage)
    lost(stage, second)
    assert status(client) == 502
    stage.slice(third).sends(OK)
    assert took(popular) == OK
    popular, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(popular) == OK
    assert stage.idle


def test_a_request_that_the_second_slice_answers_is_not_suspected_any_more(stage):
    client, first = sent(stage)
    lost(stage, first)
    assert stage.core.suspects
    stage.slice(busy(stage)).sends(OK)
    assert took(client) == OK
    assert not stage.core.suspects
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK


def test_others_of_a_banned_content_take_no_further_slice_with_them(stage):
    """They were on their way already: each costs the slice that has it, and no other."""
    at_once = [sent(stage) for _ in range(2)]
    client, first = sent(stage)
    lost(stage, first)
    [second] = set(busy(stage)) - {name for _, name in at_once}
    lost(stage, second)
    assert status(client) == 502
    for other, name in at_once:
        lost(stage, name)
        assert status(other) == 500
    assert busy(stage) == ""
    assert stage.idle


def test_after_the_ban_one_may_try_and_if_a_slice_answers_all_may(stage):
    deadly(stage)
    stage.pass_time(Timeouts().quarantine_s + 1)
    trying, name = sent(stage)
    beside = stage.client()
    beside.sends(INFER)
    assert status(beside) == 500
    stage.slice(name).sends(OK)
    assert took(trying) == OK
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK


def test_one_that_tries_and_breaks_its_slice_takes_no_second_with_it(stage):
    deadly(stage)
    stage.pass_time(Timeouts().quarantine_s + 1)
    trying, name = sent(stage)
    lost(stage, name)
    assert status(trying) == 500
    assert busy(stage) == ""
    stage.pass_time(Timeouts().quarantine_s + 1)
    client = stage.client()
    client.sends(INFER)
    assert status(client) == 500, "twice as long now"


def test_when_every_slice_was_out_one_may_try_as_soon_as_one_is_back(stage):
    """A reset of the GPU takes all slices at once, and whatever they had."""
    deadly(stage)
    for name in NAMES:
        stage.fleet.registry.record(stage.fleet[name], REFUSED)
    for name in NAMES:
        is_live(stage, name)
        is_live(stage, name)
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK
    assert not stage.core.suspects


def test_a_slice_that_hangs_counts_as_the_first_and_is_nobody_s_fault(stage):
    client, first = sent(stage)
    stage.stocks.slice_down(stage.fleet[first])
    second = busy(stage)
    assert second != first
    lost(stage, second)
    assert status(client) == 502
    assert not stage.core.suspects
    assert stage.idle


def test_with_quarantine_off_nothing_is_remembered():
    stage = make_stage(quarantined=0)
    deadly(stage)
    client, name = sent(stage)
    stage.slice(name).sends(OK)
    assert took(client) == OK


# --- in any order -------------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.sampled_from(["send", "send", "leave"]), st.integers(0, 3)),
    st.tuples(
        st.sampled_from(
            ["answer", "break", "break", "kill", "refuse", "accept", "hang", "disable", "enable"]
        ),
        st.sampled_from(NAMES),
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.2, 2.0, 70.0])),
)


def happens(stage: Stage, what: str, name: str) -> None:
    """Something happens to slice `name`."""
    member, port = stage.fleet[name], stage.port(name)
    made = stage.connections.get(port, [])
    if what in ("kill", "refuse"):
        stage.dialer.refusing.add(port)
    if what == "accept":
        stage.dialer.refusing.discard(port)
        is_live(stage, name)
    for connection in made:
        if what == "answer":
            connection.sends(OK)
        elif what in ("kill", "break"):
            connection.resets()
    if what == "hang":
        stage.stocks.slice_down(member)
    elif what == "disable":
        stage.fleet.registry.order(member, Order.DISABLED, "test")
        stage.stocks.close_slice(member)
    elif what == "enable":
        stage.fleet.registry.order(member, Order.ENABLED, "test")
        is_live(stage, name)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.sampled_from([0, 10]), st.booleans())
def test_no_request_reaches_a_third_slice_and_all_counts_return_to_zero(events, floor, unsent):
    """Whatever slices, clients and operators do, and however small the budget is."""
    limits = Limits(replay_floor=floor, replay_percent=0)
    stage = Stage(*NAMES, limits=limits)
    stage.core.replays.configure(limits, REPLAY_UNSENT if unsent else "any")
    clients = [stage.client() for _ in range(4)]
    requests: list[bytes] = []
    for what, whom in events:
        if what == "wait":
            stage.pass_time(whom)
        elif what == "leave":
            clients[whom].resets()
            stage.run()
            clients[whom] = stage.client()
        elif what == "send":
            requests.append(HEAD % 4 + b"%04d" % len(requests))
            clients[whom].sends(requests[-1])
        else:
            happens(stage, what, whom)
        stage.run()
    for request in requests:
        reached = [n for n in NAMES if any(
            request in bytes(c.sent) for c in stage.connections.get(stage.port(n), []))]  # fmt: skip
        assert len(reached) <= 1 + (not unsent)
    for client in clients:
        client.resets()
    stage.run()
    stage.pass_time(700)
    assert stage.idle
    assert not stage.core.suspects
