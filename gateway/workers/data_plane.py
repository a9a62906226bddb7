"""DataPlane: everything of one process that serves clients, with one start and one stop."""

import asyncio
import gc
import socket
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, cast

import structlog

from gateway.config import Config
from gateway.fleet.health import DOWN, Order
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.limits import Limits
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream as HttpDownstream
from gateway.relay.http1.stock import Stocks
from gateway.relay.http2.downstream import Downstream as GrpcDownstream
from gateway.relay.http2.links import Links
from gateway.relay.listener import Listener
from gateway.relay.quarantine import Suspect
from gateway.tls import LiveContext

_TOGETHER: Final = (
    "buffered_bytes", "connections", "connections_per_slice", "grpc_connections_per_slice",
    "replay_floor", "waiting_per_slice",
)  # fmt: skip
"""Limits on what all clients take together; the others are each client's own."""
KEY_CHARS_MAX: Final = 200
"""Of a pool's key in the log: a client may have named a model that nobody has."""
TICK_S: Final = 0.02
"""How often a stop looks whether the last client has gone."""
LINGER_S: Final = 10.0
"""When others go on where this one ends, for HTTP/1.1 clients to send the next request on a
connection they have."""
CUT_S: Final = 1.0
"""For connections that were cut off to be closed."""


log = structlog.get_logger()


class DataPlane:
    """
    The relays, the listener and the connections to slices. A SliceListener.

    Args:
        tls: Certificate and key for clients; None for plain text.
        share: This is one of so many data planes: bounds on all together are divided by it.
    """

    def __init__(
        self,
        config: Config,
        registry: SliceRegistry,
        counters: Counters,
        check_soon: Callable[[Slice], None],
        tls: LiveContext | None = None,
        share: int = 1,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._share = share
        self.core = RelayCore(
            loop,
            registry,
            counters,
            divided(config.limits.values(), share),
            config.timeouts.values(),
            check_soon,
            config.forwarding.rules(),
            config.balancing.replay,
            config.hedging.rules(),
        )
        self.core.quarantine.tell = _log_quarantine
        self._queues = registry.queues
        self._configure_queues(config)
        self._queues.run_by(loop.call_soon, loop.call_later)
        self._stocks = Stocks(self.core, self.core.slabs)
        self._links = Links(self.core)
        self._listener = Listener(
            self.core,
            http1=lambda: HttpDownstream(self._stocks.shared),
            http2=lambda: cast("asyncio.Protocol", GrpcDownstream(self.core, self._links)),
            tls=tls,
        )
        self.core.relays += [self._links, self._stocks]
        registry.listeners.append(self)

    async def start(self) -> None:
        """Make ready to serve; `accept` opens the door."""
        self.core.deadlines.start()
        # What lives now lives for good: the collector need not look at it again, and what
        # requests make is freed by its reference count, so it may look seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    def reconfigure(self, config: Config) -> None:
        """Take over what a reload has changed."""
        self._configure_queues(config)
        limits = divided(config.limits.values(), self._share)
        self.core.configure(
            limits, config.timeouts.values(), config.balancing.replay, config.hedging.rules()
        )
        self._stocks.shared.configure()

    async def accept(self, sockets: Collection[socket.socket]) -> None:
        """Accept from these sockets and from no other any more."""
        await self._listener.accept(sockets)

    def leave(self) -> None:
        """Say from now on that it is not ready, and serve as before."""
        self.core.leaving = True

    async def stop(
        self, limit_s: float, linger_s: float = 0.0, deaf: Callable[[], None] = lambda: None
    ) -> int:
        """
        Drain, end everything, and return how many clients were cut off.

        Args:
            limit_s: For what is in flight; the rest is cut off.
            linger_s: HTTP/1.1 connections without a request stay open for so long, since the next
                request may be on its way; it is answered with `Connection: close`.
            deaf: Called when nothing is accepted any more.
        """
        core = self.core
        deadline_s = self._clock() + limit_s
        await self._listener.accept(())
        deaf()
        if limit_s:
            # What was accepted in this very turn of the loop is not among the connections yet.
            await asyncio.sleep(TICK_S)
        await self._linger(min(self._clock() + linger_s, deadline_s))
        core.leaving = core.draining = True
        self._listener.close()
        for client in list(core.clients):
            client.drain()
        await self._until_none(deadline_s)
        cut = len(core.clients)
        self.cut_off()
        await self._until_none(deadline_s + CUT_S)
        core.composed.close()
        self._stocks.close()
        self._links.close()
        await core.dialer.stop()
        core.hedges.stop()
        core.deadlines.stop()
        return cut

    def cut_off(self) -> None:
        """Close every client connection now."""
        self._listener.close()
        for client in list(self.core.clients):
            client.abort()

    def slice_changed(self, member: Slice, event: str, reason: str, *more: Any) -> None:
        """
        Close pooled connections to a slice that is out of service, moved or gone.

        A Triton that was told to stop resets new connections, which a check finds, and serves the
        old ones until the last of HTTP is closed: kept for later, ours would make it wait for long.
        What hangs is another matter: its connections may be all that is left to it.
        """
        record = member.health
        if (
            event == "removed"
            or (event == "order" and member.order is Order.DISABLED)
            or (event == "health" and record.health is DOWN and not record.hung)
        ):
            self._stocks.close_slice(member)
            self._links.close_slice(member)
        elif event == "changed":  # its weight maybe: that is no reason to send anybody elsewhere
            self._stocks.close_moved(member)
            self._links.close_moved(member)

    def _configure_queues(self, config: Config) -> None:
        settings, share = config.queue.values(), self._share
        length, size = -(-settings.length // share), -(-settings.bytes // share)
        self._queues.configure(replace(settings, length=length, bytes=size))

    @property
    def connections(self) -> int:
        """Open connections of clients, those included that have sent nothing yet."""
        return (
            len(self.core.clients)
            + len(self._listener.sniffing)
            + len(self._listener.shaking_hands)
        )

    async def _linger(self, until_s: float) -> None:
        while self.connections and self._clock() < until_s:
            for client in list(self.core.clients):
                client.retire()
            await asyncio.sleep(TICK_S)

    async def _until_none(self, deadline_s: float) -> None:
        # A look now and then, once in a process's life, costs less than a callback a connection.
        while self.connections and self._clock() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(TICK_S)


def _log_quarantine(event: str, suspect: Suspect, seconds: float) -> None:
    what: dict[str, Any] = {"pool": suspect.key[:KEY_CHARS_MAX], "body_bytes": suspect.length}
    if event == "quarantined":
        reason = "slices broke off at it, one after the other"
        log.warning("request.quarantined", seconds=seconds, reason=reason, **what)
    else:
        log.info("request.released", reason="a slice has answered it", **what)


def divided(limits: Limits, share: int) -> Limits:
    """Return the bounds of one of `share` data planes, so that together they keep `limits`."""
    if share == 1:
        return limits
    return replace(limits, **{name: -(-getattr(limits, name) // share) for name in _TOGETHER})
