"""The gateway itself is reloaded, replaced and stopped under load; clients notice nothing."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import pytest

from contract import inventory
from contract.slice_spec import SliceSpec
from tests.e2e.chaos import LONG, WORKERS, Chaos, Trial
from tests.support.forwarder import Forwarder
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(150)]


@WORKERS
def test_reloads_fail_nothing_and_close_nothing(chaos: Chaos, seconds: float, workers: int) -> None:
    gateway = chaos.start(chaos.direct, workers=workers)
    trial = Trial(gateway, seconds, messages=5)
    policies = cycle(("round_robin", "least_load"))
    with trial.running():
        for turn in trial.turns():
            some = chaos.direct[turn % 2 :]
            gateway.config["slices"] = [entry | {"weight": 1 + turn % 3} for entry in some]
            gateway.config["balancing"] = {"policy": next(policies)}
            gateway.config["limits"] = {"streams": 100 + turn % 2}
            gateway.config["timeouts"] = {"connect": f"{500 + turn % 2}ms"}
            gateway.write()
            if turn % 2:
                before = len(gateway.logged("config.reloaded"))
                os.kill(gateway.main_pid, signal.SIGHUP)
                wait_until(lambda n=before: len(gateway.logged("config.reloaded")) > n, "reloaded")
            else:
                assert gateway.ask("POST", "/v1/reload")[0] == 200
            time.sleep(0.5)  # the rate is the scenario
        gateway.config["slices"] = chaos.direct
        gateway.write()
        assert gateway.ask("POST", "/v1/reload")[0] == 200
    trial.verify()


@pytest.mark.parametrize("seconds", LONG)
def test_changes_of_the_inventory_fail_nothing(chaos: Chaos, seconds: float) -> None:
    specs = [each.triton.spec for each in chaos.slices]

    def write(some: list[SliceSpec]) -> None:
        inventory.save(chaos.folder / "slices.json", some)

    write(specs)
    gateway = chaos.start([], inventory=str(chaos.folder / "slices.json"))
    wait_until(lambda: len(gateway.slices()) == len(specs) and gateway.is_ready(), "all are ready")
    trial = Trial(gateway, seconds, messages=5)
    with trial.running() as load:
        for turn in trial.turns():
            gone = turn % len(specs)
            write(specs[:gone] + specs[gone + 1 :])
            wait_until(lambda: len(gateway.slices()) == len(specs) - 1, "it is gone")
            load.go_on()
            write(specs)
            wait_until(lambda: len(gateway.slices()) == len(specs), "it is back")
            trial.settle()
    trial.verify()


def one_is_left(gateway: Gateway, workers: int) -> None:
    wait_until(lambda: len(gateway.pids()) == (1 if workers == 1 else 1 + workers), "one is left")


@WORKERS
def test_upgrades_in_place_fail_nothing(chaos: Chaos, seconds: float, workers: int) -> None:
    gateway = chaos.start(chaos.direct, workers=workers)
    trial = Trial(gateway, seconds, messages=5)
    with trial.running() as load:
        for _ in trial.turns():
            assert gateway.ask("POST", "/v1/upgrade")[0] == 200
            load.go_on()
    one_is_left(gateway, workers)
    trial.verify()


@pytest.mark.parametrize("workers", [1, 2])
def test_who_takes_over_has_found_the_slices_well_before(chaos: Chaos, workers: int) -> None:
    """Slices that are busy miss its first checks: the old gateway serves until they are known."""
    health = {"interval": "500ms", "timeout": "300ms", "down_interval": "300ms", "fall": 100}
    gateway = chaos.start(chaos.forwarded, workers=workers, health=health)
    old = gateway.main_pid
    missed = {("unknown", "down")}

    def all_missed() -> bool:
        lines = gateway.logged("slice.health_changed")
        return sum((line["before"], line["after"]) in missed for line in lines) == len(chaos.slices)

    trial = Trial(gateway, 0.0)
    with trial.running() as load:
        for one in chaos.slices:
            one.each(Forwarder.freeze)
        os.kill(old, signal.SIGUSR2)
        wait_until(all_missed, "the new one has found nobody well")
        for one in chaos.slices:
            one.each(Forwarder.thaw)
        wait_until(lambda: gateway.main_pid != old, "the new one answers")
        load.go_on()
    one_is_left(gateway, workers)
    trial.verify(within_s=30.0)


@pytest.mark.parametrize("seconds", LONG)
def test_workers_that_come_and_go_fail_nothing(chaos: Chaos, seconds: float) -> None:
    """SIGTERM to a single worker: it finishes what it has, and another takes its place."""
    gateway = chaos.start(chaos.direct, workers=3)
    trial = Trial(gateway, seconds, messages=5)
    with trial.running() as load:
        for turn in trial.turns():
            os.kill(gateway.workers()[turn % 3]["pid"], signal.SIGTERM)
            load.go_on()
            wait_until(gateway.is_serving, "it is replaced")
    trial.verify()


class Balancer:
    """What stands in front of two gateways: it sends new connections to one that says it is ready."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self.gateways = gateways
        self._ready = gateways[0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __call__(self) -> str:
        return self._ready.address

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            ready = [each for each in self.gateways if self._is_ready(each)]
            if ready and self._ready not in ready:
                self._ready = ready[0]

    def _is_ready(self, gateway: Gateway) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.admin, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@WORKERS
def test_a_gateway_that_is_told_to_stop_fails_nothing(
    chaos: Chaos, seconds: float, workers: int
) -> None:
    """One of two behind a balancer that asks /readyz: what comes on its connections is answered."""
    balancer = Balancer([chaos.start(chaos.direct, workers=workers) for _ in range(2)])
    trial = Trial(balancer.gateways[1], seconds, where=balancer, messages=5)
    with balancer.watching(), trial.running() as load:
        for _ in trial.turns():
            leaving = next(each for each in balancer.gateways if each.address == balancer())
            os.kill(leaving.main_pid, signal.SIGTERM)
            assert leaving.family.wait(30) == 0
            load.go_on()
            balancer.gateways.remove(leaving)
            balancer.gateways.append(chaos.start(chaos.direct, workers=workers))
    trial.gateway, trial.flat = balancer.gateways[0], False
    trial.verify()
