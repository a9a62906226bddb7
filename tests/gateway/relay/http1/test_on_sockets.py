"""What only real sockets show: partial writes, slabs under load, resets, lost slices."""

import asyncio
import random

import pytest

from contract.slice_spec import Endpoint
from gateway.limits import MIB, Limits
from gateway.relay.slabs import Slabs
from tests.gateway.relay.http1.sockets import Relay, digest, echo, infer, read_message, run, until


@pytest.mark.parametrize("slab_bytes_max", [64 * MIB, MIB], ids=["slabs", "copying"])
def test_bodies_of_all_sizes_come_back_whole(slab_bytes_max):
    """Many connections share the slabs, some slow: whoever reuses one too early corrupts bytes."""

    async def client(relay: Relay, seed: int) -> None:
        rng = random.Random(seed)
        reader, writer = await relay.connect()
        for _ in range(12):
            body = rng.randbytes(rng.choice([0, 10, 600, 40_000, 70_000, 602_112, 3_000_000]))
            writer.write(infer(body))
            if rng.random() < 0.3:
                await asyncio.sleep(0.01)  # not reading: the answer backs up
            head, answer = await read_message(reader)
            assert head.startswith(b"HTTP/1.1 200")
            assert digest(answer) == digest(body)
        writer.close()

    async def scenario() -> None:
        async with Relay(echo, echo) as relay:
            relay.stocks.shared.slabs = relay.slabs = Slabs(slab_bytes_max, MIB // 2)
            async with asyncio.TaskGroup() as group:
                for seed in range(8):
                    group.create_task(client(relay, seed))
            await relay.at_rest()
            assert relay.core.counters.faults == {}

    run(scenario())


def test_a_slow_client_does_not_make_the_gateway_hold_the_answer():
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        for _ in range(200):
            if writer.is_closing():
                return  # the client has gone, and with it our connection
            writer.write(bytes(MIB))
            await writer.drain()
            sent.append(MIB)

    sent: list[int] = []

    async def scenario() -> None:
        async with Relay(endless) as relay:
            _, writer = await relay.connect()
            writer.write(infer(b"x"))
            await until(lambda: sent)
            before = -1
            while before != len(sent):
                before = len(sent)
                await asyncio.sleep(0.2)
            assert sum(sent) < 100 * MIB
            assert relay.core.buffered_bytes < 2 * MIB
            writer.transport.abort()
            await relay.at_rest()

    run(scenario())


def test_an_early_answer_can_be_read_by_a_client_that_is_still_sending():
    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
        await writer.drain()

    async def scenario() -> None:
        async with Relay(too_large) as relay:
            reader, writer = await relay.connect()
            writer.write(infer(bytes(20 * MIB)))
            head, body = await read_message(reader)
            assert head.startswith(b"HTTP/1.1 413")
            assert body == b"no\n"
            assert await reader.read() == b""
            writer.close()
            await relay.at_rest()

    run(scenario())


def test_a_refusal_can_be_read_by_a_client_that_is_still_sending():
    async def scenario() -> None:
        async with Relay(echo, limits=Limits(body_bytes=1000)) as relay:
            reader, writer = await relay.connect()
            writer.write(infer(bytes(10 * MIB)))
            head, _ = await read_message(reader)
            assert head.startswith(b"HTTP/1.1 413")
            writer.close()

    run(scenario())


def test_no_request_fails_while_slices_come_and_go():
    """Slice 0 closes its connections, idle ones and busy ones, all the time."""

    async def unsteady(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(random.randrange(6)):
            _, body = await read_message(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()

    async def client(relay: Relay) -> None:
        reader, writer = await relay.connect()
        for n in range(150):
            body = b"%d" % n
            writer.write(infer(body))
            head, answer = await read_message(reader)
            assert head.startswith(b"HTTP/1.1 200"), head + answer
            assert answer == body
        writer.close()

    async def scenario() -> None:
        async with Relay(unsteady, echo, echo) as relay:
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(client(relay))
            await relay.at_rest()
            assert relay.core.counters.replays > 0
            assert relay.core.counters.faults == {}

    run(scenario())


def test_clients_and_slices_that_hang_up_anywhere_leave_nothing_behind():
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if random.random() < 0.2:
                writer.transport.abort()
                return
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0])
            body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            if random.random() < 0.2:
                writer.write(body[: random.randrange(length + 1)])
                writer.transport.abort()
                return
            writer.write(body)
            await writer.drain()

    async def client(relay: Relay, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15):
            reader, writer = await relay.connect()
            message = infer(rng.randbytes(rng.choice([5, 30_000, 300_000, 2_000_000])))
            writer.write(message[: rng.randrange(len(message))] if rng.random() < 0.5 else message)
            if rng.random() < 0.5:
                try:
                    async with asyncio.timeout(0.05):
                        await reader.readexactly(rng.randrange(1, 1_000_000))
                except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                    pass
            writer.transport.abort()

    async def scenario() -> None:
        async with Relay(rude, rude) as relay:
            async with asyncio.TaskGroup() as group:
                for seed in range(6):
                    group.create_task(client(relay, seed))
            await until(lambda: not relay.core.clients)
            await relay.at_rest()

    run(scenario())


def test_a_slice_whose_port_closes_is_taken_out_and_nothing_fails():
    async def scenario() -> None:
        async with Relay(echo, echo) as relay:
            relay.servers[0].close()
            reader, writer = await relay.connect()
            for n in range(20):
                writer.write(infer(b"%d" % n))
                head, answer = await read_message(reader)
                assert (head[:12], answer) == (b"HTTP/1.1 200", b"%d" % n)
            assert not relay.registry.slices["s0"].routable
            writer.close()
            await relay.at_rest()

    run(scenario())


def test_the_listener_hands_over_a_whole_connection():
    async def scenario() -> None:
        async with Relay(echo) as relay:
            # A free port of the kernel's choice, for the listener itself.
            probe = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
            port = probe.sockets[0].getsockname()[1]
            probe.close()
            await probe.wait_closed()
            await relay.listener.start([Endpoint("127.0.0.1", port)])
            reader, writer = await relay.connect(port)
            for _ in range(3):
                writer.write(infer(b"abc"))
                _, answer = await read_message(reader)
                assert answer == b"abc"
            relay.listener.close()
            writer.close()

    run(scenario())
