"""
A system to break: real Tritons behind forwarders that can be made to fail, gateways in front of
them, steady load from every kind of client, and the bars that hold whatever happens.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.support.asking import Client, Where
from tests.support.forwarder import Forwarder
from tests.support.gateway import Gateway
from tests.support.load import Failure, Load, every_kind
from tests.support.tritons import RealTriton
from tests.support.waiting import wait_until

MODEL: Final = "moody"
SLICES: Final = 3
LONG_S: Final = float(os.environ.get("CHAOS_SECONDS", "120"))
SHORT_S: Final = 3.0
HEALTH: Final = {"interval": "500ms", "timeout": "300ms", "fast_interval": "200ms"}
DETECTION_S: Final = 0.55 + 3 * (0.3 + 0.1) + 0.1
"""For a hung slice: interval + jitter, `fall` checks with their pauses, and a tick; see HEALTH."""
SLACK_S: Final = 1.0
"""What a machine of two cores adds to any latency, beside what the metronome finds."""
STALLS: Final = 4
"""Programs that a request passes through one after the other, each of which may be kept waiting."""
BEAT_S: Final = 0.01
REMARKABLE_S: Final = 0.5
"""Of answers that took longer it is reported what the gateway did meanwhile, and in the second before."""
RSS_GROWTH_MAX: Final = 24 * 1024 * 1024
FDS_GROWTH_MAX: Final = 8

LENGTHS: Final = [
    pytest.param(SHORT_S, id="short"),
    pytest.param(
        LONG_S, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(LONG_S * 2 + 240)]
    ),
]
LONG: Final = LENGTHS[1:]
WORKERS: Final = pytest.mark.parametrize(
    ("workers", "seconds"),
    [
        pytest.param(1, SHORT_S, id="short-1"),
        pytest.param(1, LONG_S, id="long-1", marks=LONG[0].marks),
        pytest.param(2, LONG_S, id="long-2", marks=LONG[0].marks),
    ],
)


class ChaosSlice:
    """One Triton, and the network to it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._mood = folder / f"{name}.mood"
        repository = Path(__file__).parent / "models"
        self.triton = RealTriton(name, folder, [repository], [MODEL], {"MOOD": str(self._mood)})
        self.http = Forwarder(self.triton.spec.http)
        self.grpc = Forwarder(self.triton.spec.grpc)

    @property
    def entry(self) -> dict[str, Any]:
        """The slice in a gateway's configuration, behind its forwarders."""
        return {"name": self.name, "http": str(self.http.endpoint), "grpc": str(self.grpc.endpoint)}

    @property
    def direct(self) -> dict[str, Any]:
        """The same without forwarders: who kills a Triton kills its sockets."""
        spec = self.triton.spec
        return {"name": self.name, "http": str(spec.http), "grpc": str(spec.grpc)}

    def mood(self, mood: str) -> None:
        """`fail`, or seconds that each inference takes; empty for none."""
        self._mood.write_text(mood)

    def each(self, action: Callable[[Forwarder], None]) -> None:
        """Do something to both forwarders."""
        action(self.http)
        action(self.grpc)

    def well(self) -> None:
        """Make good whatever was done to it."""
        self.mood("")
        self.each(lambda one: one.truncate(False))
        self.each(Forwarder.thaw)
        if self.triton.is_running:
            self.triton.signal(signal.SIGCONT)
        else:
            self.triton.start()

    def close(self) -> None:
        self.each(Forwarder.close)
        self.triton.kill()


class Chaos:
    """
    The slices, and whatever gateways a test starts.

    Attributes:
        slices: All well when a test begins.
    """

    def __init__(self, folder: Path, slices: Sequence[ChaosSlice]) -> None:
        self.slices = slices
        self.folder = folder
        self._gateways: list[Gateway] = []

    def start(self, entries: Sequence[dict[str, Any]], **config: Any) -> Gateway:
        """Start a gateway and wait until it serves."""
        folder = self.folder / f"gateway{len(self._gateways)}"
        folder.mkdir()
        gateway = Gateway(folder, entries, **{"health": HEALTH, **config})
        self._gateways.append(gateway)
        gateway.wait_ready()
        return gateway

    @property
    def direct(self) -> list[dict[str, Any]]:
        return [each.direct for each in self.slices]

    @property
    def forwarded(self) -> list[dict[str, Any]]:
        return [each.entry for each in self.slices]

    def end(self) -> None:
        for gateway in self._gateways:
            gateway.end()
        for each in self.slices:
            each.well()


class Metronome:
    """
    Finds out how long this machine keeps a program waiting that wants to run.

    Attributes:
        stall_s: The longest so far.
    """

    def __init__(self) -> None:
        self.stall_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stop.wait(BEAT_S):
            now_s = time.monotonic()
            self.stall_s = max(self.stall_s, now_s - last_s - BEAT_S)
            last_s = now_s


class Trial:
    """
    One gateway under load, and what came of it.

    Attributes:
        load: From every kind of client, unless others are given.
        flat: The gateway is the same in the end, and so its memory and descriptors are compared.
    """

    def __init__(
        self,
        gateway: Gateway,
        seconds: float,
        clients: Sequence[Client] | None = None,
        where: Where | None = None,
        messages: int = 1,
    ) -> None:
        self.gateway = gateway
        self.flat = True
        found = clients or every_kind(where or gateway.address, messages, MODEL)
        self.load = Load(found, pause_s=0.02)
        self._metronome = Metronome()
        self._seconds = seconds
        self._end_s = 0.0
        self._before: tuple[int, int] = (0, 0)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Run the load until the block ends; it has settled when the block begins."""
        with self.load:
            for _ in range(3):
                self.load.go_on()
            self._before = self._usage()
            self._end_s = time.monotonic() + self._seconds
            self._metronome.start()
            yield self.load
            self.load.go_on(60)
            self._metronome.stop()

    def turns(self) -> Iterator[int]:
        """Yield 0, 1, … until the time is over; once at least."""
        turn = 0
        while not turn or time.monotonic() < self._end_s:
            yield turn
            turn += 1

    def settle(self) -> None:
        """Wait until all slices take work, and every client has been answered since."""
        wait_until(self.gateway.is_ready, "all slices are ready", 60)
        self.load.go_on(60)

    def verify(
        self,
        within_s: float = SLACK_S,
        forgiven: Callable[[Failure], bool] = lambda failure: False,
        forgiven_max: int = 0,
    ) -> None:
        """
        Hold the bars: nothing failed, nothing took longer, nothing was left behind.

        Args:
            within_s: Of the slowest answer.
            forgiven: Failures that this scenario cannot but have.
            forgiven_max: At most so many of them.
        """
        load, gateway = self.load, self.gateway
        wait_until(self._at_rest, f"counters are at zero: {self._counts()}", 20)
        stall_s = self._metronome.stall_s
        failures = [each for each in load.failures if not forgiven(each)]
        rss, fds = self._usage()
        report = {
            "answers": len(load.answers),
            "slowest_s": [f"{each.took_s:.3f} {each.kind}" for each in load.slowest(4)],
            "stall_s": round(stall_s, 3),
            "forgiven": len(load.failures) - len(failures),
            "failures": len(failures),
            "rss_mib": [round(each / 2**20, 1) for each in (self._before[0], rss)],
            "fds": [self._before[1], fds],
            "replays": gateway.metrics()["replays_total"],
        }
        worst = load.slowest()[0]
        if worst.took_s > REMARKABLE_S:
            report["meanwhile"] = gateway.logged_between(worst.began_s - 1.0, worst.ended_s)[-20:]
        print(json.dumps(report))  # noqa: T201 - for whoever runs pytest with -rP
        assert not failures, "\n".join(map(str, failures[:20]))
        assert len(load.failures) <= forgiven_max, report
        assert load.slowest()[0].took_s < within_s + STALLS * stall_s, report
        if self.flat:
            assert rss - self._before[0] < RSS_GROWTH_MAX, report
            assert fds - self._before[1] < FDS_GROWTH_MAX, report

    # --- inside -----------------------------------------------------------------------------

    def _counts(self) -> dict[str, float]:
        """What has to be zero when nobody asks anything."""
        names = ("slice_in_flight", "slice_abandoned", "connections")
        return {
            name: value
            for name, value in self.gateway.metrics().items()
            if name.partition("{")[0] in names and value
        }

    def _at_rest(self) -> bool:
        return not self._counts()

    def _usage(self) -> tuple[int, int]:
        """Return (resident bytes, file descriptors) of all the gateway's processes."""
        rss = fds = 0
        for pid in self.gateway.pids():
            try:
                process = psutil.Process(pid)
                rss += process.memory_info().rss
                fds += process.num_fds()
            except psutil.NoSuchProcess:
                pass  # it has ended since
        return rss, fds
