"""HTTP/1.1 requests that wait for a slice to have room."""

from typing import Any

import pytest

from gateway.fleet.health import Order
from gateway.fleet.lanes import ModelLimit
from gateway.fleet.places import QueueSettings
from gateway.limits import Limits, Timeouts
from tests.gateway.making import REFUSED
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status, took

CALL = b"GET /v2/models/m/config HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n"


class LimitedStage(Stage):
    """A stage on which each slice takes one inference at a time, unless told otherwise."""

    def __init__(
        self, *names: str, at_once: int = 1, settings: QueueSettings | None = None, **more: Any
    ) -> None:
        super().__init__(*names, **more)
        self.queues = self.fleet.registry.queues
        self.queues.common.now_s = self.loop.time
        self.queues.run_by(self.loop.call_soon, self.loop.call_later)
        self.queues.configure(settings or QueueSettings())
        self.queues.follow("m", ModelLimit(at_once))
        self.stocks.shared.configure()

    def asks(self, request: bytes = INFER) -> Any:
        client = self.client()
        client.sends(request)
        self.run()
        return client

    @property
    def idle(self) -> bool:
        lanes = [lane for line in self.queues.lines.values() for lane in line.lanes.values()]
        return (
            super().idle
            and not self.queues.waiting
            and not self.queues.common.bytes
            and not any(lane.in_flight for lane in lanes)
        )


@pytest.fixture
def stage() -> LimitedStage:
    return LimitedStage("a", "b")


def urgent(urgency: int) -> bytes:
    return INFER.replace(b"\r\n\r\n", b"\r\nPriority: u=%d\r\n\r\n" % urgency)


def test_a_request_waits_until_a_slice_has_room(stage: LimitedStage) -> None:
    first, second, third = stage.asks(), stage.asks(), stage.asks()
    assert stage.queues.waiting == 1
    took(stage.slice("b"))
    stage.slice("b").sends(OK)
    assert took(second) == OK
    assert took(stage.slice("b")) == INFER, "on the connection that has just become free"
    stage.slice("b").sends(OK)
    assert took(third) == OK
    assert took(first) == b""
    stage.slice("a").sends(OK)
    assert took(first) == OK
    assert stage.idle


def test_calls_that_are_no_inference_do_not_wait(stage: LimitedStage) -> None:
    for _ in range(3):
        stage.asks()
    client = stage.asks(CALL)
    for name in "ab":
        for connection in stage.connections[stage.port(name)]:
            if b"GET" in bytes(connection.sent):
                connection.sends(OK)
    assert took(client) == OK


def test_a_client_that_leaves_while_it_waits_is_forgotten(stage: LimitedStage) -> None:
    clients = [stage.asks() for _ in range(4)]
    clients[2].resets()
    stage.run()
    assert stage.queues.waiting == 1
    for name in "ab":
        took(stage.slice(name))
        stage.slice(name).sends(OK)
    stage.run()
    assert took(stage.slice("a")) + took(stage.slice("b")) == INFER
    assert stage.queues.figures.ended == {"m left": 1, "m served": 1}


def test_a_client_that_leaves_a_busy_slice_frees_no_slot(stage: LimitedStage) -> None:
    """Triton does not notice, and goes on: the slot is free with its answer."""
    first, _, third = stage.asks(), stage.asks(), stage.asks()
    busy = stage.slice("a")
    first.resets()
    stage.run()
    assert stage.queues.waiting == 1
    took(busy)
    busy.sends(OK)
    stage.run()
    assert stage.queues.waiting == 0
    busy.sends(OK)
    assert took(third) == OK


def test_above_its_length_a_request_is_refused_with_when_to_try_again() -> None:
    stage = LimitedStage("a", settings=QueueSettings(length=1))
    clients = [stage.asks() for _ in range(2)]
    client = stage.asks()
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert answer.endswith(b'{"error": "too many requests wait for this model; try again later"}')
    assert stage.counters.faults == {"queue_full": 1}
    assert not client.closing, "the connection goes on"
    for each in clients:
        took(stage.slice("a"))
        stage.slice("a").sends(OK)
        assert took(each) == OK
    assert stage.idle


def test_who_waits_for_too_long_is_refused() -> None:
    stage = LimitedStage("a", settings=QueueSettings(timeout_s=2.0))
    stage.asks()
    client = stage.asks()
    stage.pass_time(1.8)
    assert took(client) == b""
    stage.pass_time(0.4)
    assert status(client) == 503
    assert stage.counters.faults == {"queue_timeout": 1}


def test_the_time_in_the_line_is_not_the_slices() -> None:
    """`timeouts.response` begins when a slice has the request, and so does the slice's latency."""
    timeouts = Timeouts(response_s=1.0)
    stage = LimitedStage("a", settings=QueueSettings(timeout_s=0), timeouts=timeouts)
    first, client = stage.asks(), stage.asks()
    stage.pass_time(0.9)
    stage.slice("a").sends(OK)
    assert took(first) == OK
    stage.pass_time(0.8)
    assert took(client) == b""
    stage.pass_time(0.4)
    assert status(client) == 504


def test_urgent_requests_go_first_and_the_header_goes_on_to_the_slice() -> None:
    stage = LimitedStage("a")
    stage.asks()
    plain, hurried = stage.asks(urgent(3)), stage.asks(urgent(0))
    took(stage.slice("a"))
    stage.slice("a").sends(OK)
    stage.run()
    assert took(stage.slice("a")) == urgent(0)
    stage.slice("a").sends(OK)
    assert (took(hurried), took(plain)) == (OK, b"")


def test_the_name_of_the_priority_header_can_be_chosen() -> None:
    stage = LimitedStage("a", settings=QueueSettings(priority_header="x-priority"))
    stage.asks()
    stage.asks(urgent(0))
    named = stage.asks(urgent(0).replace(b"Priority", b"X-PRIORITY"))
    stage.slice("a").sends(OK)
    stage.run()
    stage.slice("a").sends(OK)
    assert took(named) == OK


def test_a_body_is_read_up_to_what_may_be_replayed_and_no_further() -> None:
    stage = LimitedStage(
        "a", settings=QueueSettings(timeout_s=0), limits=Limits(replay_bytes=200_000)
    )
    first = stage.asks()
    client = stage.asks(LARGE % (500_000, b"") + b"x" * 50_000)
    client.sends(b"x" * 100_000)
    assert client.reading
    client.sends(b"x" * 100_000)
    stage.run()
    assert not client.reading
    assert stage.core.buffered_bytes >= stage.queues.common.bytes > 250_000
    stage.pass_time(40.0)
    assert not client.closing, "it is not the client that is late"
    took(stage.slice("a"))
    stage.slice("a").sends(OK)
    assert took(first) == OK
    stage.run()
    assert client.reading
    client.sends(b"x" * 250_000)
    stage.run()
    assert took(stage.slice("a")).count(b"x") == 500_000
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_a_body_that_stops_coming_is_given_up_in_the_line_as_well() -> None:
    stage = LimitedStage(
        "a", settings=QueueSettings(timeout_s=0), timeouts=Timeouts(body_idle_s=5.0)
    )
    stage.asks()
    client = stage.asks(LARGE % (50_000, b"") + b"x" * 20_000)
    client.sends(b"x" * 10_000)
    stage.pass_time(6.0)
    assert status(client) == 408
    assert stage.queues.waiting == 0


def test_a_body_is_asked_for_before_its_request_waits() -> None:
    """Who has a turn must have something for the slice to work on."""
    stage = LimitedStage("a")
    first = stage.asks()
    client = stage.asks(LARGE % (4, b"Expect: 100-continue\r\n"))
    assert took(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert stage.queues.waiting == 0
    client.sends(b"body")
    assert stage.queues.waiting == 1
    stage.slice("a").sends(OK)
    assert took(first) == OK
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_pipelined_requests_wait_one_after_the_other() -> None:
    stage = LimitedStage("a")
    first = stage.asks()
    client = stage.asks(INFER + INFER)
    assert stage.queues.waiting == 1
    stage.slice("a").sends(OK)
    assert took(first) == OK
    stage.slice("a").sends(OK)
    assert took(client) == OK
    stage.slice("a").sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_a_refusal_in_the_line_lets_the_next_pipelined_request_go_on() -> None:
    stage = LimitedStage("a", settings=QueueSettings(timeout_s=1.0))
    stage.asks()
    client = stage.asks(INFER + CALL)
    stage.pass_time(1.2)
    assert status(client) == 503
    stage.slice("a").sends(OK)
    assert took(client) == OK


def test_a_request_that_a_slice_has_lost_goes_before_all_others(stage: LimitedStage) -> None:
    first, second, third = stage.asks(), stage.asks(), stage.asks()
    stage.slice("a").resets()
    stage.run()
    assert stage.queues.waiting == 1, "the third has the slot that was freed"
    assert took(stage.slice("a")) == INFER
    fourth = stage.asks()
    took(stage.slice("b"))
    stage.slice("b").sends(OK)
    assert took(second) == OK
    assert took(stage.slice("b")) == INFER
    stage.slice("b").sends(OK)
    assert (took(first), took(third), took(fourth)) == (OK, b"", b"")


def test_a_slice_that_returns_takes_from_the_line_and_one_that_leaves_does_not(
    stage: LimitedStage,
) -> None:
    stage.fleet.registry.order(stage.fleet["b"], Order.DRAINED, "test")
    stage.asks()
    client = stage.asks()
    assert stage.queues.waiting == 1
    stage.fleet.registry.order(stage.fleet["b"], Order.ENABLED, "test")
    stage.slice("b").sends(OK)
    assert took(client) == OK


def test_when_the_last_slice_goes_those_who_wait_are_told() -> None:
    stage = LimitedStage("a")
    stage.asks()
    client = stage.asks()
    stage.fleet.registry.record(stage.fleet["a"], REFUSED)
    assert status(client) == 503
    assert stage.counters.faults == {"no_slice": 1}


def test_a_gateway_that_stops_serves_who_waits() -> None:
    stage = LimitedStage("a")
    first, client = stage.asks(), stage.asks()
    for connection in list(stage.core.clients):
        connection.drain()
    stage.slice("a").sends(OK)
    assert took(first).startswith(b"HTTP/1.1 200 ")
    stage.slice("a").sends(OK)
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in answer
    assert stage.idle


SLOW = LARGE % (100_000, b"")


def test_a_body_that_comes_slowly_keeps_nobody_from_the_slice(stage: LimitedStage) -> None:
    """Until it is there the slice has nothing to work on."""
    slow = [stage.asks(SLOW) for _ in range(2)]
    other = stage.asks()
    assert stage.queues.waiting == 1
    for _ in range(12):
        for client in slow:
            client.sends(b"x")  # however busy it looks
        stage.pass_time(0.1)
    stage.run()
    assert stage.queues.waiting == 0
    for name in "ab":
        connection = stage.slice(name)
        if INFER in bytes(connection.sent):
            connection.sends(OK)
    assert took(other) == OK
    for client in slow:
        client.sends(b"x" * (100_000 - 12))
    stage.run()
    waits = stage.asks()
    assert stage.queues.waiting == 1, "those that are whole count again"
    for name in "ab":
        for connection in stage.connections[stage.port(name)]:
            connection.sends(OK)
        stage.run()
    assert [took(client) for client in slow] == [OK, OK]
    client.sends(b"")
    for name in "ab":
        for connection in stage.connections[stage.port(name)]:
            if bytes(connection.sent).endswith(INFER):
                connection.sends(OK)
    assert took(waits) == OK
    assert stage.idle


@pytest.mark.parametrize("ends", ["leaves", "stalls", "is lost", "is malformed"])
def test_a_slow_body_that_never_comes_is_counted_out_once(stage: LimitedStage, ends: str) -> None:
    client = stage.asks(SLOW.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked"))
    stage.pass_time(1.3)
    client.sends(b"1\r\nx\r\n")
    if ends == "leaves":
        client.resets()
    elif ends == "stalls":
        stage.pass_time(31)
        assert status(client) == 408
    elif ends == "is malformed":
        client.sends(b"x\r\n")
        assert status(client) == 400
    else:
        for name in "ab":
            for connection in list(stage.connections.get(stage.port(name), [])):
                connection.resets()
                stage.run()
        client.resets()
    stage.run()
    assert stage.idle


def test_whole_requests_go_before_those_that_come_slowly(stage: LimitedStage) -> None:
    """However many of them there are: they are not in the line, and have no slot while others wait."""
    slow = [stage.asks(SLOW) for _ in range(50)]
    other = stage.asks()
    assert stage.queues.waiting == 1
    stage.pass_time(0.3)
    assert stage.queues.waiting == 0
    for name in "ab":
        for connection in stage.connections[stage.port(name)]:
            if INFER in bytes(connection.sent):
                connection.sends(OK)
    assert took(other) == OK
    for client in slow:
        client.resets()
    stage.run()
    assert stage.idle
