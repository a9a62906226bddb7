"""
What the relays cost per request in Python alone: no sockets, no system calls, no other process.

    python -m bench.micro [http2|http1] [--profile]

Clients and slices are byte strings, transports only count. Figures move with the machine; compare two
commits on one machine in one sitting, and take the median of the rounds.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

from hpack.hpack import Encoder

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http2 import frames
from gateway.relay.http2.downstream import Downstream
from gateway.relay.http2.links import Links
from gateway.relay.http2.upstream import Upstream

ROUNDS = 7
CALLS = 20_000
SLICES = 7


class CountingTransport:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.bytes += sum(map(len, pieces))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class DirectDialer:
    """Connects at once to a slice that has said what it takes."""

    def dial(self, endpoint: Endpoint, protocol: Any, on_failure: object) -> None:
        protocol.connection_made(CountingTransport())
        protocol.data_received(
            frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 4 << 20})
            + frames.window_update(0, 1 << 30)
        )


class Turn:
    """Stands in for the flusher: the benchmark says when a turn ends."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def add(self, connection: Any) -> None:
        self.waiting.append(connection)

    def end(self) -> None:
        waiting, self.waiting = self.waiting, []
        for connection in waiting:
            connection.flush()


def make_core(loop: asyncio.AbstractEventLoop) -> RelayCore:
    registry = SliceRegistry(LeastLoad, Thresholds(), loop.time)
    registry.replace(
        [
            SliceSpec(f"s{i}", Endpoint("127.0.0.1", 8000 + 10 * i), Endpoint("127.0.0.1", 8001 + 10 * i))
            for i in range(SLICES)
        ]
    )
    for member in registry.slices.values():
        registry.record(member, CheckResult(True, "bench", models={"m": ("1",)}))
    return RelayCore(loop, registry, Counters(), Limits(), Timeouts(), lambda member: None)


def http2_case(core: RelayCore) -> Callable[[int], None]:
    """Return a function that relays n unary calls of 512 B, four frames in and three back."""
    core.dialer = DirectDialer()  # type: ignore[assignment]
    core.flusher = turn = Turn()  # type: ignore[assignment]
    links = Links(core)
    client = Downstream(core, links)
    client.connection_made(CountingTransport())  # type: ignore[arg-type]
    encoder, slice_encoders = Encoder(), {}
    head = [
        (":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1:50050"),
        (":path", "/inference.GRPCInferenceService/ModelInfer"),
        ("content-type", "application/grpc"), ("te", "trailers"),
        ("user-agent", "grpc-python/1.85.1 grpc-c/50.0.0 (linux; chttp2)"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
    ]  # fmt: skip
    message = b"\x0a\x01m\x3a\xf4\x03" + b"y" * 500
    body = b"\0" + len(message).to_bytes(4, "big") + message
    client.data_received(
        frames.PREFACE
        + frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 1 << 30})
        + frames.window_update(0, 1 << 30)
    )
    answer = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-accept-encoding", "identity, deflate, gzip")]  # fmt: skip
    trailers = [("grpc-status", "0")]
    next_id = 1

    def answer_all() -> None:
        for member_links in links._slices.values():
            for connection in member_links.connections:
                respond(connection)

    def respond(connection: Upstream) -> None:
        blocks = slice_encoders.setdefault(connection, Encoder())
        for stream_id in list(connection.streams):
            connection.data_received(
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, blocks.encode(answer))
                + frames.frame(frames.DATA, 0, stream_id, b"\0\0\0\0\x64" + b"x" * 100)
                + frames.frame(
                    frames.HEADERS,
                    frames.END_HEADERS | frames.END_STREAM,
                    stream_id,
                    blocks.encode(trailers),
                )
            )

    for _ in range(2 * SLICES):  # every table is warm
        client.data_received(
            frames.frame(frames.HEADERS, frames.END_HEADERS, next_id, encoder.encode(head))
            + frames.frame(frames.DATA, frames.END_STREAM, next_id, body)
        )
        next_id += 2
        turn.end()
        answer_all()
        turn.end()
    block = encoder.encode(head)
    warm = next(iter(slice_encoders.values()))
    answer_block, trailers_block = warm.encode(answer), warm.encode(trailers)

    def run(calls: int) -> None:
        nonlocal next_id
        for _ in range(calls):
            client.data_received(
                frames.frame(frames.HEADERS, frames.END_HEADERS, next_id, block)
                + frames.frame(frames.DATA, frames.END_STREAM, next_id, body)
            )
            turn.end()
            target = client.streams[next_id].target  # type: ignore[attr-defined]
            connection = links._slices[target].connections[0]
            stream_id = next(iter(connection.streams))
            connection.data_received(
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, answer_block)
                + frames.frame(frames.DATA, 0, stream_id, b"\0\0\0\0\x64" + b"x" * 100)
                + frames.frame(
                    frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, trailers_block
                )
            )
            turn.end()
            next_id += 2

    return run


CASES = {"http2": http2_case}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("case", nargs="?", choices=[*CASES])
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    for name in [options.case] if options.case else [*CASES]:
        run = CASES[name](make_core(loop))
        run(2000)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(run, CALLS)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            continue
        rounds = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            run(CALLS)
            rounds.append((time.process_time() - begun) / CALLS * 1e6)
        print(f"{name}: {statistics.median(rounds):.2f} us a request (best {min(rounds):.2f})")
    loop.close()


if __name__ == "__main__":
    main()
