"""A whole HTTP/1.1 relay on fake transports: clients, scripted slices, a clock."""

import asyncio
from typing import Any, cast

from contract.slice_spec import Endpoint
from gateway.forwarding_rules import ForwardingRules
from gateway.hedging_rules import HedgingRules
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream
from gateway.relay.http1.stock import Stocks
from gateway.relay.slabs import Slabs
from tests.gateway.making import Fleet
from tests.support.wire import FakeLoop, FakeTransport

INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class FakeDialer:
    """Opens fake connections at once, or as a test says."""

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage
        self.refusing: set[int] = set()  # ports
        self.silent: set[int] = set()
        self.pending: list[tuple[Endpoint, asyncio.BaseProtocol, Any]] = []
        self.timeout_s = 0.0

    def configure(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def dial(self, endpoint: Endpoint, protocol: asyncio.BaseProtocol, on_failure: Any) -> None:
        self.pending.append((endpoint, protocol, on_failure))
        self.stage.loop.call_soon(self._next)

    def _next(self) -> None:
        for at, (endpoint, protocol, on_failure) in enumerate(self.pending):
            if endpoint.port in self.silent:
                continue
            del self.pending[at]
            if endpoint.port in self.refusing:
                on_failure(f"{endpoint}: Connection refused", True)
            else:
                transport = FakeTransport(self.stage.loop, protocol)
                self.stage.connections.setdefault(endpoint.port, []).append(transport)
                protocol.connection_made(transport)
            return

    def time_out(self) -> None:
        """The connect timeout of what is still being opened passes."""
        pending, self.pending = self.pending, []
        for endpoint, _, on_failure in pending:
            on_failure(f"{endpoint}: no connection within 1 s", False)


class Stage:
    """
    Attributes:
        connections: By port, the relay's connections to that slice, in the order of opening.
    """

    def __init__(
        self,
        *names: str,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        forwarding: ForwardingRules | None = None,
        hedging: HedgingRules | None = None,
    ) -> None:
        self.loop = FakeLoop()
        self.fleet = Fleet(*(names or ("a",)))
        self.counters = Counters()
        self.checks: list[str] = []
        self.core = RelayCore(
            cast(asyncio.AbstractEventLoop, self.loop),
            self.fleet.registry,
            self.counters,
            limits or Limits(),
            timeouts or Timeouts(),
            lambda member: self.checks.append(member.name),
            forwarding,
        )
        self.core.hedges._clock = self.loop.time
        self.dialer = FakeDialer(self)
        self.core.dialer = self.dialer  # type: ignore[assignment]
        self.core.deadlines.start()
        self._ports = {spec.name: spec.http.port for spec in self.fleet.specs}
        self.connections: dict[int, list[FakeTransport]] = {}
        self.slabs = Slabs(64 * 1024 * 1024)
        self.stocks = Stocks(self.core, self.slabs)
        if hedging is not None:
            self.core.relays.append(self.stocks)
            self.core.configure(self.core.limits, self.core.timeouts, hedging=hedging)
            self.stocks.shared.configure()

    def client(self, host: str = "127.0.0.1") -> FakeTransport:
        """Return a new client's connection, from `host`."""
        protocol = Downstream(self.stocks.shared)
        transport = FakeTransport(self.loop, protocol, host)
        protocol.connection_made(transport)
        return transport

    def port(self, name: str) -> int:
        return self._ports[name]

    def slice(self, name: str = "a", at: int = -1) -> FakeTransport:
        """Return the relay's connection to slice `name`; the latest unless told."""
        self.loop.run()
        return self.connections[self.port(name)][at]

    def opened(self, name: str = "a") -> int:
        """Count the connections that were opened to slice `name`."""
        self.loop.run()
        return len(self.connections.get(self.port(name), []))

    def run(self) -> None:
        self.loop.run()

    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @property
    def idle(self) -> bool:
        """Nothing is in flight, abandoned, waiting or accounted for."""
        members = self.fleet.registry.slices.values()
        return (
            all(member.in_flight == 0 and member.abandoned == 0 for member in members)
            and self.core.buffered_bytes == 0
            and not any(stock.waiting for stock in self.stocks.by_slice.values())
        )


def took(transport: FakeTransport) -> bytes:
    """Return what the other side has got since it was last asked."""
    transport.loop.run()
    data = bytes(transport.sent)
    transport.sent.clear()
    return data


def status(transport: FakeTransport) -> int:
    """Return the status of the one answer that has come."""
    answer = took(transport)
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])
