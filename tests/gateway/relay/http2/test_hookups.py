"""What the HTTP/2 relay tells slices of a request's origin, and the fleet of how attempts ended."""

from dataclasses import replace

import pytest

from gateway.fleet import outcomes
from gateway.fleet.health import CheckResult
from gateway.forwarding_rules import MAKE, ForwardingRules
from gateway.limits import Timeouts
from gateway.relay.http2 import frames
from tests.support.h2_peers import (
    ANSWER_HEAD,
    GRPC,
    OK_TRAILERS,
    STATISTICS,
    STREAM_INFER,
    head,
    message,
)


@pytest.fixture
def told(stage):
    """Each attempt's end, as (slice, pool key, outcome)."""
    ends = []
    ended = stage.core._ended

    def note(member, key, outcome):
        ends.append((member.name, key, outcome))
        ended(member, key, outcome)

    stage.core._ended = note
    return ends


# --- where a request came from -----------------------------------------------------------------


def fields(exchange, *names):
    return [(name, value) for name, value in exchange.head if name in names]


def test_nothing_is_added_or_taken_out_unless_asked_for(stage):
    call = stage.client().calls(
        headers=head(b"/x", (b"x-forwarded-for", b"1.2.3.4")), data=message(), ends=True
    )
    served = stage.slice("a").call()
    assert fields(served, b"via", b"x-forwarded-for") == [(b"x-forwarded-for", b"1.2.3.4")]
    served.answers()
    assert call.grpc_status == 0


def test_a_slice_is_told_where_a_request_came_from(make_stage):
    rules = ForwardingRules(via=True, x_forwarded_for=True, request_id=MAKE)
    stage = make_stage("a", forwarding=rules)
    client = stage.client()
    ids = set()
    for _ in range(2):  # the second time the head is remembered
        client.calls(headers=head(b"/x", (b"x-forwarded-for", b"6.6.6.6")), data=b"", ends=True)
        served = stage.slice("a").call()
        found = fields(served, b"via", b"x-forwarded-for")
        assert found == [(b"x-forwarded-for", b"192.0.2.7"), (b"via", b"2.0 mig-gateway")]
        ids.add(dict(served.head)[b"x-request-id"])
        served.answers()
    assert len(ids) == 2


# --- outcomes ------------------------------------------------------------------------------------


def infers(stage):
    call = stage.client().infers()
    return call, stage.slice("a").call()


def test_a_call_that_went_well_is_told_only_of_slices_that_failed(stage, told):
    _, served = infers(stage)
    served.answers()
    assert told == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(b"13", outcomes.SERVER_ERROR), (b"14", outcomes.SERVER_ERROR), (b"3", outcomes.REJECTED),
     (b"8", outcomes.REJECTED)],
)  # fmt: skip
@pytest.mark.parametrize("head_first", [True, False], ids=["trailers", "trailers only"])
def test_the_status_in_the_trailers_decides(stage, told, status, outcome, head_first):
    _, served = infers(stage)
    if head_first:
        served.sends_head(ANSWER_HEAD)
        served.sends_head([(b"grpc-status", status)], ends=True)
    else:
        served.sends_head([*ANSWER_HEAD, (b"grpc-status", status)], ends=True)
    assert told == [("a", "infer/m", outcome)]
    charged = outcome == outcomes.SERVER_ERROR
    assert stage.slice("a").member.failures == (1 if charged else 0)


def test_an_answer_without_a_status_is_as_good_as_lost(stage, told):
    _, served = infers(stage)
    served.sends_head(ANSWER_HEAD)
    served.sends(b"half", ends=True)
    assert told == [("a", "infer/m", outcomes.LOST)]


@pytest.mark.parametrize(
    ("status", "outcome"), [(b"500", outcomes.SERVER_ERROR), (b"404", outcomes.REJECTED)]
)
def test_an_answer_that_is_not_grpc_counts_by_its_status(stage, told, status, outcome):
    plain = [each for each in head(STATISTICS, method=b"GET") if each != GRPC]
    stage.client().calls(headers=plain, ends=True)
    served = stage.slice("a").call()
    served.sends_head([(b":status", status)])
    served.sends(b"body", ends=True)
    assert told == [("a", "call", outcome)]


def test_each_call_on_a_connection_that_breaks_is_told_once(stage, told):
    client = stage.client()
    calls = [client.infers() for _ in range(3)]
    on_a = len(stage.slice("a").waiting())
    stage.slice("a").call().peer.cuts()
    assert told == [("a", "infer/m", outcomes.LOST)] * on_a
    assert stage.slice("a").member.failures == on_a
    for call in calls:
        call.resets()
    assert stage.in_flight == 0
    assert {end[2] for end in told[on_a:]} == {outcomes.REJECTED}


def test_a_refused_connection_is_told_as_such(stage, told):
    stage.slice("a").refusing = True
    stage.client().infers()
    assert told == [("a", "infer/m", outcomes.CONNECT_FAILED)]


def test_a_slice_that_is_leaving_or_full_is_not_blamed(stage, told):
    _, served = infers(stage)
    served.resets(frames.REFUSED_STREAM)
    assert told == [("a", "infer/m", outcomes.REJECTED)]
    assert stage.slice("a").member.failures == 0


def test_a_client_that_cancels_says_nothing_of_the_slice(stage, told):
    call, _ = infers(stage)
    call.resets()
    assert told == [("a", "infer/m", outcomes.REJECTED)]


def test_the_gateways_own_timeout_is_held_against_the_slice_but_not_the_calls(make_stage):
    stage = make_stage("a", "b", timeouts=replace(Timeouts(), response_s=2.0))
    client = stage.client()
    own = client.calls(headers=head(STREAM_INFER, (b"grpc-timeout", b"500m")), data=message(),
                       ends=True)  # fmt: skip
    stage.advance(1.0)
    assert own.grpc_status == 4
    assert stage.slice("a").member.failures == 0
    late = client.infers()
    stage.advance(3.0)
    assert late.grpc_status == 4
    assert sum(member.failures for member in stage.registry.slices.values()) == 1
    assert len(stage.checked_soon) == 1


# --- a slice that hangs --------------------------------------------------------------------------


def hang(stage, name):
    member = stage.slice(name).member
    while member.health.health.value != "down":
        stage.registry.record(member, CheckResult(False, "no answer"))
    stage.settle()


def test_calls_that_wait_for_a_slice_that_hangs_go_elsewhere(stage):
    call, first = infers(stage)
    hang(stage, "a")
    assert first.reset_code == frames.CANCEL
    stage.slice("b").call().answers(b"reply")
    assert (call.body, call.grpc_status) == (b"reply", 0)
    assert stage.counters.replays == 1


def test_how_long_a_slice_hung_is_not_the_latency_of_the_one_that_answers(stage, monkeypatch):
    now_s = 100.0
    for module in ("call", "replaying"):
        monkeypatch.setattr(f"gateway.relay.http2.{module}.monotonic", lambda: now_s)
    call, _ = infers(stage)
    now_s += 3.0
    hang(stage, "a")
    now_s += 0.01
    stage.slice("b").call().answers(b"reply")
    assert call.grpc_status == 0
    member = stage.slice("b").member
    for latency in (member.grpc_latency, member.paces["infer/m"]):
        assert latency.total_us == pytest.approx(10_000, abs=1)


def test_an_answer_that_has_begun_waits_for_its_slice(stage):
    call, first = infers(stage)
    first.sends_head(ANSWER_HEAD)
    hang(stage, "a")
    assert first.reset_code is None
    first.sends(b"reply")
    first.sends_head(OK_TRAILERS, ends=True)
    assert call.grpc_status == 0


def test_a_call_that_nobody_else_can_take_waits_on(make_stage):
    stage = make_stage("a")
    call, first = infers(stage)
    hang(stage, "a")
    assert not call.ended
    first.answers(b"late")
    assert call.body == b"late"


def test_only_a_slice_that_is_another_server_now_loses_its_connections(stage):
    """Another weight is no reason to send elsewhere who waits for a connection."""
    call, first = infers(stage)
    first.answers(b"reply")
    assert call.body == b"reply"
    member = stage.slice("a").member
    member.spec = replace(member.spec, weight=2.0)
    stage.links.close_moved(member)
    stage.settle()
    assert not stage.slice("a").connection.goaways
    member.spec = replace(member.spec, mig_uuid="MIG-2")
    stage.links.close_moved(member)
    stage.settle()
    assert stage.slice("a").connections[0].closed
