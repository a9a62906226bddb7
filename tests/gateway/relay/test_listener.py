"""The first bytes decide the protocol, wherever they are cut."""

import asyncio
import socket

import pytest

from contract.slice_spec import Endpoint
from gateway.limits import Limits
from gateway.relay.listener import HTTP2_PREFACE, Listener, Sniffer
from tests.gateway.relay.http1.stage import Stage
from tests.support.wire import FakeTransport


class Recorder(asyncio.Protocol):
    """A protocol that remembers what it was given."""

    def __init__(self) -> None:
        self.data = b""
        self.made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made += 1

    def data_received(self, data: bytes) -> None:
        self.data += data


class Door:
    """A listener whose protocols are recorders."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.stage = Stage(limits=limits)
        self.http1: list[Recorder] = []
        self.http2: list[Recorder] = []
        self.listener = Listener(
            self.stage.core, lambda: self.make(self.http1), lambda: self.make(self.http2)
        )

    def make(self, made: list[Recorder]) -> Recorder:
        made.append(Recorder())
        return made[-1]

    def knock(self) -> FakeTransport:
        sniffer = Sniffer(self.listener)
        transport = FakeTransport(self.stage.loop, sniffer)
        sniffer.connection_made(transport)
        return transport


@pytest.mark.parametrize("cut", range(1, len(HTTP2_PREFACE)))
def test_the_preface_is_known_in_any_two_pieces(cut):
    door = Door()
    client = door.knock()
    client.sends(HTTP2_PREFACE[:cut])
    assert not door.http2
    client.sends(HTTP2_PREFACE[cut:] + b"settings")
    assert [r.data for r in door.http2] == [HTTP2_PREFACE + b"settings"]
    assert not door.http1


@pytest.mark.parametrize("start", [b"G", b"PO", b"PRI ", b"PRI * HTTP/1.1\r\n", b"\x16\x03\x01"])
def test_anything_else_is_http_1(start):
    door = Door()
    client = door.knock()
    for byte in start:
        client.sends(bytes([byte]))
    client.sends(b"x")
    assert not door.http2
    assert [r.data for r in door.http1] == [start + b"x"]
    assert door.http1[0].made == 1


def test_a_connection_beyond_the_limit_is_closed_and_counted():
    door = Door(Limits(connections=2))
    doors = [door.knock() for _ in range(3)]
    door.stage.run()
    assert [client.closed for client in doors] == [False, False, True]
    assert door.stage.counters.limits == {"connections": 1}


@pytest.mark.parametrize(
    ("allowed", "connections"), [(8, 6), (300, 225), (4096, 3072), (20_000, 16_384)]
)
def test_clients_leave_descriptors_for_what_is_done_for_them(monkeypatch, allowed, connections):
    """Else a thousand that say nothing keep the slices from being asked."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (allowed, allowed))
    door = Door()
    assert door.listener.connections_max == connections
    if connections < 10:
        doors = [door.knock() for _ in range(8)]
        door.stage.run()
        assert [client.closed for client in doors] == [False] * 6 + [True] * 2
        assert door.stage.counters.limits == {"connections": 2}


def test_who_does_not_finish_its_first_bytes_is_closed():
    door = Door()
    client = door.knock()
    client.sends(b"PRI * HT")
    door.stage.pass_time(10.3)
    assert client.closed
    assert not door.listener.sniffing


def test_who_says_nothing_is_closed_as_idle():
    door = Door()
    client = door.knock()
    door.stage.pass_time(74)
    assert not client.closed
    door.stage.pass_time(2)
    assert client.closed


def test_closing_closes_who_has_said_nothing():
    door = Door()
    client = door.knock()
    door.listener.close()
    door.stage.run()
    assert client.closed


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def listener():
    door = Door()
    door.stage.core.loop = asyncio.get_running_loop()
    yield door.listener
    door.listener.close()


async def test_several_addresses_are_listened_on(listener):
    ports = [free_port(), free_port()]
    await listener.start([Endpoint("127.0.0.1", port) for port in ports])
    for port in ports:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()


async def test_a_taken_port_is_named(listener):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: another program does"):
            await listener.start([Endpoint("127.0.0.1", free_port()), Endpoint("127.0.0.1", port)])


async def test_an_address_that_is_not_ours_is_named(listener):
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:1234"):
        await listener.start([Endpoint("192.0.2.1", 1234)])
