"""The metrics page, read back by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.control.exposition import BOUNDS_S, ProcessFigures, exposition
from gateway.fleet.health import State
from gateway.fleet.queue_report import report
from gateway.metrics import Counters
from tests.gateway.fleet.waiting import LimitedFleet
from tests.gateway.making import REFUSED, Fleet, make_spec

PROCESS = ProcessFigures(cpu_s=1.5, rss_bytes=1000, open_fds=7, uptime_s=3.25)


class Read:
    """A page as a dictionary from (sample name, labels) to value."""

    def __init__(self, fleet: Fleet, counters: Counters | None = None) -> None:
        self.text = exposition(
            fleet.registry.slices.values(),
            counters or Counters(),
            {"a": (3, 1)},
            PROCESS,
            {"version": "1.2"},
        )
        self.families = list(text_string_to_metric_families(self.text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples["mig_gateway_" + name, frozenset(labels.items())]


def test_exactly_one_state_of_each_slice_is_one() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.record(fleet["b"], REFUSED)
    page = Read(fleet)
    for name, state in (("a", "ready"), ("b", "unready")):
        values = {s.value: page("slice_state", slice=name, state=s.value) for s in State}
        assert values == {s.value: float(s.value == state) for s in State}


def test_slices_are_counted_by_protocol() -> None:
    fleet = Fleet("a")
    member = fleet["a"]
    member.http_requests, member.grpc_requests, member.failures, member.in_flight = 5, 7, 2, 3
    page = Read(fleet)
    assert page("slice_requests_total", slice="a", protocol="http") == 5
    assert page("slice_requests_total", slice="a", protocol="grpc") == 7
    assert page("slice_failures_total", slice="a") == 2
    assert page("slice_in_flight", slice="a") == 3
    assert page("slice_checks_total", slice="a", result="passed") == 3
    assert page("slice_checks_total", slice="a", result="failed") == 1


def test_latencies_are_a_histogram() -> None:
    fleet = Fleet("a")
    for seconds in (0.0001, 0.004, 0.004, 700.0):
        fleet["a"].answered_grpc(seconds)
    page = Read(fleet)
    grpc = {"slice": "a", "protocol": "grpc"}
    bounds = [f"{bound_s:g}" for bound_s in BOUNDS_S]
    buckets = [page("slice_request_seconds_bucket", **grpc, le=le) for le in [*bounds, "+Inf"]]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[3], buckets[-2], buckets[-1]) == (1, 3, 3, 4)
    assert page("slice_request_seconds_count", **grpc) == 4
    assert abs(page("slice_request_seconds_sum", **grpc) - 700.0081) < 1e-3


def test_changes_are_counted_by_slice_and_event_and_panic_is_seen() -> None:
    text = exposition(
        [], Counters(), {}, PROCESS, {}, {("a", "ejected"): 2, ("", "panic"): 1}, panicking=True
    )
    assert 'mig_gateway_slice_changes_total{slice="a",event="ejected"} 2\n' in text
    assert "mig_gateway_panic 1\n" in text
    assert "mig_gateway_panic 0\n" in Read(Fleet()).text


def test_a_simulated_slice_says_so() -> None:
    fleet = Fleet()
    fleet.registry.replace([make_spec("a", simulated=True, profile='1g."5gb\\\n')])
    [info] = [family for family in Read(fleet).families if family.name.endswith("slice_info")]
    assert info.samples[0].labels["simulated"] == "true"
    assert info.samples[0].labels["profile"] == '1g."5gb\\\n'


def test_every_counter_of_the_data_plane_is_told() -> None:
    """A counter that is added and not told would count for nobody."""
    counters = Counters()
    plain = [name for name in Counters.__slots__ if name not in ("faults", "limits")]
    for number, name in enumerate(plain, start=1000):
        setattr(counters, name, number)
    counters.fault("no_slice")
    counters.limit("connections")
    page = Read(Fleet(), counters)
    told = set(page.samples.values())
    assert set(range(1000, 1000 + len(plain))) <= told
    assert page("faults_total", code="no_slice") == 1
    assert page("limits_total", limit="connections") == 1


def test_large_counts_are_told_exactly() -> None:
    counters = Counters()
    counters.http_requests = 2**53 - 1
    assert f"mig_gateway_http_requests_total {2**53 - 1}\n" in Read(Fleet(), counters).text


def test_the_process_is_told() -> None:
    page = Read(Fleet())
    assert page("process_cpu_seconds_total") == 1.5
    assert page("process_open_fds") == 7
    assert page("build_info", version="1.2") == 1


def test_every_family_has_help_and_type_once() -> None:
    lines = Read(Fleet("a", "b")).text.splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert len(helps) == len(set(helps)) == sum(line.startswith("# TYPE") for line in lines)
    assert all(name.startswith("mig_gateway_") for name in helps)


def test_queues_are_told_by_model() -> None:
    fleet = LimitedFleet("a")
    busy = fleet.ask()
    waiting = [fleet.ask() for _ in range(3)]
    fleet.clock.now_s += 0.2
    busy.end()
    fleet.pump()
    assert waiting[1].place is not None
    waiting[1].place.leave()
    text = exposition([], Counters(), {}, PROCESS, {}, queues=report(fleet.registry.queues))
    for line in (
        'queue_waiting{model="m"} 1',
        'queue_bytes{model="m"} 100',
        'queue_ended_total{model="m",how="served"} 1',
        'queue_ended_total{model="m",how="left"} 1',
        'queue_wait_seconds_bucket{le="0.25"} 1',
        "queue_wait_seconds_count 1",
    ):
        assert f"mig_gateway_{line}\n" in text
