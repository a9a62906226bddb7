"""
What the relays cost per request in Python alone: no sockets, no system calls, no other process.

    python -m bench.micro [http1|http2] [--limited] [--profile]

Clients and slices are byte strings, transports only count. Figures move with the machine: compare
two commits on one machine in one sitting, and take the median of the rounds.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import time
from typing import Any, Final

from hpack.hpack import Encoder

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.lanes import ModelLimit
from gateway.fleet.registry import SliceRegistry
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream as HttpClient
from gateway.relay.http1.stock import Stocks
from gateway.relay.http2 import frames
from gateway.relay.http2.downstream import Downstream as GrpcClient
from gateway.relay.http2.links import Links

ROUNDS: Final = 7
REQUESTS: Final = 20_000
SLICES: Final = 7
MESSAGE: Final = b"\x0a\x01m\x3a\xf4\x03" + b"y" * 500  # a ModelInferRequest for model m


class CountingTransport(asyncio.Transport):
    """Takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def write(self, data: Any) -> None:
        self.bytes += len(data)

    def writelines(self, pieces: Any) -> None:
        self.bytes += sum(map(len, pieces))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class DirectDialer:
    """Connects at once, and keeps what it has connected."""

    def __init__(self, first_bytes: bytes) -> None:
        self._first_bytes = first_bytes
        self.made: list[Any] = []

    def dial(self, endpoint: Endpoint, protocol: Any, on_failure: object) -> None:
        protocol.connection_made(CountingTransport())
        if self._first_bytes:
            protocol.data_received(self._first_bytes)
        self.made.append(protocol)


class Turn:
    """Stands in for the flusher: the benchmark says when a turn ends."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    def add(self, connection: Any) -> None:
        self._waiting.append(connection)

    def end(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()


def make_core(loop: asyncio.AbstractEventLoop, limited: bool = False) -> RelayCore:
    """Return what both relays stand on; `limited`: slices have limits, and are below them."""
    registry = SliceRegistry(LeastLoad, Thresholds(), loop.time)
    here = "127.0.0.1"
    registry.replace(
        [
            SliceSpec(f"s{i}", Endpoint(here, 8000 + 10 * i), Endpoint(here, 8001 + 10 * i))
            for i in range(SLICES)
        ]
    )
    for member in registry.slices.values():
        registry.record(member, CheckResult(True, "bench", models={"m": ("1",)}))
    if limited:
        registry.queues.follow("m", ModelLimit(64, batches=True))
    return RelayCore(loop, registry, Counters(), Limits(), Timeouts(), lambda member: None)


class Http1Case:
    """A request of 512 B and its answer, each in one read."""

    def __init__(self, core: RelayCore) -> None:
        self._dialer = DirectDialer(b"")
        core.dialer = self._dialer  # type: ignore[assignment]
        self._client: Any = HttpClient(Stocks(core, core.slabs).shared)
        self._client.connection_made(CountingTransport())
        body = b"y" * 512
        self._request = (
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:50050\r\n"
            b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: 100\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        ) + body
        self._answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        ) + b"x" * 100

    def run(self, requests: int) -> None:
        client, request, answer = self._client, self._request, self._answer
        for _ in range(requests):
            client.data_received(bytes(request))
            client.upstream.data_received(answer)


class Http2Case:
    """A unary call of 512 B: two frames in, three back."""

    def __init__(self, core: RelayCore) -> None:
        self._dialer = DirectDialer(
            frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 4 << 20})
            + frames.window_update(0, 1 << 30)
        )
        core.dialer = self._dialer  # type: ignore[assignment]
        core.flusher = self._turn = Turn()  # type: ignore[assignment]
        self._client: Any = GrpcClient(core, Links(core))
        self._client.connection_made(CountingTransport())
        self._client.data_received(
            frames.PREFACE
            + frames.settings({frames.SETTING_INITIAL_WINDOW_SIZE: 1 << 30})
            + frames.window_update(0, 1 << 30)
        )
        self._next_id = 1
        encoder, self._answer_encoders = Encoder(), dict[Any, Encoder]()
        for _ in range(2 * SLICES):  # every table is warm
            self._call(encoder.encode(_HEAD), None)
        self._block = encoder.encode(_HEAD)
        warm = next(iter(self._answer_encoders.values()))
        self._blocks = warm.encode(_ANSWER), warm.encode(_TRAILERS)

    def run(self, requests: int) -> None:
        for _ in range(requests):
            self._call(self._block, self._blocks)

    def _call(self, block: bytes, answer: tuple[bytes, bytes] | None) -> None:
        client, stream_id = self._client, self._next_id
        self._next_id += 2
        client.data_received(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)
            + frames.frame(frames.DATA, frames.END_STREAM, stream_id, _BODY)
        )
        self._turn.end()
        half = client.streams[stream_id].peer
        connection = half.connection
        if answer is None:
            encoder = self._answer_encoders.setdefault(connection, Encoder())
            answer = encoder.encode(_ANSWER), encoder.encode(_TRAILERS)
        ends = frames.END_HEADERS | frames.END_STREAM
        connection.data_received(
            frames.frame(frames.HEADERS, frames.END_HEADERS, half.id, answer[0])
            + frames.frame(frames.DATA, 0, half.id, b"\0\0\0\0\x64" + b"x" * 100)
            + frames.frame(frames.HEADERS, ends, half.id, answer[1])
        )
        self._turn.end()


_BODY: Final = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
_HEAD: Final = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "127.0.0.1:50050"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-python/1.85.1 grpc-c/50.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
]
_ANSWER: Final = [
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
]
_TRAILERS: Final = [("grpc-status", "0")]

CASES: Final[dict[str, type[Http1Case] | type[Http2Case]]] = {
    "http1": Http1Case,
    "http2": Http2Case,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Python cost of one request in each relay.")
    parser.add_argument("case", nargs="?", choices=[*CASES])
    parser.add_argument("--limited", action="store_true", help="slices have limits")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    for name in [options.case] if options.case else [*CASES]:
        case = CASES[name](make_core(loop, options.limited))
        case.run(2000)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(case.run, REQUESTS)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            continue
        rounds = []
        for _ in range(ROUNDS):
            begun_s = time.process_time()
            case.run(REQUESTS)
            rounds.append((time.process_time() - begun_s) / REQUESTS * 1e6)
        print(f"{name}: {statistics.median(rounds):.2f} us a request (best {min(rounds):.2f})")
    loop.close()


if __name__ == "__main__":
    main()
