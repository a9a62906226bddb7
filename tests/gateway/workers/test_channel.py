"""Messages between two processes: whole and in order, wherever they are cut."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.workers.channel import Channel


class End:
    """What one end of a channel was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.closed = asyncio.Event()
        self.enough = asyncio.Event()

    def on_message(self, message: Any) -> None:
        self.told.append(message)
        if message == {"last": True}:
            self.enough.set()


async def pair() -> tuple[Channel, End, Channel, End]:
    one, other = End(), End()
    sockets = socket.socketpair()
    channels = [
        await Channel.over(sock, end.on_message, end.closed.set)
        for sock, end in zip(sockets, (one, other), strict=True)
    ]
    return channels[0], one, channels[1], other


async def test_messages_of_any_size_arrive_in_order() -> None:
    near, _, far, end = await pair()
    sent = [{"n": n, "text": "x" * size} for n, size in enumerate((0, 1, 10, 1_000_000, 3))]
    for message in [*sent, {"last": True}]:
        near.send(message)
    await end.enough.wait()
    assert end.told == [*sent, {"last": True}]
    near.close()
    far.close()
    await end.closed.wait()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7])
def test_a_message_may_be_cut_anywhere(size: int) -> None:
    told: list[Any] = []
    channel = Channel(told.append, lambda: None)
    data = b""
    for text, body in ((b'{"a":1}', b""), (b"{}", b"bytes"), (b'{"b":[2]}', b"")):
        data += (4 + len(text) + len(body)).to_bytes(4, "big") + len(text).to_bytes(4, "big")
        data += text + body
    for at in range(0, len(data), size):
        channel.data_received(data[at : at + size])
    assert told == [{"a": 1}, {"body": b"bytes"}, {"b": [2]}]


async def test_bodies_are_bytes_of_their_own() -> None:
    near, _, far, end = await pair()
    near.send({"with": "body"}, bytes(range(256)) * 4096)
    near.send({"last": True})
    await end.enough.wait()
    assert end.told[0] == {"with": "body", "body": bytes(range(256)) * 4096}
    near.close()
    far.close()
    await end.closed.wait()


async def test_the_end_of_the_other_is_noticed_and_what_is_sent_then_is_dropped() -> None:
    near, end, far, other = await pair()
    far.close()
    await end.closed.wait()
    await other.closed.wait()
    near.send({"nobody": "hears"})


def test_an_impossible_length_is_loud() -> None:
    with pytest.raises(AssertionError, match="a message of"):
        Channel(lambda message: None, lambda: None).data_received(b"\xff" * 8)
