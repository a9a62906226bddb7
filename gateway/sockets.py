"""Listening sockets: bound here, listened on by whoever accepts; several processes may share one."""

import errno
import resource
import socket
from typing import Final, cast

from contract.slice_spec import Endpoint

OWN_LACKS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""Our own lack of descriptors, memory or ports, which says nothing about whom we call."""
OWN_DESCRIPTORS: Final = 1024
"""That clients may not take, for slices, checks and the admin API; of few a quarter."""
LATE_S: Final = 0.1
"""A time-out that comes later than this says that our own event loop stood still: its timers come
before its sockets, so the answer may be waiting to be read."""
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name such as localhost may have an address of a kind that this machine does not have."""


def descriptors_for_clients() -> int:
    """Return how many connections clients may have so that the gateway can still work for them."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return allowed - min(allowed // 4, OWN_DESCRIPTORS)


def bind(endpoint: Endpoint, shares: int = 1) -> list[list[socket.socket]]:
    """
    Return bound sockets: for each address that the endpoint's host has here, `shares` of them.

    With several shares the kernel spreads connections over those that are listened on
    (SO_REUSEPORT). The first is bound alone and opened to the others after that, so that a port
    somebody else has is refused and not shared with him.

    Raises:
        OSError: It cannot be had; the message says which address and why. None is kept.
    """
    found: list[list[socket.socket]] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            found.append(_shared(family, kind, protocol, address, shares))
        except OSError as error:
            failure = error
            if error.errno not in _NOT_HERE:
                break
    if failure is not None and (not found or failure.errno not in _NOT_HERE):
        for sockets in found:
            close_all(sockets)
        raise OSError(failure.errno, _why(endpoint, failure)) from failure
    return found


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _shared(
    family: int, kind: int, protocol: int, address: object, shares: int
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for share in range(shares):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if sock.family == socket.AF_INET6:
                # `[::]` takes IPv4 as well, as its users expect; any other address is itself.
                alone = cast(tuple[str, int], address)[0] != "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
            sock.bind(address)  # type: ignore[arg-type]
            if shares > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        close_all(sockets)
        raise
    return sockets


def _why(endpoint: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {endpoint}: another program does; see `ss -ltnp`"
    if error.errno == errno.EACCES:
        return f"cannot listen on {endpoint}: ports below 1024 need a privilege"
    return f"cannot listen on {endpoint}: {error.strerror or error}"
