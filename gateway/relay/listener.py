"""Listening sockets: a connection's first bytes decide which protocol it speaks."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from contract.slice_spec import Endpoint
from gateway.relay.core import RelayCore

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 section 3.4. No HTTP/1.1 request can begin so: there is no method PRI."""
BACKLOG: Final = 4096
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name such as localhost may have an address of a kind that this machine does not have."""


class Sniffer(asyncio.Protocol):
    """Reads until the protocol is known, then hands the connection over."""

    __slots__ = ("_data", "_listener", "_transport", "deadline_s")

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._data = b""
        self._transport: asyncio.Transport
        self.deadline_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self._transport = transport
        core = self._listener.core
        if len(core.clients) + len(self._listener.sniffing) >= core.limits.connections:
            core.counters.limit("connections")
            transport.abort()
            return
        self._listener.sniffing.add(self)
        core.deadlines.add(self)
        self.deadline_s = core.deadlines.after(core.timeouts.idle_s)

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        if HTTP2_PREFACE.startswith(data[: len(HTTP2_PREFACE)]):
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
        self._transport.set_protocol(protocol)
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
        reuse_port: Several processes may listen on the same port and share its connections.
    """

    def __init__(
        self,
        core: RelayCore,
        http1: Callable[[], asyncio.Protocol],
        http2: Callable[[], asyncio.Protocol],
        reuse_port: bool = False,
    ) -> None:
        self.core = core
        self.http1 = http1
        self.http2 = http2
        self.sniffing: set[Sniffer] = set()
        self._reuse_port = reuse_port
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self, endpoints: Sequence[Endpoint]) -> None:
        """
        Listen on every endpoint.

        Raises:
            OSError: One of them cannot be had; its message says which and why. None is kept.
        """
        for endpoint in endpoints:
            try:
                for sock in self._bind(endpoint):
                    server = await self.core.loop.create_server(
                        lambda: Sniffer(self), sock=sock, backlog=BACKLOG
                    )
                    self._servers.append(server)
            except OSError as error:
                self.close()
                raise OSError(error.errno, _why(endpoint, error)) from error

    def close(self) -> None:
        """Accept no more; connections that have sent nothing yet are closed."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for sniffer in list(self.sniffing):
            sniffer.abort()

    def _bind(self, endpoint: Endpoint) -> list[socket.socket]:
        """Return a bound socket for each address that the endpoint's host has here."""
        bound: list[socket.socket] = []
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                bound.append(self._bind_one(socket.socket(family, kind, protocol), address))
            except OSError as error:
                failure = error
                if error.errno not in _NOT_HERE:
                    break
        if failure is not None and (not bound or failure.errno not in _NOT_HERE):
            for sock in bound:
                sock.close()
            raise failure
        return bound

    def _bind_one(self, sock: socket.socket, address: object) -> socket.socket:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if sock.family == socket.AF_INET6:
                # `[::]` takes IPv4 as well, as its users expect; any other address is itself.
                alone = cast(tuple[str, int], address)[0] != "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
            sock.bind(address)  # type: ignore[arg-type]
        except OSError:
            sock.close()
            raise
        return sock


def _why(endpoint: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {endpoint}: another program does; see `ss -ltnp`"
    if error.errno == errno.EACCES:
        return f"cannot listen on {endpoint}: ports below 1024 need a privilege"
    return f"cannot listen on {endpoint}: {error.strerror or error}"
