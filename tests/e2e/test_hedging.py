"""With real Tritons: a slice that is slow delays nobody whose request goes to a second one as well."""

import pytest

from tests.e2e.chaos import MODEL, SHORT_S, SLACK_S, Chaos, Trial
from tests.support.asking import GrpcClient, HttpClient

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(150)]

LATE_S = 0.2
SLOW_S = 4.0
IMAGE_BYTES = 602_112


@pytest.mark.parametrize("workers", [1, 2])
def test_a_slow_slice_delays_nobody(chaos: Chaos, workers: int) -> None:
    """Both protocols, small and large, bound early and late."""
    gateway = chaos.start(
        chaos.direct, workers=workers, hedging={"after": f"{LATE_S}s", "percent": 100},
        ejection={"enabled": False},  # which would find the slice out sooner or later
    )  # fmt: skip
    clients = [
        HttpClient(gateway.address, 512, model=MODEL),
        HttpClient(gateway.address, IMAGE_BYTES, model=MODEL),
        GrpcClient(gateway.address, 512, model=MODEL),
        GrpcClient(gateway.address, IMAGE_BYTES, model=MODEL),
    ]
    trial = Trial(gateway, SHORT_S, clients)
    with trial.running() as load:
        chaos.slices[0].mood(f"{SLOW_S}")
        for _ in trial.turns():
            load.go_on()
        chaos.slices[0].mood("")
    trial.verify(within_s=2 * LATE_S + SLACK_S)
    found = gateway.metrics()
    assert found["hedges_won_total"] > 0
    assert found["hedges_total"] >= found["hedges_won_total"]
    assert set(gateway.states().values()) == {"ready"}, "losing is no failure"
    assert sum(v for k, v in found.items() if k.startswith("slice_failures_total")) == 0
