"""A gateway that starts says that it is ready when clients can connect, and not before."""

import socket

import pytest

from tests.e2e.chaos import HEALTH, Chaos
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_told_that_it_is_ready_can_connect(chaos: Chaos, workers: int) -> None:
    """The admin API answers first, and the slices may be checked before a worker has started."""
    gateway = Gateway(chaos.folder, chaos.direct, health=HEALTH, workers=workers)
    try:
        reasons = set()

        def ready() -> bool:
            try:
                status, answer = gateway.ask("GET", "/readyz")
            except OSError:
                return False
            reasons.add(answer["reason"])
            return status == 200

        wait_until(ready, "it is ready", 60)
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10).close()
        if workers > 1:  # each takes a second to start
            assert "the gateway does not listen to clients yet" in reasons
    finally:
        gateway.end()
