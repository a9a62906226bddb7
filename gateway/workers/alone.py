"""Alone: the front of a gateway that is a single process."""

import os
from collections.abc import Callable

from gateway.config import Config
from gateway.control.processes import LEAVING, SERVING, Worker
from gateway.fleet.queue_report import QueueReport, report
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.relay.composed import Composer
from gateway.tls import LiveContext
from gateway.workers.data_plane import DataPlane
from gateway.workers.doors import Doors


class Alone:
    """A data plane in the main process itself: nothing to tell it, nothing to add up."""

    def __init__(
        self,
        config: Config,
        registry: SliceRegistry,
        counters: Counters,
        check_soon: Callable[[Slice], None],
        tls: LiveContext | None,
    ) -> None:
        self.draining = False
        self._doors = Doors({})
        self._registry = registry
        self._plane = DataPlane(config, registry, counters, check_soon, tls)
        self.reconfigure = self._plane.reconfigure
        self.cut_off = self._plane.cut_off

    def use_composer(self, composer: Composer) -> None:
        self._plane.core.composer = composer

    async def start(self, doors: Doors) -> None:
        self._doors = doors
        await self._plane.start()
        await self._plane.accept(doors.sockets(range(doors.count)))

    def leave(self) -> None:
        self.draining = True
        self._plane.leave()

    async def stop(self, limit_s: float, linger_s: float = 0.0) -> int:
        self.draining = True
        # Whoever comes now is refused: in the queue of a socket that is still open he would wait.
        return await self._plane.stop(limit_s, linger_s, self._doors.close)

    async def sync(self) -> None:
        """Everything is here already."""

    def queues(self) -> QueueReport:
        return report(self._registry.queues)

    def workers(self) -> list[Worker]:
        state = LEAVING if self.draining else SERVING
        in_flight = sum(member.in_flight for member in self._registry.slices.values())
        return [Worker(0, os.getpid(), state, self._plane.connections, in_flight, 0)]
