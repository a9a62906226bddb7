"""
The gateway's data plane as a program of its own, so that its memory and descriptors can be counted.

`python -m tests.support.data_plane JSON` runs Listener and both relays, as the application joins
them, in front of slices that the test plays. It prints its port, then answers every line on its
standard input with its present state, both as JSON, and ends with its input.
"""

import asyncio
import gc
import json
import resource
import socket
import sys
from typing import Any, cast

import uvloop

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import LeastLoad
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.limits import Limits, Timeouts
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream as HttpClient
from gateway.relay.http1.stock import Stocks
from gateway.relay.http2.downstream import Downstream as GrpcClient
from gateway.relay.http2.links import Links
from gateway.relay.listener import Listener

HOST = "127.0.0.1"


class DataPlane:
    """Both relays behind one listener, and a registry in which every slice is up."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.errors: list[str] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        self.registry = SliceRegistry(LeastLoad, Thresholds(), loop.time)
        self.registry.replace(
            [
                SliceSpec(f"s{at}", Endpoint(HOST, http), Endpoint(HOST, grpc))
                for at, (http, grpc) in enumerate(wanted["slices"])
            ]
        )
        for member in self.registry.slices.values():
            self.registry.record(member, CheckResult(True, "test", models={"m": ("1",)}))
        self.core = RelayCore(
            loop,
            self.registry,
            Counters(),
            Limits(**wanted["limits"]),
            Timeouts(**wanted["timeouts"]),
            lambda member: None,
        )
        self.stocks = Stocks(self.core, self.core.slabs)
        self.links = Links(self.core)
        self.listener = Listener(
            self.core,
            http1=lambda: cast("asyncio.Protocol", HttpClient(self.stocks.shared)),
            http2=lambda: cast("asyncio.Protocol", GrpcClient(self.core, self.links)),
        )

    async def start(self) -> int:
        """Listen, and return the port."""
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        self.core.deadlines.start()
        await self.listener.start([Endpoint(HOST, port)])
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        return port

    def state(self) -> dict[str, Any]:
        """Return what a test may want to know."""
        core, slices = self.core, self.registry.slices.values()
        return {
            "clients": len(core.clients),
            "sniffing": len(self.listener.sniffing),
            "in_flight": sum(member.in_flight for member in slices),
            "failures": sum(member.failures for member in slices),
            "buffered_bytes": core.buffered_bytes,
            "slab_bytes": core.slabs.held_bytes + self.stocks.shared.answer_slabs.held_bytes,
            "faults": core.counters.faults,
            "limits": core.counters.limits,
            "errors": self.errors,
        }


def tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main(wanted: dict[str, Any]) -> None:
    plane = DataPlane(wanted)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    tell({"port": await plane.start()})
    while await commands.readline():
        tell(plane.state())


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(json.loads(sys.argv[1])))
