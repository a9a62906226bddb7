"""TLS on the clients' port: the same two protocols, chosen by ALPN or by the first bytes."""

import asyncio
import gc
import logging
import random
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint
from gateway.limits import MIB, Limits, Timeouts
from gateway.relay.http1.downstream import Downstream
from gateway.relay.listener import HTTP2_PREFACE, Listener
from gateway.relay.slabs import SlabReader
from gateway.tls import ALPN_DATA, LiveContext, TlsFiles, client_context, read
from tests.gateway.relay.http1.sockets import Relay, digest, echo, infer, read_message, run, until
from tests.gateway.relay.test_listener import Recorder, free_port
from tests.support.certificates import Authority


class Door:
    """
    A relay that speaks TLS.

    Attributes:
        http2: What became of connections that speak HTTP/2; their relay is tested elsewhere.
    """

    def __init__(self, relay: Relay, authority: Authority, **more: Path) -> None:
        self.relay = relay
        self.authority = authority
        self.http2: list[Recorder] = []
        pair = authority.server()
        self.tls = LiveContext.of(read(TlsFiles(pair.cert, pair.key, **more), ALPN_DATA))
        self.port = free_port()
        self.listener = Listener(
            relay.core, lambda: Downstream(relay.stocks.shared), self._http2, self.tls
        )

    def _http2(self) -> Recorder:
        self.http2.append(Recorder())
        return self.http2[-1]

    async def connect(
        self, *alpn: str, client: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = client or client_context(self.authority.pem, None, None)
        if alpn:
            client.set_alpn_protocols(list(alpn))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=client, limit=4 * MIB
        )
        self.relay.writers.add(writer)
        return reader, writer


@asynccontextmanager
async def tls_door(
    folder: Path, limits: Limits | None = None, timeouts: Timeouts | None = None
) -> AsyncIterator[Door]:
    async with Relay(echo, echo, limits=limits) as relay:
        if timeouts is not None:
            relay.core.timeouts = timeouts
        door = Door(relay, Authority(folder))
        await door.listener.start([Endpoint("127.0.0.1", door.port)])
        yield door
        door.listener.close()


def test_bodies_of_every_size_come_back_whole(tmp_path, caplog):
    """Large ones are received into slabs, by a protocol that takes over in mid-connection."""
    used = 0

    async def scenario():
        nonlocal used
        received = SlabReader.buffer_updated

        def counted(self, nbytes):
            nonlocal used
            used += 1
            received(self, nbytes)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlabReader, "buffer_updated", counted)
            async with tls_door(tmp_path) as door:
                await asyncio.gather(*(one_client(door, seed) for seed in range(4)))
                await door.relay.at_rest()

    async def one_client(door: Door, seed: int):
        dice = random.Random(seed)
        reader, writer = await door.connect(*(["http/1.1"] if seed % 2 else []))
        for size in [1, 3_000_000, 602_112, 5, 70_000, dice.randrange(2_000_000)]:
            body = dice.randbytes(size)
            writer.write(infer(body))
            await writer.drain()
            _, back = await read_message(reader)
            assert digest(back) == digest(body)
        writer.close()
        await writer.wait_closed()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(scenario())
    assert used > 10, "the slabs were not used"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("offered", "sent", "spoken"),
    [
        (["h2"], HTTP2_PREFACE, "h2"),
        (["h2", "http/1.1"], b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", "http/1.1"),
        (["http/1.1"], b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", "http/1.1"),
        ([], HTTP2_PREFACE, "h2"),
        ([], b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", "http/1.1"),
        (["h2"], b"GET / HTTP/1.1\r\n\r\n", "h2"),
        (["http/1.1"], HTTP2_PREFACE, "http/1.1"),
    ],
)
def test_alpn_chooses_the_protocol_and_without_it_the_first_bytes_do(
    tmp_path, offered, sent, spoken
):
    async def scenario():
        async with tls_door(tmp_path) as door:
            _, writer = await door.connect(*offered)
            agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert agreed == (offered[-1] if offered else None)
            writer.write(sent)
            if spoken == "h2":
                await until(lambda: door.http2 and door.http2[0].data == sent)
            else:
                await until(lambda: door.relay.core.clients or door.relay.core.counters.closed)
                assert not door.http2
            writer.transport.abort()

    run(scenario())


def test_an_early_refusal_reaches_a_client_that_is_still_sending(tmp_path, caplog):
    """TLS cannot close its half only, so the rest is read and dropped."""

    async def scenario():
        async with tls_door(tmp_path, Limits(body_bytes=1000)) as door:
            reader, writer = await door.connect()
            body = bytes(200_000)
            writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            head, _ = await read_message(reader)
            assert head.startswith(b"HTTP/1.1 413 ")
            writer.close()
            await until(lambda: not door.relay.core.clients)

    run(scenario())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_plain_text_and_noise_on_a_tls_port_are_closed_and_leave_nothing(tmp_path):
    async def scenario():
        async with tls_door(tmp_path) as door:
            for noise in (
                b"GET / HTTP/1.1\r\n\r\n",
                HTTP2_PREFACE,
                b"\x16\x03\x01\xff\xff",
                b"\0" * 99,
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
                writer.write(noise)
                if noise.startswith(b"\x16"):
                    writer.write_eof()
                try:
                    await reader.read()
                except ConnectionError:
                    pass
                writer.close()
            await until(lambda: not door.listener.shaking_hands)
            assert not door.listener.sniffing
            assert not door.relay.core.clients

    run(scenario())


def test_who_does_not_shake_hands_in_time_is_closed(tmp_path):
    async def scenario():
        async with tls_door(tmp_path, timeouts=Timeouts(handshake_s=0.2)) as door:
            loop = asyncio.get_running_loop()
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            began_s = loop.time()
            assert await reader.read() == b""
            assert 0.1 < loop.time() - began_s < 5
            writer.close()
            await until(lambda: not door.listener.shaking_hands)

    run(scenario())


def test_connections_that_shake_hands_count_towards_the_limit(tmp_path):
    async def scenario():
        async with tls_door(tmp_path, Limits(connections=3)) as door:
            silent = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(3)]
            await until(lambda: len(door.listener.shaking_hands) == 3)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await door.connect()
            assert door.relay.core.counters.limits == {"connections": 1}
            for _, writer in silent:
                writer.transport.abort()
            await until(lambda: not door.listener.shaking_hands)
            _, writer = await door.connect()
            writer.close()

    run(scenario())


def test_a_new_certificate_is_for_new_connections_and_closes_none(tmp_path):
    async def scenario():
        async with tls_door(tmp_path) as door:
            reader, writer = await door.connect()
            other = Authority(tmp_path, "other")
            pair = other.server()
            door.tls.loaded = read(TlsFiles(pair.cert, pair.key), ALPN_DATA)
            writer.write(infer(b"still here"))
            assert (await read_message(reader))[1] == b"still here"
            with pytest.raises(ssl.SSLCertVerificationError):
                await door.connect()
            _, second = await door.connect(client=client_context(other.pem, None, None))
            second.close()
            writer.close()

    run(scenario())


def test_with_a_client_authority_only_its_clients_are_served(tmp_path):
    async def scenario():
        async with Relay(echo) as relay:
            authority = Authority(tmp_path)
            door = Door(relay, authority, client_ca=authority.pem)
            await door.listener.start([Endpoint("127.0.0.1", door.port)])
            stranger = client_context(authority.pem, None, None)
            stranger.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells him only when he reads
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await door.connect(client=stranger)
            pair = authority.client("a client")
            reader, writer = await door.connect(
                client=client_context(authority.pem, pair.cert, pair.key)
            )
            writer.write(infer(b"known"))
            assert (await read_message(reader))[1] == b"known"
            writer.close()
            door.listener.close()

    run(scenario())


def test_a_plain_port_asks_for_no_tls(tmp_path):
    async def scenario():
        async with Relay(echo) as relay:
            listener = Listener(relay.core, Recorder, Recorder)
            port = free_port()
            await listener.start([Endpoint("127.0.0.1", port)])
            with socket.create_connection(("127.0.0.1", port)):
                await until(lambda: listener.sniffing)
            assert not listener.shaking_hands
            listener.close()

    run(scenario())


@pytest.mark.parametrize("size", [4, 602_112])
def test_a_lost_connection_is_freed_at_once(tmp_path, size):
    """It holds 50 KiB, and the garbage collector comes seldom."""

    async def scenario():
        async with tls_door(tmp_path) as door:
            reader, writer = await door.connect()
            writer.write(infer(bytes(size)))
            await read_message(reader)
            [client] = door.relay.core.clients
            freed = []
            weakref.finalize(client.transport.get_extra_info("ssl_object"), freed.append, True)
            del client
            gc.disable()
            try:
                writer.transport.abort()
                await until(lambda: freed)
            finally:
                gc.enable()

    run(scenario())
