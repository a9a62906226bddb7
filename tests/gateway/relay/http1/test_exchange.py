"""What happens to a request when slices refuse, break off, hang, or its client leaves."""

import pytest

from gateway.fleet.health import Order
from gateway.limits import Limits, Timeouts
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status, took

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def stage():
    return Stage("a", "b", "c")


def bound(stage, request=INFER):
    """Return (client, name of the slice that got its request)."""
    client = stage.client()
    client.sends(request)
    stage.run()
    for name in "abc":
        if stage.fleet[name].in_flight:
            return client, name
    raise AssertionError("no slice was picked")


def names(stage, state):
    return [name for name in "abc" if state(stage.fleet[name])]


def warm(stage, name):
    """Leave an idle connection to slice `name` behind."""
    for other in "abc":
        if other != name:
            stage.fleet.registry.order(stage.fleet[other], Order.DRAINED, "test")
    client, _ = bound(stage)
    stage.slice(name).sends(OK)
    took(stage.slice(name))
    for other in "abc":
        stage.fleet.registry.order(stage.fleet[other], Order.ENABLED, "test")
    client.sends_eof()
    stage.run()


def test_a_refused_connection_moves_the_request_to_the_next_slice(stage):
    """Nothing has been sent, so even a POST may move (RFC 9110 section 9.2.2)."""
    stage.dialer.refusing = {stage.port("a"), stage.port("b")}
    client, name = bound(stage)
    assert name == "c"
    assert took(stage.slice("c")) == INFER
    stage.slice("c").sends(OK)
    assert took(client) == OK
    assert names(stage, lambda member: not member.routable) == ["a", "b"]
    assert stage.counters.replays == 2
    assert stage.idle


def test_when_all_refuse_the_client_is_told(stage):
    stage.dialer.refusing = {stage.port(name) for name in "abc"}
    client = stage.client()
    client.sends(INFER)
    assert status(client) in (502, 503)
    assert not client.closing
    assert stage.idle


def test_a_connection_that_takes_too_long_moves_one_request(stage):
    stage.dialer.silent = {stage.port("a")}
    _, name = bound(stage)
    while name != "a":
        _, name = bound(stage)
    stage.dialer.time_out()
    stage.run()
    assert stage.fleet["a"].in_flight == 0
    assert stage.fleet["a"].failures == 1
    assert stage.fleet["a"].routable, "slow is not dead: the checks decide"


def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing(stage):
    """The slice closed it as idle while the request was on its way."""
    warm(stage, "a")
    stage.fleet["b"].charge = stage.fleet["c"].charge = 5
    client, name = bound(stage)
    assert name == "a"
    stage.slice("a").resets()
    assert stage.opened("a") == 2
    assert took(stage.slice("a")) == INFER
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.fleet["a"].failures == 0
    assert stage.idle


def test_a_slice_that_died_with_a_kept_connection_loses_the_request_to_another(stage):
    warm(stage, "a")
    stage.fleet["b"].charge = stage.fleet["c"].charge = 5
    client, name = bound(stage)
    assert name == "a"
    stage.dialer.refusing = {stage.port("a")}
    stage.slice("a").resets()
    stage.run()
    (other,) = names(stage, lambda member: member.in_flight)
    assert other != "a"
    stage.slice(other).sends(OK)
    assert took(client) == OK
    assert stage.idle


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_slice_that_breaks_off_before_its_answer_is_replaced_once(stage, part):
    client, first = bound(stage)
    stage.slice(first).sends(part)
    stage.slice(first).sends_eof()
    stage.run()
    (second,) = names(stage, lambda member: member.in_flight)
    assert second != first
    assert took(stage.slice(second)) == INFER
    stage.slice(second).resets()
    assert status(client) == 502, "a request that kills slices stops after two"
    assert stage.fleet[first].failures == stage.fleet[second].failures == 1
    assert first in stage.checks
    assert stage.idle


def test_a_streamed_body_is_sent_again_as_far_as_it_came(stage):
    client, first = bound(stage, HEAD % 100_000 + b"x" * 40_000)
    stage.slice(first).resets()
    stage.run()
    (second,) = names(stage, lambda member: member.in_flight)
    client.sends(b"y" * 60_000)
    assert took(stage.slice(second)) == HEAD % 100_000 + b"x" * 40_000 + b"y" * 60_000
    stage.slice(second).sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_a_chunked_body_is_sent_again_in_the_same_chunks(stage):
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client, first = bound(stage, head + b"3\r\nabc\r\n")
    sent = took(stage.slice(first))
    stage.slice(first).resets()
    stage.run()
    (second,) = names(stage, lambda member: member.in_flight)
    assert took(stage.slice(second)) == sent == head + b"3\r\nabc\r\n"
    client.sends(b"0\r\n\r\n")
    assert took(stage.slice(second)) == b"0\r\n\r\n"


def test_a_body_too_large_to_keep_is_not_sent_again():
    stage = Stage("a", "b", "c", limits=Limits(replay_bytes=1000))
    client, first = bound(stage, HEAD % 100_000 + b"x" * 40_000)
    assert stage.core.buffered_bytes == 0
    stage.slice(first).resets()
    assert status(client) == 502
    assert stage.idle


def test_an_answer_that_breaks_off_is_not_ended_cleanly(stage):
    client, name = bound(stage)
    stage.slice(name).sends(STREAM + b"3\r\nabc\r\n")
    stage.slice(name).sends_eof()
    got = took(client)
    assert got.endswith(b"3\r\nabc\r\n")
    assert client.aborted
    assert stage.fleet[name].failures == 1
    assert stage.idle


@pytest.mark.parametrize("answer", [OK[:-1], STREAM + b"3\r\nabc\r\nX", STREAM + b"3\r\nab"])
def test_a_malformed_or_short_answer_aborts_the_client(stage, answer):
    client, name = bound(stage)
    stage.slice(name).sends(answer)
    stage.slice(name).resets()
    stage.run()
    assert client.aborted
    assert stage.idle


@pytest.mark.parametrize("part", [b"\x00", b"HTTQ", b"HTTP/2 200", b"HTTP/1.1 200 OK\n", b" "])
def test_what_can_never_become_an_answer_is_not_waited_for(stage, part):
    client, name = bound(stage)
    stage.slice(name).sends(part)
    assert status(client) == 502
    assert stage.slice(name).closing
    assert stage.idle


def test_each_event_of_a_stream_is_passed_on_at_once(stage):
    client, name = bound(stage)
    stage.slice(name).sends(STREAM)
    assert took(client) == STREAM
    for n in range(3):
        stage.slice(name).sends(b"8\r\ndata: %d\n\r\n" % n)
        assert took(client) == b"8\r\ndata: %d\n\r\n" % n
    stage.slice(name).sends(b"0\r\n\r\n")
    assert took(client) == b"0\r\n\r\n"
    assert stage.idle


def test_a_client_that_leaves_does_not_free_the_slice(stage):
    """Triton goes on; the slot is held until it answers, and the connection is used again."""
    client, name = bound(stage)
    member = stage.fleet[name]
    client.resets()
    stage.run()
    assert (member.in_flight, member.abandoned) == (1, 1)
    stage.slice(name).sends(OK)
    assert (member.in_flight, member.abandoned) == (0, 0)
    assert not stage.slice(name).closing
    assert stage.idle


def test_a_client_that_leaves_in_its_request_frees_the_slice(stage):
    client, name = bound(stage, HEAD % 100_000 + b"x")
    client.sends_eof()
    stage.run()
    assert client.closed
    assert stage.slice(name).closing
    assert stage.idle


def test_a_client_that_leaves_a_stream_cancels_it(stage):
    client, name = bound(stage)
    stage.slice(name).sends(STREAM)
    client.resets()
    stage.run()
    assert stage.slice(name).closing
    assert stage.idle


@pytest.mark.parametrize(("size", "drained"), [(200_000, True), (8_000_000, False)])
def test_a_client_that_leaves_its_answer_does_not_have_all_of_it_read(stage, size, drained):
    """The slice is done with it, and what is left of a large one costs more than a connection."""
    client, name = bound(stage)
    stage.slice(name).sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nx" % size)
    client.resets()
    stage.run()
    connection = stage.slice(name)
    assert connection.closing is not drained
    if drained:
        connection.sends(b"x" * (size - 1))
        assert not connection.closing
    assert stage.idle


def test_a_client_that_leaves_while_it_waits_is_forgotten(stage):
    stage.dialer.silent = {stage.port(name) for name in "abc"}
    client, _ = bound(stage)
    client.resets()
    stage.run()
    assert stage.idle


def test_requests_wait_for_a_connection_in_order():
    stage = Stage("a", limits=Limits(connections_per_slice=1, waiting_per_slice=2))
    clients = [stage.client() for _ in range(4)]
    for client in clients:
        client.sends(INFER)
        stage.run()
    assert status(clients[3]) == 503
    for client in clients[:3]:
        assert took(stage.slice()) == INFER
        stage.slice().sends(OK)
        assert took(client) == OK
    assert stage.opened() == 1
    assert stage.idle


def test_a_slice_taken_out_of_service_closes_idle_connections_at_once(stage):
    warm(stage, "a")
    stage.stocks.close_slice(stage.fleet["a"])
    assert stage.slice("a").closing


def test_a_slice_taken_out_of_service_finishes_what_it_has(stage):
    client, name = bound(stage)
    stage.stocks.close_slice(stage.fleet[name])
    assert not stage.slice(name).closing
    stage.slice(name).sends(OK)
    assert took(client) == OK
    assert stage.slice(name).closing
    assert stage.idle


def test_who_waits_for_a_slice_taken_out_of_service_goes_elsewhere(stage):
    stage.dialer.silent = {stage.port("a")}
    client, name = bound(stage)
    while name != "a":
        client, name = bound(stage)
    stage.stocks.close_slice(stage.fleet["a"])
    stage.run()
    assert stage.fleet["a"].in_flight == 0
    assert sum(stage.fleet[other].in_flight for other in "bc") >= 1
    assert not client.sent


# --- slow peers -----------------------------------------------------------------------------------


def test_a_client_that_does_not_read_stops_the_slice(stage):
    client, name = bound(stage)
    client.takes(0)
    stage.slice(name).sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(50):
        stage.slice(name).sends(b"x" * 40_000)
    assert not stage.slice(name).reading
    assert stage.core.buffered_bytes > 0
    client.takes(None)
    assert len(took(client)) > 2_000_000
    assert stage.idle


def test_a_slice_that_does_not_read_stops_the_client(stage):
    client, name = bound(stage, HEAD % 2_000_000)
    stage.slice(name).takes(0)
    for _ in range(50):
        client.sends(b"x" * 40_000)
    assert not client.reading
    stage.slice(name).takes(None)
    stage.run()
    assert took(stage.slice(name)).count(b"x") == 2_000_000
    stage.slice(name).sends(OK)
    assert took(client) == OK
    assert stage.idle


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "after_s", "expected"),
    [
        (b"POST /v2 HT", Timeouts().head_s, 408),
        (HEAD % 10 + b"x", Timeouts().body_idle_s, 408),
        (HEAD % 100_000 + b"x", Timeouts().body_idle_s, 408),
        (INFER, Timeouts().response_s, 504),
    ],
    ids=["head", "small body", "large body", "answer"],
)
def test_what_does_not_come_in_time_is_answered_for(stage, sent, after_s, expected):
    client = stage.client()
    client.sends(sent)
    stage.pass_time(after_s - 1)
    assert took(client) == b""
    stage.pass_time(1.3)
    assert status(client) == expected
    stage.pass_time(5)
    assert client.closed == (expected == 408)
    assert stage.idle


def test_a_slice_that_does_not_answer_is_blamed_and_its_connection_closed(stage):
    _, name = bound(stage)
    stage.pass_time(301)
    assert stage.fleet[name].failures == 1
    assert stage.slice(name).closing


def test_idle_connections_close_on_both_sides(stage):
    client, name = bound(stage)
    stage.slice(name).sends(OK)
    stage.pass_time(59)
    assert not stage.slice(name).closing
    stage.pass_time(2)
    assert stage.slice(name).closed
    stage.pass_time(15)
    assert client.closed


def test_a_client_that_takes_nothing_is_cut_off(stage):
    client, name = bound(stage)
    client.takes(0)
    stage.slice(name).sends(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 600_000)
    stage.pass_time(59)
    assert not client.closed
    stage.pass_time(2)
    assert client.closed


def test_a_client_that_takes_little_is_not(stage):
    client, name = bound(stage)
    client.takes(0)
    stage.slice(name).sends(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + b"x" * 600_000)
    for _ in range(5):
        stage.pass_time(40)
        client.takes(100)
    assert not client.closed


def test_an_answer_that_stalls_is_broken_off(stage):
    client, name = bound(stage)
    stage.slice(name).sends(STREAM)
    stage.pass_time(601)
    assert client.aborted
    assert stage.slice(name).closed
    assert stage.idle


def test_an_abandoned_answer_that_never_comes_ends_too(stage):
    client, name = bound(stage)
    client.resets()
    stage.pass_time(301)
    assert stage.slice(name).closed
    assert stage.idle


def test_a_slow_client_leaves_no_connection_to_the_slice_that_is_not_read() -> None:
    """The last piece of an answer may pause its sender; the next request needs the connection."""
    stage = Stage("a")
    slow = stage.client()
    slow.takes(0)
    slow.sends(INFER)
    upstream = stage.slice("a")
    body = b"x" * 1_000_000
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert took(slow) == b""
    quick = stage.client()
    quick.sends(INFER)
    upstream.sends(OK)
    assert took(quick) == OK
    assert stage.opened("a") == 1
    slow.takes(None)
    assert took(slow).endswith(body)
    assert stage.idle


ASKING = INFER.replace(b"Host: a\r\n", b"Host: a\r\nMig-Gateway-Slice: ?\r\n")


def test_a_client_that_asks_is_told_which_slice_has_answered(stage):
    client, name = bound(stage, ASKING)
    assert took(stage.slice(name)) == INFER, "the question is not the slice's business"
    stage.slice(name).sends(OK)
    head, _, body = OK.partition(b"\r\n\r\n")
    told = b"\r\nmig-gateway-slice: " + name.encode() + b"\r\n\r\n"
    assert took(client) == head + told + body
    client.sends(INFER)  # the next request does not ask
    stage.run()
    other = next(n for n in "abc" if stage.fleet[n].in_flight)
    stage.slice(other).sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_who_answers_after_another_has_failed_is_named(stage):
    stage.dialer.refusing = {stage.port("a"), stage.port("b")}
    client, _ = bound(stage, ASKING)
    stage.slice("c").sends(STREAM + b"0\r\n\r\n")
    assert b"\r\nmig-gateway-slice: c\r\n\r\n0\r\n" in took(client)
