"""Where the admin API listens: a port, with TLS or without, or a socket in the file system."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from contract.slice_spec import Endpoint
from gateway.config_security import UnixSocket
from gateway.tls import LiveContext

BACKLOG: Final = 128
HANDSHAKE_S: Final = 5.0
CONNECTIONS_MAX: Final = 256
"""More than all readers of events and pages together; who comes then is closed at once. Beyond this machine
anybody may connect before a token is asked for, and descriptors are what clients need as well."""
HEAD_S: Final = 10.0
"""From connecting to the end of the first request's head, as on the clients' port."""
_OWNER_ONLY: Final = 0o600


class AdminSite(web.BaseSite):
    """
    aiohttp's sites know neither limits for handshakes, connections and first heads, nor who may open a
    socket's file.

    Args:
        turned_away: Called for each connection that is closed by these limits.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        listen: Endpoint | UnixSocket,
        tls: LiveContext | None,
        taken_over: socket.socket | None = None,
        turned_away: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._listen = listen
        self._taken_over = taken_over
        self._inode: int | None = None
        self._turned_away = turned_away
        self._unheard: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    @property
    def name(self) -> str:
        return str(self._listen)

    async def start(self) -> None:
        """
        Listen.

        Raises:
            OSError: The address cannot be had; the message says which and why.
        """
        await super().start()
        loop = asyncio.get_running_loop()
        assert self._runner.server is not None, "the runner is set up before its sites start"
        handshake_s = HANDSHAKE_S if self._ssl_context else None
        try:
            if isinstance(self._listen, UnixSocket):
                sock = self._taken_over or bind_unix(self._listen.path)
                self._inode = self._listen.path.stat().st_ino
                self._server = await loop.create_unix_server(
                    self._connect, sock=sock, backlog=self._backlog, ssl=self._ssl_context,
                    ssl_handshake_timeout=handshake_s,
                )  # fmt: skip
            else:
                at: dict[str, Any] = {"host": self._listen.host, "port": self._listen.port}
                if self._taken_over is not None:
                    at = {"sock": self._taken_over}
                self._server = await loop.create_server(
                    self._connect, **at, backlog=self._backlog,
                    ssl=self._ssl_context, ssl_handshake_timeout=handshake_s,
                )  # fmt: skip
        except OSError as error:
            number = error.errno or errno.EADDRNOTAVAIL
            raise OSError(
                number, f"admin.listen {self._listen} cannot be had: {os.strerror(number)}"
            ) from error

    @property
    def numbers(self) -> list[int]:
        """The file descriptors it listens on, for a process that takes them over."""
        server = cast("asyncio.Server | None", self._server)
        return [sock.fileno() for sock in server.sockets] if server is not None else []

    def heard(self, connection: asyncio.BaseProtocol) -> None:
        """A request has come on `connection`."""
        timer = self._unheard.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _connect(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None, "it listens no more"
        # Those that shake hands are among the unheard only.
        if max(len(server.connections), len(self._unheard)) >= CONNECTIONS_MAX:
            self._turned_away()
            return _Closed()
        connection = server()
        timer = asyncio.get_running_loop().call_later(HEAD_S, self._give_up, connection)
        self._unheard[connection] = timer
        return connection

    def _give_up(self, connection: RequestHandler) -> None:
        del self._unheard[connection]
        if connection.transport is not None:  # else it has gone by itself
            self._turned_away()
            connection.transport.abort()

    def hand_over(self) -> None:
        """Accept no more: another process does, on the same socket."""
        self._inode = None
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Stop listening, and take the socket's file away if it is still this site's."""
        for timer in self._unheard.values():
            timer.cancel()
        self._unheard.clear()
        await super().stop()
        if isinstance(self._listen, UnixSocket) and self._inode is not None:
            path = self._listen.path
            try:
                if path.stat().st_ino == self._inode:
                    path.unlink()
            except FileNotFoundError:
                pass
            self._inode = None


class _Closed(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def bind_unix(path: Path) -> socket.socket:
    """
    Return a socket bound to `path`, which only this user may open.

    A socket's file that nobody listens on any more is replaced; whatever else is there, is not.

    Raises:
        OSError: Somebody listens there, it is another kind of file, or it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise OSError(errno.EEXIST, "not a socket")
            _refuse_living(path)
            path.unlink()
        # From its first moment on the file has these rights: chmod would come too late.
        before = os.umask(0o777 & ~_OWNER_ONLY)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
    except OSError:
        sock.close()
        raise
    return sock


def _refuse_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise OSError(errno.EADDRINUSE, "somebody listens there")
