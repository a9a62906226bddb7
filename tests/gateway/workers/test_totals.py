"""What workers count adds up in the main process to what one process would have counted."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.slices import Slice
from gateway.metrics import Counters
from gateway.workers.totals import Gauges, Meter, add
from tests.gateway.making import make_slice

ACTIONS = ("http", "grpc", "failed", "abandoned", "accepted", "closed", "fault", "limit", "report")


def act(action: str, counters: Counters, member: Slice) -> None:
    match action:
        case "http":
            member.http_requests += 1
            member.answered_http(0.01, "infer/m")
        case "grpc":
            member.grpc_requests += 1
            member.answered_grpc(0.5, "infer/m")
        case "failed":
            member.failed()
        case "abandoned":
            member.abandoned += 1
        case "accepted":
            counters.accepted += 1
        case "closed":
            counters.closed += 1
        case "fault":
            counters.fault("no_slice")
        case "limit":
            counters.limit("streams")


def facts(counters: Counters, member: Slice) -> list[object]:
    return [
        *(getattr(counters, name) for name in Counters.__slots__),
        member.http_requests, member.grpc_requests, member.failures, member.abandoned,
        member.http_latency.counts, member.http_latency.total_us,
        member.grpc_latency.counts, member.grpc_latency.total_us,
        {key: (pace.counts, pace.total_us) for key, pace in member.paces.items()},
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1))))
def test_the_sum_is_what_one_process_would_have_counted(actions: list[tuple[str, int]]) -> None:
    alone, main = (Counters(), make_slice()), (Counters(), make_slice())
    workers = [(Counters(), make_slice()) for _ in range(2)]
    for _, member in (alone, main, *workers):
        member.models = {"m": ("1",)}
    meters = [Meter(counters) for counters, _ in workers]
    for action, worker in [*actions, ("report", 0), ("report", 1)]:
        if action == "report":
            add(meters[worker].news([workers[worker][1]]), main[0], {"s0": main[1]})
        else:
            act(action, *workers[worker])
            act(action, *alone)
    assert facts(*main) == facts(*alone)


def test_nothing_new_is_nothing_to_tell() -> None:
    counters, member = Counters(), make_slice()
    meter = Meter(counters)
    assert meter.news([member]) == {}
    member.answered_http(0.0)  # less than a microsecond, and yet an answer
    assert meter.news([member]) != {}
    assert meter.news([member]) == {}


def test_what_is_open_is_taken_back_when_a_worker_ends_without_a_word() -> None:
    counters, member, main, whole = Counters(), make_slice(), Counters(), make_slice()
    meter, gauges = Meter(counters), Gauges()
    counters.accepted, counters.closed, member.abandoned, member.sequences = 5, 2, 1, 3
    news = meter.news([member])
    gauges.note(news)
    add(news, main, {"s0": whole})
    add(gauges.settle(), main, {"s0": whole})
    assert (main.accepted, main.closed, whole.abandoned, whole.sequences) == (5, 5, 0, 0)


def test_totals_of_a_slice_that_is_gone_are_passed_over() -> None:
    counters, member = Counters(), make_slice()
    meter = Meter(counters)
    act("http", counters, member)
    add(meter.news([member]), Counters(), {})
