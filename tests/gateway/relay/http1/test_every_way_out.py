"""Whatever happens in whatever order: no assertion fails, and at the end all counts are zero."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fleet.health import Order
from gateway.hedging_rules import HedgingRules
from gateway.limits import REPLAY_CHOICES, Limits
from tests.gateway.making import live
from tests.gateway.relay.http1.stage import INFER, OK, Stage
from tests.support.clocks import turn_relays_by

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"
REQUESTS = [
    INFER,
    INFER * 3,
    INFER[:30],
    INFER[30:],
    HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 1000,
    b"x" * 33_000,
    b"x" * 66_000,
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    HEAD + b"Content-Length: 50000\r\nExpect: 100-continue\r\n\r\n",
    HEAD + b"Connection: close\r\n\r\n",
    b"GET /v2 HTTP/1.0\r\n\r\n",
    b"HEAD /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n",
    b"nonsense\r\n\r\n",
]
ANSWERS = [
    OK,
    OK * 2,
    OK[:20],
    OK[20:],
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    b"x" * 50_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"nonsense\r\n\r\n",
]
CLIENT = st.tuples(st.just("client"), st.integers(0, 2), st.sampled_from(
    [*REQUESTS, "eof", "reset", "block", "unblock", "drain", "abort"]))  # fmt: skip
SLICE = st.tuples(st.just("slice"), st.integers(0, 5), st.sampled_from(
    [*ANSWERS, "eof", "reset", "block", "unblock"]))  # fmt: skip
WORLD = st.tuples(st.just("world"), st.sampled_from("ab"), st.sampled_from(
    ["refuse", "accept", "silent", "time out", "close slice", "disable", "enable", "kill", "hang",
     "second", "minute", "ten minutes"]))  # fmt: skip
LIMITS = [
    Limits(),
    Limits(connections_per_slice=1, waiting_per_slice=2),
    Limits(replay_percent=0, replay_floor=0),
    Limits(quarantined=1),
]


def act_on_world(stage: Stage, name: str, action: str) -> None:
    port, member = stage.port(name), stage.fleet[name]
    if action == "refuse":
        stage.dialer.refusing.add(port)
    elif action == "silent":
        stage.dialer.silent.add(port)
    elif action == "accept":
        stage.dialer.refusing.discard(port)
        stage.dialer.silent.discard(port)
        stage.fleet.registry.record(member, live("m"))
    elif action == "time out":
        stage.dialer.time_out()
    elif action == "close slice":
        stage.stocks.close_slice(member)
    elif action == "disable":
        stage.fleet.registry.order(member, Order.DISABLED, "test")
        stage.stocks.close_slice(member)
    elif action == "kill":
        stage.dialer.refusing.add(port)
        for connection in stage.connections.get(port, []):
            connection.resets()
    elif action == "hang":
        stage.stocks.slice_down(member)
    elif action == "enable":
        stage.fleet.registry.order(member, Order.ENABLED, "test")
        stage.fleet.registry.record(member, live("m"))
    else:
        stage.pass_time({"second": 1.0, "minute": 61.0, "ten minutes": 605.0}[action])


def act_on_transport(transport, action):
    if isinstance(action, bytes):
        transport.sends(action)
    elif action == "eof":
        transport.sends_eof()
    elif action == "reset":
        transport.resets()
    elif action == "block":
        transport.takes(-transport.room if transport.room else 0)
    elif action == "unblock":
        transport.takes(None)
    elif not transport.closed:
        getattr(transport.client_protocol, action)()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(CLIENT, CLIENT, SLICE, SLICE, WORLD), max_size=30),
    st.sampled_from(LIMITS),
    st.sampled_from(REPLAY_CHOICES),
    st.booleans(),
)
def test_counts_return_to_zero_on_every_way_out(events, limits, replay, hedges):
    """Clients, slices and operators do what they like, at any time."""
    rules = HedgingRules(after_s=0.9, percent=100.0) if hedges else None
    stage = Stage("a", "b", limits=limits, hedging=rules)
    with pytest.MonkeyPatch.context() as patch:
        turn_relays_by(patch, stage.loop.time)
        if hedges:
            patch.setattr(stage.core.hedges, "_tokens", 20.0)
        run(stage, events, limits, replay)


def run(stage, events, limits, replay):
    stage.core.replays.configure(limits, replay)
    clients = [stage.client() for _ in range(3)]
    for client in clients:
        client.client_protocol = client.protocol
    for who, which, action in events:
        if who == "world":
            act_on_world(stage, which, action)
        elif who == "client":
            act_on_transport(clients[which], action)
        else:
            connections = [c for found in stage.connections.values() for c in found]
            if which < len(connections):
                act_on_transport(connections[-1 - which], action)
        stage.run()
        for member in stage.fleet.registry.slices.values():
            assert 0 <= member.abandoned <= member.in_flight
        assert stage.core.buffered_bytes >= 0
        assert len(stage.core.quarantine) <= limits.quarantined
    for client in clients:
        client.resets()
    stage.run()
    stage.dialer.time_out()
    stage.pass_time(700)
    assert stage.idle
    assert not stage.core.clients
    assert all(c.closed for found in stage.connections.values() for c in found)
    assert all(stock.open == 0 for stock in stage.stocks.by_slice.values())
