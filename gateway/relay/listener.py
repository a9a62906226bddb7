"""
Listening sockets: a connection's first bytes decide which protocol it speaks.

Over TLS the client and we have agreed on one (ALPN), or else the first bytes decide there as well.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, cast
from weakref import WeakSet

from contract.slice_spec import Endpoint
from gateway.relay.core import RelayCore
from gateway.sockets import bind, close_all, descriptors_for_clients
from gateway.tls import LiveContext

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 section 3.4. No HTTP/1.1 request can begin so: there is no method PRI."""
ALPN_HTTP2: Final = "h2"
BACKLOG: Final = 4096
HANDSHAKE_S_MAX: Final = 86400.0
"""In place of no limit, which the event loop does not know."""


class ClientProtocol(Protocol):
    """What a relay makes for a client: an asyncio protocol by its methods."""

    def connection_made(self, transport: asyncio.BaseTransport, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...


class Sniffer(asyncio.Protocol):
    """Reads until the protocol is known, then hands the connection over."""

    __slots__ = ("__weakref__", "_agreed", "_data", "_listener", "_transport", "deadline_s")

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._data = b""
        self._agreed: str | None = None  # by ALPN
        self._transport: asyncio.Transport
        self.deadline_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self._transport = transport
        core = self._listener.core
        if self._listener.tls is not None:
            self._listener.shaking_hands.discard(self)
            self._agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if len(core.clients) + len(self._listener.sniffing) >= self._listener.connections_max:
            core.counters.limit("connections")
            transport.abort()
            return
        self._listener.sniffing.add(self)
        core.deadlines.add(self)
        self.deadline_s = core.deadlines.after(core.timeouts.idle_s)

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        if self._agreed is not None:
            agreed_on_2 = self._agreed == ALPN_HTTP2
            protocol = self._listener.http2() if agreed_on_2 else self._listener.http1()
        elif HTTP2_PREFACE.startswith(data[: len(HTTP2_PREFACE)]):
            if len(data) < len(HTTP2_PREFACE):
                if not self._data:
                    core = self._listener.core
                    self.deadline_s = core.deadlines.after(core.timeouts.head_s)
                self._data = data
                return
            protocol = self._listener.http2()
        else:
            protocol = self._listener.http1()
        self._gone()
        self._transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    def on_deadline(self, now_s: float) -> None:
        self.abort()

    def abort(self) -> None:
        """Close now."""
        self.deadline_s = 0.0
        self._transport.abort()

    def _gone(self) -> None:
        self._listener.sniffing.discard(self)
        self._listener.core.deadlines.discard(self)


class Listener:
    """
    Accepts clients.

    Args:
        http1: Makes the protocol for a client of HTTP/1.x.
        http2: Makes the protocol for a client of HTTP/2; it is given the preface as well.
        tls: Certificate and key, where TLS is spoken instead of plain text.

    Attributes:
        sniffing: Connections of which the protocol is not known yet.
        shaking_hands: Those on which TLS is not agreed yet; one that fails just vanishes from here.
    """

    def __init__(
        self,
        core: RelayCore,
        http1: Callable[[], ClientProtocol],
        http2: Callable[[], ClientProtocol],
        tls: LiveContext | None = None,
    ) -> None:
        self.core = core
        self.http1 = http1
        self.http2 = http2
        self.tls = tls
        self.sniffing: set[Sniffer] = set()
        self.shaking_hands: WeakSet[Sniffer] = WeakSet()
        if tls is not None:
            tls.admits = self._admits
        self._servers: dict[socket.socket, asyncio.AbstractServer] = {}
        self._own: list[socket.socket] = []
        self._descriptors = descriptors_for_clients()

    @property
    def connections_max(self) -> int:
        """As configured, or as many as leave descriptors for what has to be done for them."""
        return min(self.core.limits.connections, self._descriptors)

    async def start(self, endpoints: Sequence[Endpoint]) -> None:
        """
        Bind every endpoint and accept there.

        Raises:
            OSError: One of them cannot be had; its message says which and why. None is kept.
        """
        try:
            for endpoint in endpoints:
                for shares in bind(endpoint):
                    self._own += shares
            await self.accept(self._own)
        except OSError:
            self.close()
            raise

    async def accept(self, sockets: Collection[socket.socket]) -> None:
        """
        Accept from these bound sockets, and no longer from any other.

        They stay their owner's: whoever holds one as well may accept from it before, during and
        after that, and no connection in its queue is lost.
        """
        for sock in [sock for sock in self._servers if sock not in sockets]:
            self._servers.pop(sock).close()
        handshake_s = self.core.timeouts.handshake_s or HANDSHAKE_S_MAX
        for sock in sockets:
            if sock not in self._servers:
                self._servers[sock] = await self.core.loop.create_server(
                    self._accepted, sock=sock.dup(), backlog=BACKLOG, ssl=self.tls,
                    ssl_handshake_timeout=handshake_s if self.tls else None,
                )  # fmt: skip

    def close(self) -> None:
        """Accept no more; connections that have sent nothing yet are closed."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        close_all(self._own)
        self._own.clear()
        for sniffer in list(self.sniffing):
            sniffer.abort()

    def _accepted(self) -> Sniffer:
        sniffer = Sniffer(self)
        if self.tls is not None:
            self.shaking_hands.add(sniffer)
        return sniffer

    def _admits(self) -> bool:
        """Say whether a connection that has just been accepted may go on to shake hands."""
        core = self.core
        known = len(core.clients) + len(self.sniffing) + len(self.shaking_hands)
        if known <= self.connections_max:
            return True
        core.counters.limit("connections")
        return False
