"""
Channel: messages between the main process and a worker, over a pair of sockets.

A message is JSON, and bytes behind it where it carries a body: 4 bytes with the length of both, 4
bytes with that of the JSON, the JSON, the body.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from gateway.limits import BODY_BYTES_CEILING

LENGTH_BYTES: Final = 4
HEAD_BYTES: Final = 2 * LENGTH_BYTES
MESSAGE_BYTES_MAX: Final = BODY_BYTES_CEILING + 64 * 1024 * 1024
"""The largest body there may be, and what belongs to it; the whole fleet is a few hundred KiB."""

Message = dict[str, Any]
"""Under `body` stand the bytes of a message that has any."""


class Channel(asyncio.Protocol):
    """
    One end. Both ends run the same program, so a message that cannot be read is a bug.

    Args:
        on_message: Told of each message, in order.
        on_closed: Told once that the other end has gone, or that `close` was called.
    """

    def __init__(
        self, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()

    @classmethod
    async def over(
        cls,
        sock: socket.socket,
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> "Channel":
        """Return a channel that owns `sock`."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: cls(on_message, on_closed), sock=sock
        )
        return channel

    def send(self, message: Message, body: bytes = b"") -> None:
        """Send a message; one to an end that has gone is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            text = json.dumps(message, separators=(",", ":")).encode()
            total = LENGTH_BYTES + len(text) + len(body)
            self._transport.write(
                total.to_bytes(LENGTH_BYTES, "big") + len(text).to_bytes(LENGTH_BYTES, "big") + text
            )
            if body:
                self._transport.write(body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own

    def data_received(self, data: bytes) -> None:
        buffer = self._data
        buffer += data
        while len(buffer) >= HEAD_BYTES:
            end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
            assert end <= MESSAGE_BYTES_MAX, f"a message of {end} bytes"
            if len(buffer) < end:
                return
            body_at = HEAD_BYTES + int.from_bytes(buffer[LENGTH_BYTES:HEAD_BYTES], "big")
            message = json.loads(bytes(buffer[HEAD_BYTES:body_at]))
            if body_at < end:
                message["body"] = bytes(buffer[body_at:end])
            del buffer[:end]
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_closed()
