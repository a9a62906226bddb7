"""Late binding is worth what it is for: the tail, by the gateway's own queues in simulated time."""

import pytest

from bench.load import percentile
from bench.simulate import LAYOUTS, latencies, main


@pytest.mark.parametrize(("layout", "most"), [(0, 0.85), (1, 0.95)])
def test_late_binding_shortens_the_tail_near_capacity(layout: int, most: float) -> None:
    speeds = list(LAYOUTS.values())[layout]
    early, late = (
        sum(percentile(latencies(speeds, 0.9, binding, 6000, seed), 0.99) for seed in range(3))
        for binding in (False, True)
    )
    assert late < most * early


def test_nothing_is_lost_and_low_load_is_no_worse() -> None:
    """A slow slice is left idle only where that is sooner."""
    speeds = list(LAYOUTS.values())[1]
    early, late = (latencies(speeds, 0.5, binding, 6000, 1) for binding in (False, True))
    assert len(early) == len(late) == 6000 - 300
    assert percentile(late, 0.99) < 1.1 * percentile(early, 0.99)


def test_the_program_tells_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests", "500", "--seeds", "1"]) == 0
    assert "late to early" in " ".join(capsys.readouterr().out.split())
