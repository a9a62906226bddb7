"""Opening connections to slices: the data plane's only await, once a connection."""

import asyncio
import contextlib
import ipaddress
import os
import socket
from typing import Protocol

from contract.slice_spec import Endpoint
from gateway.fleet.outcomes import CONNECT_FAILED, REJECTED
from gateway.sockets import LATE_S, OWN_LACKS


class OnFailure(Protocol):
    """What is called when a connection could not be opened."""

    def __call__(self, reason: str, refused: bool, outcome: int = CONNECT_FAILED, /) -> None:
        """
        Args:
            reason: For people.
            refused: Nobody listens there, so that no second try is needed to know.
            outcome: REJECTED where it is our own lack, which says nothing of the slice.
        """


def loopback_socket(host: str) -> socket.socket | None:
    """
    Return a TCP socket for a connection to this machine's loopback; None for any other host.

    Some machines are set to BBR, which paces what is sent by a timer. Between two processes of one
    machine that saves nobody's network, and each timer is an interrupt: 602 kB to a slice then cost
    a tenth more CPU time over HTTP and a quarter more over gRPC. Reno has no timer and is in every Linux. It must be chosen before the
    connection is made, since pacing, once begun, stays.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not address.is_loopback:
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with contextlib.suppress(OSError):  # forbidden here: the machine's choice does as well
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    return sock


class Dialer:
    """Opens TCP connections and keeps the tasks that do so."""

    __slots__ = ("_loop", "_tasks", "_timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s or None
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(
        self,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        on_failure: OnFailure,
    ) -> None:
        """
        Connect `protocol` to `endpoint`.

        Exactly one of two things follows: `protocol.connection_made()`, or `on_failure(…)`.
        """
        task = self._loop.create_task(self._dial(endpoint, protocol, on_failure), name="dial")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def configure(self, timeout_s: float) -> None:
        """Use another timeout for connections that are opened from now on; 0 for none."""
        self._timeout_s = timeout_s or None

    async def stop(self) -> None:
        """Give up what is still being opened."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _dial(
        self,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        on_failure: OnFailure,
    ) -> None:
        timeout_s, began_s = self._timeout_s, self._loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(endpoint, protocol)
        except TimeoutError:
            late_s = self._loop.time() - began_s - (timeout_s or 0.0)
            outcome = REJECTED if late_s > LATE_S else CONNECT_FAILED
            on_failure(f"{endpoint}: no connection within {timeout_s:g} s", False, outcome)
        except OSError as error:
            outcome = REJECTED if error.errno in OWN_LACKS else CONNECT_FAILED
            reason = os.strerror(error.errno) if error.errno else str(error)
            on_failure(f"{endpoint}: {reason}", isinstance(error, ConnectionError), outcome)
        except asyncio.CancelledError:
            on_failure(f"{endpoint}: the gateway is stopping", False, REJECTED)
            raise

    async def _connect(self, endpoint: Endpoint, protocol: asyncio.BaseProtocol) -> None:
        loop, host, port = self._loop, endpoint.host, endpoint.port
        sock = loopback_socket(host)
        if sock is None:
            await loop.create_connection(lambda: protocol, host, port)
            return
        try:
            await loop.sock_connect(sock, (host, port))
            await loop.create_connection(lambda: protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
