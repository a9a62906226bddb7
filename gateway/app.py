"""
The composition root: builds everything, and starts and stops it in order.

Start: event loop, control plane (first discovery), data plane, listen. Stop, on SIGTERM or SIGINT:
readiness fails, listening ends, clients are told to go elsewhere, what is in flight finishes within
`timeouts.drain`, the rest is cut off, exit 0. A second signal skips the waiting.
"""

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import Callable
from typing import cast

import structlog
import uvloop

from contract import logs
from gateway.balance.policies import POLICIES
from gateway.config import Config
from gateway.control.plane import ControlPlane
from gateway.fleet.health import Order
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.relay.core import RelayCore
from gateway.relay.http1.downstream import Downstream as HttpDownstream
from gateway.relay.http1.stock import Stocks
from gateway.relay.http2.downstream import Downstream as GrpcDownstream
from gateway.relay.http2.links import Links
from gateway.relay.listener import Listener

log = structlog.get_logger()

EXIT_OK = 0
EXIT_CANNOT_START = 2


def run(config: Config) -> int:
    """Run the gateway until it is told to stop; return the exit code."""
    logs.configure(config.log.level, config.log.format)
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor, and shells often allow 1,024: take what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(config: Config) -> int:
    gateway = Gateway(config)
    try:
        await gateway.start()
    except OSError as error:
        print(f"mig-gateway: {error}", file=sys.stderr)  # noqa: T201 - the command's own answer
        await gateway.stop(at_once=True)
        return EXIT_CANNOT_START
    stopping, at_once = _watch_signals()
    await stopping.wait()
    drain = asyncio.ensure_future(gateway.stop(at_once=False))
    hurry = asyncio.ensure_future(at_once.wait())
    await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        gateway.cut_off()
    await drain
    hurry.cancel()
    return EXIT_OK


def _watch_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return (set by the first SIGTERM or SIGINT, set by the second)."""
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return first, second


class Gateway:
    """Both planes, joined."""

    def __init__(self, config: Config) -> None:
        loop = asyncio.get_running_loop()
        self._config = config
        self._clock: Callable[[], float] = loop.time
        self._counters = Counters()
        self.registry = SliceRegistry(
            POLICIES[config.balancing.policy], config.health.thresholds(), self._clock
        )
        self._core = RelayCore(
            loop,
            self.registry,
            self._counters,
            config.limits.values(),
            config.timeouts.values(),
            self._check_soon,
        )
        self._stocks = Stocks(self._core, self._core.slabs)
        self._links = Links(self._core)
        self._listener = Listener(
            self._core,
            http1=lambda: HttpDownstream(self._stocks.shared),
            http2=lambda: cast("asyncio.Protocol", GrpcDownstream(self._core, self._links)),
        )
        self._control = ControlPlane(
            config, self.registry, self._counters, lambda: self._core.draining
        )
        self.registry.listeners.append(self)

    async def start(self) -> None:
        """Start both planes. Raises OSError when a port cannot be had."""
        self._core.deadlines.start()
        await self._control.start()
        await self._listener.start(self._config.listen)
        # What lives now lives for good: the collector need not look at it again, and what
        # requests make is freed by its reference count, so it may look seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        log.info(
            "gateway.started",
            listen=[str(endpoint) for endpoint in self._config.listen],
            admin=str(self._config.admin.listen),
            slices=len(self.registry.slices),
            policy=self._config.balancing.policy,
        )

    async def stop(self, *, at_once: bool) -> None:
        """Drain within `timeouts.drain`, or cut everything off at once, then end both planes."""
        core = self._core
        core.draining = True
        log.info("gateway.stopping", clients=len(core.clients), in_flight=core.in_flight)
        self._listener.close()
        for client in list(core.clients):
            client.drain()
        limit_s = 0.0 if at_once else self._config.timeouts.values().drain_s
        deadline_s = self._clock() + limit_s
        while core.clients and self._clock() < deadline_s:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)
        cut = len(core.clients)
        self.cut_off()
        while core.clients and self._clock() < deadline_s + 1.0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self._stocks.close()
        self._links.close()
        await core.dialer.stop()
        core.deadlines.stop()
        await self._control.stop()
        log.info("gateway.stopped", cut_off=cut)

    def cut_off(self) -> None:
        """Close every client connection now."""
        for client in list(self._core.clients):
            client.abort()

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """Close pooled connections to a slice that is out of service, moved or gone."""
        if event in ("removed", "changed") or (event == "order" and member.order is Order.DISABLED):
            self._stocks.close_slice(member)
            self._links.close_slice(member)

    def _check_soon(self, member: Slice) -> None:
        self._control.check_soon(member)
