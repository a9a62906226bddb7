"""Whether the servers' ports are free, asked before anything is made."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from contract.slice_spec import Endpoint, SliceSpec
from launcher.errors import StartError


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint, and what for: `HTTP of s0`."""

    purpose: str
    endpoint: Endpoint


def check_free(members: Iterable[SliceSpec]) -> None:
    """
    Make sure that every port of every server can be listened on.

    Raises:
        StartError: One is taken, and by whom as far as can be seen; or the host is not ours.
    """
    taken = [wanted for member in members for wanted in _wanted(member) if not _is_free(wanted)]
    if not taken:
        return
    first = taken[0]
    more = len(taken) - 1
    others = f", and {more} more port{'s' if more > 1 else ''} too" if more else ""
    raise StartError(
        f"port {first.endpoint.port} ({first.purpose}) is taken{_by_whom(first.endpoint.port)}"
        f"{others}; free it, or choose other ports with --port-base"
    )


def _wanted(member: SliceSpec) -> list[Wanted]:
    wanted = [
        Wanted(f"HTTP of {member.name}", member.http),
        Wanted(f"gRPC of {member.name}", member.grpc),
    ]
    if member.metrics:
        wanted.append(Wanted(f"metrics of {member.name}", member.metrics))
    return wanted


def _is_free(wanted: Wanted) -> bool:
    host, port = wanted.endpoint.host, wanted.endpoint.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(f"host {host!r} cannot be listened on: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as probe:
        # As Triton does: a port is free although connections of its last server linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StartError(
                f"{wanted.endpoint} ({wanted.purpose}) cannot be listened on: {error.strerror}"
            ) from error
    return True


def _by_whom(port: int) -> str:
    """Return ` by NAME (pid N)`; empty where the holder is not ours to see."""
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr.port == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
