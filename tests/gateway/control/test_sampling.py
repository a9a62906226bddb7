"""What has happened between two looks, told as rates and latencies."""

from gateway.control.sampling import Sampler
from gateway.fleet.histogram import Histogram
from gateway.fleet.queue_report import QueueReport
from tests.gateway.making import Fleet


def told(waited_s: tuple[float, ...] = (), **waiting: int) -> QueueReport:
    """Return a report of lines in which so many wait, and so many have waited since the start."""
    wait = Histogram()
    for seconds in waited_s:
        wait.add(seconds)
    return {
        "lines": {model: [count, 0, 0.0] for model, count in waiting.items()},
        "ended": {},
        "refused": {},
        "wait_us": wait.total_us,
        "wait": {str(index): n for index, n in enumerate(wait.counts) if n},
    }


def test_the_first_look_only_remembers() -> None:
    fleet = Fleet("a")
    fleet["a"].answered_http(0.010)
    sampler = Sampler()
    assert not sampler.begun
    assert sampler.look(fleet.registry.slices.values(), told(), 1.0, 1000) is None
    assert sampler.begun


def test_a_look_tells_what_came_since_the_last() -> None:
    fleet = Fleet("a", "b")
    members = fleet.registry.slices.values()
    fleet["a"].answered_http(5.0)  # before: not told
    sampler = Sampler()
    sampler.look(members, told(), 1.0, 1000)
    for _ in range(10):
        fleet["a"].answered_http(0.010)
        fleet["a"].answered_grpc(0.010)
    fleet["b"].failed()
    sample = sampler.look(members, told(), 3.0, 3000)
    assert sample is not None
    assert (sample["t"], sample["dt"]) == (3000, 2.0)
    a, b, everything = sample["slices"]["a"], sample["slices"]["b"], sample["all"]
    assert (a["rate"], a["failures"]) == (10.0, 0.0)
    assert 8.7 < a["p50"] <= a["p99"] < 11.3  # a bucket is 12.5 % wide
    assert b == {"rate": 0.0, "failures": 0.5, "p50": None, "p99": None, "busy": 0.0}
    assert (everything["rate"], everything["failures"]) == (10.0, 0.5)
    assert (everything["p50"], everything["p99"]) == (a["p50"], a["p99"])


def test_what_is_in_flight_is_the_mean_of_all_glances() -> None:
    fleet = Fleet("a", "b")
    members = fleet.registry.slices.values()
    sampler = Sampler()
    sampler.look(members, told(), 1.0, 1000)
    for in_flight in (4, 2):
        fleet["a"].in_flight = in_flight
        sampler.glance(members, told())
    fleet["a"].in_flight = 0
    sample = sampler.look(members, told(), 2.0, 2000)
    assert sample is not None
    assert (sample["slices"]["a"]["busy"], sample["all"]["busy"]) == (2.0, 2.0)


def test_who_waits_is_the_mean_of_all_glances_by_model() -> None:
    members = Fleet("a").registry.slices.values()
    sampler = Sampler()
    sampler.look(members, told((5.0,), flower=9), 1.0, 1000)  # before: not told
    sampler.glance(members, told(flower=6, other=2))
    sampler.glance(members, told(flower=6))
    sample = sampler.look(members, told((5.0, 0.010, 0.010)), 2.0, 2000)
    assert sample is not None
    queue = sample["queue"]
    assert queue["models"] == {"flower": 4.0, "other": 0.667}
    assert 8.7 < queue["p50"] <= queue["p99"] < 11.3  # a bucket is 12.5 % wide
    idle = sampler.look(members, told((5.0, 0.010, 0.010)), 3.0, 3000)
    assert idle is not None
    assert idle["queue"] == {"models": {}, "p50": None, "p99": None}


def test_slices_come_and_go_between_two_looks() -> None:
    fleet = Fleet("a", "b")
    sampler = Sampler()
    sampler.look([fleet["a"]], told(), 1.0, 1000)
    fleet["b"].answered_http(0.001)
    sample = sampler.look([fleet["b"]], told(), 2.0, 2000)
    assert sample is not None
    assert list(sample["slices"]) == ["b"]
    assert sample["slices"]["b"]["rate"] == 1.0


def test_after_a_pause_it_begins_anew() -> None:
    fleet = Fleet("a")
    sampler = Sampler()
    sampler.look([fleet["a"]], told(), 1.0, 1000)
    sampler.forget()
    assert sampler.look([fleet["a"]], told(), 500.0, 500_000) is None
