"""
Two clients, two slices, and any order of what they can do: nothing leaks, nothing is mixed up.

After every step what has arrived is a beginning of what was sent; in the end nothing is in flight
and nothing is held, whichever way the test lets it end.
"""

import hypothesis.strategies as st
import pytest
from h2.exceptions import H2Error
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.fleet.health import CheckResult
from gateway.hedging_rules import HedgingRules
from gateway.limits import Limits, Timeouts
from gateway.relay import slabs
from gateway.relay.http2 import frames, reading
from tests.support.clocks import turn_relays_by
from tests.support.h2_peers import (
    ANSWER_HEAD,
    INFER,
    OK_TRAILERS,
    STATISTICS,
    STREAM_INFER,
    Exchange,
    H2Peer,
    message,
)
from tests.support.h2_stage import Stage

pick = st.integers(0, 1000)
sizes = st.sampled_from([0, 1, 100, 5000, 20_000, 60_000])
who = st.integers(0, 1)


class Relay(RuleBasedStateMachine):
    """
    Attributes:
        sent: What each peer has sent on each of its streams, by a mark that tells them apart.
        hedging: Late calls go to both slices.
    """

    hedging: HedgingRules | None = None

    def __init__(self):
        super().__init__()
        limits = Limits(
            stream_window=30_000, answer_window=30_000, connection_window=100_000,
            replay_bytes=20_000, buffered_bytes=150_000, grpc_connections_per_slice=2,
        )  # fmt: skip
        timeouts = Timeouts(response_s=20.0, send_idle_s=20.0, ping_s=5.0, ping_timeout_s=5.0)
        self.stage = Stage("a", "b", limits=limits, timeouts=timeouts,
                           hedging=self.hedging)  # fmt: skip
        self.patch = pytest.MonkeyPatch()
        turn_relays_by(self.patch, self.stage.loop.time)
        self.clients = [self.stage.client(), self.stage.client(initial_window_size=20)]
        self.sent: dict[tuple[H2Peer, int], bytes] = {}
        self.marks = 0

    # --- clients ------------------------------------------------------------------------------

    @rule(client=who, path=st.sampled_from([INFER, STREAM_INFER, STATISTICS]), ends=st.booleans())
    def opens(self, client: int, path: bytes, ends: bool):
        peer = self._client(client)
        self._try(lambda: peer.calls(path, ends=ends))

    @rule(client=who, size=sizes)
    def infers(self, client: int, size: int):
        peer = self._client(client)
        self.marks += 1
        data = message(f"m{self.marks}", size)

        calls: list[Exchange] = []
        self._try(lambda: calls.append(peer.calls(INFER)))
        for call in calls:
            self._send_data(call, data, True)

    @rule(client=who, which=pick, size=sizes, ends=st.booleans())
    def sends(self, client: int, which: int, size: int, ends: bool):
        self._send(self._client(client), which, size, ends)

    @rule(client=who, which=pick)
    def resets(self, client: int, which: int):
        call = self._one(self._client(client), which)
        if call is not None:
            self._try(call.resets)

    @rule(client=who, timeout=st.sampled_from([b"1S", b"100m"]))
    def calls_with_a_deadline(self, client: int, timeout: bytes):
        more = [(b"grpc-timeout", timeout)]
        self._try(lambda: self._client(client).calls(STATISTICS, ends=True, more=more))

    # --- slices -------------------------------------------------------------------------------

    @rule(which=pick, size=sizes)
    def answers(self, which: int, size: int):
        served = self._served(which)
        if served is not None:
            self._try(lambda: served.sends_head(ANSWER_HEAD))
            self._send(served.peer, which, size, False, served)
            self._try(lambda: served.sends_head(OK_TRAILERS, ends=True))

    @rule(which=pick)
    def begins_an_answer(self, which: int):
        served = self._served(which)
        if served is not None:
            self._try(lambda: served.sends_head(ANSWER_HEAD))

    @rule(which=pick, size=sizes, ends=st.booleans())
    def continues_an_answer(self, which: int, size: int, ends: bool):
        served = self._served(which)
        if served is not None:
            self._send(served.peer, which, size, ends, served)

    @rule(which=pick, code=st.sampled_from([0, 2, 7, 8]))
    def slice_resets(self, which: int, code: int):
        served = self._served(which)
        if served is not None:
            self._try(lambda: served.resets(code))

    @rule(which=pick, margin=st.integers(-4, 4))
    def slice_goes_away(self, which: int, margin: int):
        served = self._served(which)
        if served is not None and not served.peer.closed:
            served.peer.raw(frames.goaway(max(0, served.id + margin), 0))

    # --- connections, windows, time -----------------------------------------------------------

    @rule(which=pick)
    def connection_breaks(self, which: int):
        peers = self._peers()
        peers[which % len(peers)].cuts()

    @rule(which=pick, stalled=st.booleans())
    def socket_stalls(self, which: int, stalled: bool):
        peers = self._peers()
        peers[which % len(peers)].stalls(stalled)

    @rule(which=pick, reads=st.booleans())
    def reading_changes(self, which: int, reads: bool):
        peers = self._peers()
        peer = peers[which % len(peers)]
        peer.reads = reads
        for exchange in peer.exchanges.values():
            if reads:
                self._try(exchange.reads)

    @rule(
        which=pick,
        window=st.sampled_from([0, 1, 100, 65_535]),
        frame=st.sampled_from([16384, 40_000]),
        streams=st.sampled_from([1, 3, 100]),
    )
    def settings_change(self, which: int, window: int, frame: int, streams: int):
        peers = self._peers()
        peer = peers[which % len(peers)]
        values = {
            frames.SETTING_INITIAL_WINDOW_SIZE: window,
            frames.SETTING_MAX_FRAME_SIZE: frame,
        }
        if not peer.conn.config.client_side:
            values[frames.SETTING_MAX_CONCURRENT_STREAMS] = streams
        self._try(lambda: peer.change(values))

    @rule(name=st.sampled_from("ab"), how=st.sampled_from(["refusing", "holding", "silent"]))
    def slice_misbehaves(self, name: str, how: str):
        peer = self.stage.slice(name)
        setattr(peer, how, not getattr(peer, how))
        if not peer.holding:
            peer.answer_dials()
        self.stage.settle()

    @rule(seconds=st.sampled_from([0.2, 1.2, 6.0, 25.0]))
    def time_passes(self, seconds: float):
        self.stage.advance(seconds)

    @rule(name=st.sampled_from("ab"))
    def slice_is_taken_out(self, name: str):
        self.stage.links.close_slice(self.stage.slice(name).member)
        self.stage.settle()

    @rule(client=who)
    def drains(self, client: int):
        peer = self.clients[client]
        if not peer.closed:
            peer.downstream.drain()
            self.stage.settle()

    # --- what holds ---------------------------------------------------------------------------

    @invariant()
    def nothing_is_made_up_or_mixed(self):
        bodies = list(self.sent.values())
        for peer in self._peers():
            for exchange in peer.exchanges.values():
                body = exchange.body
                known = not body or any(sent.startswith(body) for sent in bodies)
                assert known, f"{body[:40]!r} was never sent"

    @invariant()
    def counts_are_sane(self):
        open_calls = sum(len(client.streams) for client in self.stage.core.clients)
        assert 0 <= self.stage.in_flight <= open_calls * (2 if self.hedging else 1)
        assert 0 <= self.stage.core.buffered_bytes < 2_000_000

    def teardown(self):
        self.patch.undo()
        for peer in self._peers():
            peer.stalls(False)
        for client in list(self.stage.core.clients):
            client.transport.cut()
        self.stage.settle()
        self.stage.assert_at_rest()
        self.stage.advance(120)
        assert not [w for w in self.stage.wires if not w.lost], "a connection to a slice is left"

    # --- helpers ------------------------------------------------------------------------------

    def _peers(self) -> list[H2Peer]:
        return [*self.clients, *(c for s in self.stage.slices.values() for c in s.connections)]

    def _client(self, index: int):
        if self.clients[index].closed or self.clients[index].goaways:
            self.clients[index] = self.stage.client()
        return self.clients[index]

    def _one(self, peer: H2Peer, which: int) -> Exchange | None:
        exchanges = list(peer.exchanges.values())
        return exchanges[which % len(exchanges)] if exchanges else None

    def _served(self, which: int) -> Exchange | None:
        found = [
            exchange
            for served_by in self.stage.slices.values()
            for connection in served_by.connections
            if not connection.closed
            for exchange in connection.exchanges.values()
        ]
        return found[which % len(found)] if found else None

    def _send(
        self, peer: H2Peer, which: int, size: int, ends: bool, exchange: Exchange | None = None
    ):
        exchange = exchange or self._one(peer, which)
        if exchange is None:
            return
        self.marks += 1
        self._send_data(exchange, (b"<%d>" % self.marks + b"x" * size)[:size], ends)

    def _send_data(self, exchange: Exchange, data: bytes, ends: bool):
        peer = exchange.peer
        key = (peer, exchange.id)

        def do():
            size_allowed = max(0, peer.conn.local_flow_control_window(exchange.id))
            piece = data[:size_allowed]
            before = self.sent.get(key, b"")
            self.sent[key] = before + piece
            try:
                exchange.sends(piece, ends=ends, frame_bytes=4096 + self.marks % 3 * 2000)
            except H2Error:
                self.sent[key] = before
                raise

        self._try(do)

    def _try(self, do):
        """Do what the peer may or may not do in its present state; h2 knows, and is left as it was."""
        machines = [
            machine
            for peer in self._peers()
            for machine in (
                peer.conn.state_machine,
                *(stream.state_machine for stream in peer.conn.streams.values()),
            )
        ]
        states = [machine.state for machine in machines]
        try:
            do()
        except H2Error:
            for machine, state in zip(machines, states, strict=True):
                machine.state = state
            self.stage.settle()


Relay.TestCase.settings = settings(
    deadline=None,
    max_examples=60,
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRelay = Relay.TestCase


@pytest.mark.usefixtures("_slabs_always")
class TestRelayThroughSlabs(Relay.TestCase):  # type: ignore[misc, valid-type]
    """The same with every read in memory that is used again, and frames passed on as they lie."""


class Hedging(Relay):
    """The same while calls that are not answered at once go to both slices."""

    hedging = HedgingRules(after_s=0.05, percent=100.0)

    def __init__(self):
        super().__init__()
        known = {f"m{mark}": ("1",) for mark in range(60)}
        for member in self.stage.registry.slices.values():
            self.stage.registry.record(member, CheckResult(True, "up", models=known))

    @rule(client=who, size=sizes)
    def infers_in_vain(self, client: int, size: int):
        """As most that happens above answers or ends a call before it is late."""
        self.infers(client, size)
        self.stage.advance(0.2)


Hedging.TestCase.settings = Relay.TestCase.settings
TestHedging = Hedging.TestCase


@pytest.fixture
def _slabs_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGE_READ_BYTES", 1)
    monkeypatch.setattr(slabs, "SLAB_BYTES", 200_000)
    monkeypatch.setattr(slabs, "READ_BYTES_MIN", 50_000)
