"""Starts the proxies, drives them in turn, and collects what they cost."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import load, usage
from bench.cells import Cell
from bench.processes import BenchError, Programs, Running, answers_http, wait_for
from bench.proxies import Launch, Proxy, Setup
from bench.standins import READY_PATH
from contract.slice_spec import SliceSpec

DIRECT: Final = "direct"
"""The name under which latencies without any proxy are kept."""


@dataclass(frozen=True, slots=True)
class Cores:
    """
    Which cores run what, so that a proxy never shares its core with what loads it.

    Attributes:
        proxy: The cores of the proxies, one at a time busy; empty when nothing is pinned.
        rest: Load generators and stand-in slices.
    """

    proxy: tuple[int, ...]
    rest: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> "Cores":
        usable = sorted(os.sched_getaffinity(0))
        return cls((usable[0],), tuple(usable[1:])) if len(usable) > 1 else cls((), ())


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy that runs."""

    name: str
    launch: Launch
    running: Running

    def port(self, cell: Cell) -> int | None:
        """Return where it takes the cell's requests; None when it takes no part."""
        return self.launch.http_port if cell.protocol == "http" else self.launch.grpc_port


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One proxy in one cell in one round.

    Attributes:
        load: What the client saw.
        cpu_us: CPU time of all the proxy's processes per answered request.
        busy: CPU time of the proxy per second; 1.0 is a whole core.
        peak_rss_bytes: Most memory during the sample (since the start where the kernel does
            not let us set the peak back).
    """

    load: load.LoadResult
    cpu_us: float
    busy: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds of each step: load to warm up, load that counts, one-at-a-time latency."""

    warm_up_s: float
    load_s: float
    latency_s: float


@dataclass(slots=True)
class Measurements:
    """All samples, by cell name, then proxy name, one entry a round."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    latencies_us: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def start_proxies(
    programs: Programs, proxies: Iterable[Proxy], slices: Sequence[SliceSpec], cores: Cores
) -> list[Target]:
    """Start each proxy on the proxies' core and wait until it answers from a slice."""
    targets = []
    for proxy in proxies:
        folder = programs.folder / proxy.name
        folder.mkdir()
        folder.chmod(0o777)  # nginx, started by root, works as another user
        launch = proxy.prepare(Setup(folder, slices, programs.take_port))
        running = programs.start(
            proxy.name, launch.command, cores.proxy, cwd=folder, env=launch.env
        )
        port = launch.http_port
        wait_for(lambda port=port: answers_http(port, READY_PATH), running, "answering")  # type: ignore[misc]
        targets.append(Target(proxy.name, launch, running))
    return targets


def check_targets(targets: Iterable[Target], cells: Iterable[Cell], folder: Path) -> None:
    """
    Send one request of each gRPC cell through each proxy and look at its trailers.

    HTTP needs none of this: wrk sees the status of every answer.

    Raises:
        BenchError: An answer is wrong; the message says whose.
    """
    for cell in cells:
        if cell.protocol != "grpc":
            continue
        for target in targets:
            port = target.port(cell)
            if port is None:
                continue
            try:
                load.check_grpc_answer(cell, port, folder)
            except BenchError as error:
                raise BenchError(f"{target.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    Drives all targets through all cells.

    Attributes:
        targets: The proxies.
        cells: What to send.
        direct: A stand-in slice, for the latency without a proxy.
        cores: Where the load generators run.
        durations: How long each step takes.
        folder: For scripts and logs.
        progress: Told what is measured now.
    """

    targets: Sequence[Target]
    cells: Sequence[Cell]
    direct: SliceSpec
    cores: Cores
    durations: Durations
    folder: Path
    progress: Callable[[str], None]

    def run(self, rounds: int) -> Measurements:
        """
        Measure `rounds` times.

        Proxies take turns within a cell, and the first turn moves on each round, so that what
        else the machine does at the time falls on all of them.
        """
        found = Measurements()
        for number in range(rounds):
            turn = number % len(self.targets)
            order = [*self.targets[turn:], *self.targets[:turn]]
            for cell in self.cells:
                where = f"round {number + 1}/{rounds}, {cell.title}"
                by_proxy = found.samples.setdefault(cell.name, {})
                for target in order:
                    if (port := target.port(cell)) is not None:
                        self.progress(f"{where}: {target.name}")
                        by_proxy.setdefault(target.name, []).append(
                            self._sample(target, cell, port)
                        )
                if self.durations.latency_s:
                    self.progress(f"{where}: one at a time")
                    self._latencies(order, cell, found.latencies_us.setdefault(cell.name, {}))
        return found

    def _sample(self, target: Target, cell: Cell, port: int) -> Sample:
        pid = target.running.process.pid
        if self.durations.warm_up_s:
            self._drive(cell, port, self.durations.warm_up_s)
        usage.reset_peak_rss(pid)
        cpu_before_s, before_s = usage.cpu_seconds(pid), time.monotonic()
        result = self._drive(cell, port, self.durations.load_s)
        cpu_s, wall_s = usage.cpu_seconds(pid) - cpu_before_s, time.monotonic() - before_s
        target.running.check_alive()
        return Sample(
            load=result,
            cpu_us=cpu_s * 1e6 / result.requests,
            busy=cpu_s / wall_s,
            peak_rss_bytes=usage.peak_rss_bytes(pid),
        )

    def _latencies(self, order: Sequence[Target], cell: Cell, into: dict[str, list[float]]) -> None:
        direct = self.direct.http if cell.protocol == "http" else self.direct.grpc
        ports = [(DIRECT, direct.port), *((one.name, one.port(cell)) for one in order)]
        for name, port in ports:
            if port is None:
                continue
            result = self._drive(cell, port, self.durations.latency_s, single=True)
            into.setdefault(name, []).append(result.p50_us)

    def _drive(
        self, cell: Cell, port: int, duration_s: float, single: bool = False
    ) -> load.LoadResult:
        return load.drive(cell, port, duration_s, self.folder, self.cores.rest, single)
