"""
Putting a call to a slice, over HTTP or gRPC, and saying what came of it.

These are control calls: seldom, small, and never on the path of an inference.
"""

import asyncio
import errno
import json
import re
from collections.abc import Container
from typing import Final, Protocol

import aiohttp
import grpc
import grpc.aio
from yarl import URL

from contract.slice_spec import Endpoint, SliceSpec
from gateway.triton.calls import Call, GrpcCall, HttpCall, Outcome, Reply, Silence

_TARGET: Final = re.compile(r"/[!-~]*")
_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # A server that is back is found at once: core would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)
# What grpc-core says when the connection failed, in contrast to what a server says with the same
# status. It gives no other sign. Source: grpc-core's transport and its subchannel.
_NEVER_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed")
_LOST: Final = (
    "Socket closed", "Connection reset", "Broken pipe", "recvmsg", "sendmsg", "Endpoint closing",
    "Transport closed", "Stream removed", "GOAWAY", "Cancelling all calls", "RST_STREAM",
    "keepalive", "Connection closed",
)  # fmt: skip


class Asker(Protocol):
    """Puts one call to one slice."""

    async def ask(self, spec: SliceSpec, call: Call, timeout_s: float) -> Outcome:
        """Return what came of it; never raises for what the slice does."""

    async def close(self) -> None:
        """Close all connections."""


class SliceAsker:
    """An Asker over aiohttp and grpc.aio; connections are pooled."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, spec: SliceSpec, call: Call, timeout_s: float) -> Outcome:
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(call, HttpCall):
                    return await self._ask_http(spec, call)
                return await self._ask_grpc(spec, call)
        except TimeoutError:
            return Silence(spec.name, f"did not answer within {timeout_s:g} s", sent=True)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def forget(self, endpoint: Endpoint) -> None:
        """Close the gRPC connection: the server is gone, or another has come."""
        channel = self._channels.pop(endpoint, None)
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def keep_only(self, endpoints: Container[Endpoint]) -> None:
        """Close the gRPC connections to all others."""
        for endpoint in [endpoint for endpoint in self._channels if endpoint not in endpoints]:
            self.forget(endpoint)

    # --- HTTP -------------------------------------------------------------------------------

    async def _ask_http(self, spec: SliceSpec, call: HttpCall) -> Outcome:
        if not _TARGET.fullmatch(call.target):
            # A model's name may hold anything; in a request line it would make another request.
            return Reply(spec.name, False, 400, f"{call.target!r} cannot be asked for over HTTP")
        try:
            async with self._opened().request(
                call.method,
                # Triton does not decode paths: what the client wrote is what the slice reads.
                URL(f"http://{spec.http}{call.target}", encoded=True),
                data=call.body or None,
                headers=[(name.decode("latin-1"), value.decode("latin-1"))
                         for name, value in call.headers],
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                allow_redirects=False,
            ) as answer:  # fmt: skip
                body = await answer.read()
                kind = answer.headers.get("Content-Type", "").encode("latin-1")
        except aiohttp.ClientConnectorError as error:
            return Silence(spec.name, _plain(error.os_error), sent=False)
        except (OSError, aiohttp.ClientError, ValueError) as error:
            return Silence(spec.name, _plain(error), sent=True)
        ok = answer.status == 200
        said = "" if ok else _error_text(body)
        return Reply(spec.name, ok, answer.status, said, body, kind)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Each call on a connection of its own: an idle one would hold up the drain of a
            # Triton that is told to stop, and one that broke while idle looks like a lost answer.
            connector = aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=2**20,
            )
        return self._session

    # --- gRPC -------------------------------------------------------------------------------

    async def _ask_grpc(self, spec: SliceSpec, call: GrpcCall) -> Outcome:
        outcome = await self._try_grpc(spec, call)
        if isinstance(outcome, Silence) and not outcome.sent:
            # The channel may be waiting before it tries again, though the server is back.
            self.forget(spec.grpc)
            outcome = await self._try_grpc(spec, call)
        return outcome

    async def _try_grpc(self, spec: SliceSpec, call: GrpcCall) -> Outcome:
        channel = self._channels.get(spec.grpc)
        if channel is None:
            channel = self._channels[spec.grpc] = grpc.aio.insecure_channel(
                str(spec.grpc), options=_CHANNEL_OPTIONS
            )
        method = channel.unary_unary(call.path.decode("latin-1"))
        metadata = [(name.decode("latin-1"), _metadata_value(name, value))
                    for name, value in call.metadata]  # fmt: skip
        try:
            message = await method(call.message, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return _failed_call(spec, error)
        except grpc.aio.UsageError as error:  # the channel was closed meanwhile
            return Silence(spec.name, str(error), sent=True)
        return Reply(spec.name, True, 0, body=message)


def _failed_call(spec: SliceSpec, error: grpc.aio.AioRpcError) -> Outcome:
    said = error.details() or ""
    code: int = error.code().value[0]
    if code == grpc.StatusCode.UNAVAILABLE.value[0]:
        if any(sign in said for sign in _NEVER_SENT):
            closed = "Socket closed" in said
            why = "closed the connection" if closed else f"cannot be reached: {said}"
            return Silence(spec.name, why, sent=False)
        if any(sign in said for sign in _LOST):
            return Silence(spec.name, f"broke the connection off: {said}", sent=True)
    return Reply(spec.name, False, code, said)


def _metadata_value(name: bytes, value: bytes) -> str | bytes:
    return value if name.endswith(b"-bin") else value.decode("latin-1")


def _plain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return "refused the connection"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "broke the connection off"
    return str(error) or type(error).__name__


def _error_text(body: bytes) -> str:
    """Return what Triton's `{"error": "…"}` says; the start of the body when it is none."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return body[:200].decode("utf-8", "replace")
    return str(said)
