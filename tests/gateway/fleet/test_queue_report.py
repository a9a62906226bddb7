"""What several processes' lines have done adds up, and what has ended is not forgotten."""

import json

from gateway.fleet.queue_report import at_rest, merged, report, waits
from tests.gateway.fleet.waiting import LimitedFleet


def busy_fleet(seconds: float) -> LimitedFleet:
    """One request in flight, one that was served after so long, and two that wait."""
    fleet = LimitedFleet("a")
    first, *_ = [fleet.ask() for _ in range(4)]
    fleet.clock.now_s += seconds
    first.end()
    fleet.pump()
    return fleet


def test_reports_add_up() -> None:
    reports = [report(busy_fleet(seconds).registry.queues) for seconds in (0.5, 2.0)]
    total = merged(json.loads(json.dumps(reports)))
    assert total["lines"] == {"m": [4, 400, 2.0]}
    assert total["ended"] == {"m served": 2}
    assert waits(total).count == 2
    assert waits(total).total_us == 2_500_000


def test_a_process_that_has_ended_holds_nothing_and_keeps_its_totals() -> None:
    total = merged([at_rest(report(busy_fleet(0.5).registry.queues))])
    assert (total["lines"], total["ended"]) == ({}, {"m served": 1})
