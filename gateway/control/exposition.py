"""
`GET /metrics`: the gateway's numbers in Prometheus' text format 0.0.4. Pure.

Labels come from the configuration, the inventory and the program's own tables, never from what a
client sends, so their number is bounded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.fleet.health import State
from gateway.fleet.histogram import Histogram
from gateway.fleet.queue_report import QueueReport, waits
from gateway.fleet.slices import Slice
from gateway.metrics import Counters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "mig_gateway_"
BOUNDS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    120.0,
)  # fmt: skip
"""From half a millisecond, which is a small model's answer, to two minutes."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """
    The gateway's own processes together: CPU seconds since its start, bytes, open descriptors.

    Attributes:
        workers: Processes that serve clients at the moment.
        restarts: How often one of them had to be replaced.
    """

    cpu_s: float
    rss_bytes: int
    open_fds: int
    uptime_s: float
    workers: int = 1
    restarts: int = 0


class Page:
    """Lines of one answer; a family's HELP and TYPE stand once, before its samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[Sample]) -> None:
        """Add a family; a sample's first part is a suffix to the name, mostly empty."""
        full = PREFIX + name
        self._lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
        self._lines += [
            f"{full}{suffix}{_labels(labels)} {value:.17g}" for suffix, labels, value in samples
        ]

    def single(self, name: str, kind: str, text: str, value: float) -> None:
        self.family(name, kind, text, [("", {}, value)])

    @property
    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def exposition(
    members: Iterable[Slice],
    counters: Counters,
    checks: Mapping[str, tuple[int, int]],
    process: ProcessFigures,
    build: Labels,
    changes: Mapping[tuple[str, str], int] | None = None,
    panicking: bool = False,
    queues: QueueReport | None = None,
) -> str:
    """
    Return the whole page.

    Args:
        members: The slices.
        counters: The data plane's.
        checks: For each slice's name, how many checks it passed and failed.
        process: The gateway's own figures.
        build: Labels of `build_info`.
        changes: (slice, event) → how often.
        panicking: Slices are asked that are not well, because no other is.
        queues: Of all lines; left out when None.
    """
    page = Page()
    page.family("build_info", "gauge", "What runs here; always 1.", [("", build, 1)])
    _slices(page, list(members), checks)
    page.family(
        "slice_changes_total", "counter", "Changes of the slice, as GET /v1/events tells them.",
        [
            ("", {"slice": name, "event": event}, value)
            for (name, event), value in sorted((changes or {}).items())
        ],
    )  # fmt: skip
    page.single(
        "panic",
        "gauge",
        "1 while slices are asked that are not well, because no other is.",
        panicking,
    )
    if queues is not None:
        _queues(page, queues)
    _counters(page, counters)
    _process(page, process)
    return page.text


def _slices(page: Page, members: list[Slice], checks: Mapping[str, tuple[int, int]]) -> None:
    by_name = [({"slice": member.name}, member) for member in members]
    page.family(
        "slice_info", "gauge", "What each slice is; always 1.",
        [("", _identity(member), 1) for member in members],
    )  # fmt: skip
    page.family(
        "slice_state", "gauge", "1 for the state the slice is in, 0 for the others.",
        [
            ("", labels | {"state": state.value}, member.state is state)
            for labels, member in by_name
            for state in State
        ],
    )  # fmt: skip
    page.family(
        "slice_in_flight", "gauge", "Requests begun and not yet answered.",
        [("", labels, member.in_flight) for labels, member in by_name],
    )  # fmt: skip
    page.family(
        "slice_abandoned", "gauge", "Of those in flight, how many no client waits for any more.",
        [("", labels, member.abandoned) for labels, member in by_name],
    )  # fmt: skip
    page.family(
        "slice_weight", "gauge", "Share of the work relative to the other slices.",
        [("", labels, member.weight) for labels, member in by_name],
    )  # fmt: skip
    page.family(
        "slice_requests_total", "counter", "Requests given to the slice, failed attempts included.",
        [
            ("", labels | {"protocol": protocol}, value)
            for labels, member in by_name
            for protocol, value in (("http", member.http_requests), ("grpc", member.grpc_requests))
        ],
    )  # fmt: skip
    page.family(
        "slice_failures_total", "counter", "Attempts that the slice did not answer properly.",
        [("", labels, member.failures) for labels, member in by_name],
    )  # fmt: skip
    page.family(
        "slice_request_seconds", "histogram", "From being given a request to its answer's end.",
        [
            sample
            for labels, member in by_name
            for protocol, latency in (("http", member.http_latency), ("grpc", member.grpc_latency))
            for sample in _histogram(labels | {"protocol": protocol}, latency)
        ],
    )  # fmt: skip
    page.family(
        "slice_checks_total", "counter", "Health checks of the slice.",
        [
            ("", {"slice": name, "result": result}, value)
            for name, outcome in checks.items()
            for result, value in zip(("passed", "failed"), outcome, strict=True)
        ],
    )  # fmt: skip


def _identity(member: Slice) -> Labels:
    spec = member.spec
    return {
        "slice": member.name,
        "mig_uuid": spec.mig_uuid,
        "profile": spec.profile,
        "simulated": str(spec.simulated).lower(),
        "http": str(spec.http),
        "grpc": str(spec.grpc),
    }


def _histogram(labels: Labels, latency: Histogram) -> Iterable[Sample]:
    count = latency.count
    for bound_s, below in zip(BOUNDS_S, latency.cumulative(BOUNDS_S), strict=True):
        yield "_bucket", {**labels, "le": f"{bound_s:g}"}, below
    yield "_bucket", {**labels, "le": "+Inf"}, count
    yield "_sum", labels, latency.total_us / 1e6
    yield "_count", labels, count


def _queues(page: Page, told: QueueReport) -> None:
    lines = sorted(told["lines"].items())
    for index, (name, text) in enumerate(
        (
            ("queue_waiting", "Requests that wait for a slice to have room."),
            ("queue_bytes", "What they hold."),
            ("queue_oldest_seconds", "How long the one has waited that came first."),
        )
    ):
        page.family(name, "gauge", text, [("", {"model": m}, line[index]) for m, line in lines])
    for name, text, label in (
        ("ended", "Requests that have waited, by how that ended.", "how"),
        ("refused", "Requests that could not wait, by why.", "why"),
    ):
        samples = [(key.rpartition(" "), n) for key, n in sorted(told[name].items())]
        page.family(
            f"queue_{name}_total", "counter", text,
            [("", {"model": parts[0], label: parts[2]}, n) for parts, n in samples],
        )  # fmt: skip
    page.family(
        "queue_wait_seconds", "histogram", "How long requests have waited that were served then.",
        _histogram({}, waits(told)),
    )  # fmt: skip


_COUNTERS: Final = (
    ("connections_accepted_total", "accepted", "Client connections accepted."),
    ("connections_closed_total", "closed", "Client connections closed."),
    ("http_requests_total", "http_requests", "HTTP/1.1 requests read."),
    ("grpc_calls_total", "grpc_calls", "gRPC calls read."),
    ("replays_total", "replays", "Requests sent to another slice after the first had failed."),
    ("hedges_total", "hedges", "Requests sent to a second slice as well, since they were late."),
    ("hedges_won_total", "hedges_won", "Those of them whose second slice answered first."),
    ("quarantines_total", "quarantines", "Requests refused from then on, since they broke slices."),
    ("head_cache_hits_total", "head_hits", "HTTP/1.1 heads that were known."),
    ("head_cache_misses_total", "head_misses", "HTTP/1.1 heads that had to be parsed."),
    ("header_cache_hits_total", "header_hits", "HTTP/2 header blocks that were known."),
    ("header_cache_misses_total", "header_misses", "HTTP/2 header blocks that had to be decoded."),
)


def _counters(page: Page, counters: Counters) -> None:
    for name, attribute, text in _COUNTERS:
        page.single(name, "counter", text, getattr(counters, attribute))
    page.single(
        "connections", "gauge", "Client connections open.", counters.accepted - counters.closed
    )
    page.family(
        "faults_total", "counter", "Requests the gateway answered itself because they failed.",
        [("", {"code": code}, value) for code, value in sorted(counters.faults.items())],
    )  # fmt: skip
    page.family(
        "limits_total", "counter", "How often a limit was hit without an answer of the gateway.",
        [("", {"limit": name}, value) for name, value in sorted(counters.limits.items())],
    )  # fmt: skip


def _process(page: Page, process: ProcessFigures) -> None:
    page.single("process_cpu_seconds_total", "counter", "CPU time, user and system.", process.cpu_s)
    page.single("process_resident_memory_bytes", "gauge", "Resident memory.", process.rss_bytes)
    page.single("process_open_fds", "gauge", "Open file descriptors.", process.open_fds)
    page.single("workers", "gauge", "Processes that serve clients.", process.workers)
    page.single("worker_restarts_total", "counter", "Workers replaced.", process.restarts)
    page.single("uptime_seconds", "gauge", "Since the gateway's start.", process.uptime_s)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
