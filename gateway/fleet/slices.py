"""Slice: one Triton server as the gateway sees it, and the counts of the work it has been given."""

from collections.abc import Callable
from typing import Final

from contract.slice_spec import SliceSpec
from gateway.fleet.health import (
    DISABLED,
    ENABLED,
    HealthRecord,
    Order,
    State,
    Thresholds,
)
from gateway.fleet.histogram import Histogram, bucket_of
from gateway.fleet.lifecycle import ALL, FREE, NONE, WHOLE, Ejection, Traffic
from gateway.fleet.tally import Tally

CHARGE_DECAY_S: Final = 10.0
"""A failed attempt weighs on its slice for this long, so that failing fast draws no traffic."""
CHARGE_MAX: Final = 200.0
"""Down to 8 within ten seconds, however many have failed: a slice that goes on being asked because all
others fail as well must not be left without work for long once it is well (with 1000: for 13 s)."""
NO_LIMIT: Final = 1 << 40
"""A limit that is none, so that comparing needs no question whether there is one."""


class Slice:
    """
    One slice: its spec, what is known of it, and its counters.

    `begin()` and `end()` are the only writers of `in_flight`; whoever calls the one calls the
    other exactly once, on every way out.

    Attributes:
        column: Its place in memory that worker processes share; see SharedSlice.
        charge: Failed attempts, decaying; counts like work in flight.
        drag: 1 / slow start: what a request in flight weighs while the slice comes back; 1 else.
        failed_at_s: When an attempt last failed; 0 for never.
        max_in_flight: Inference beyond so many requests in flight waits; NO_LIMIT for none.
        on_free: Told of each request that ends while others wait for a slice; None while none do.
        paces: What answers took that can be compared with other slices', by the key of the pool: of
            inference that its clients send alike to all of them.
        sequences: Live ones that it has; with several workers each counts those that it knows.
        tallies: For the slice ("") and for each model on it, what came of the attempts; only where
            there were failures of late, so mostly empty.
    """

    __slots__ = (
        "abandoned",
        "charge",
        "column",
        "drag",
        "failed_at_s",
        "failures",
        "grpc_latency",
        "grpc_requests",
        "health",
        "http_latency",
        "http_requests",
        "in_flight",
        "last_pick",
        "max_in_flight",
        "models",
        "name",
        "on_free",
        "on_idle",
        "order",
        "paces",
        "sequences",
        "spec",
        "tallies",
        "weight",
    )

    def __init__(self, spec: SliceSpec, thresholds: Thresholds, now_s: float) -> None:
        self.spec: SliceSpec = spec
        self.name: str = spec.name
        self.weight: float = spec.weight
        self.health = HealthRecord(thresholds, now_s)
        self.order: Order = ENABLED
        self.models: dict[str, tuple[str, ...]] | None = None
        self.in_flight = 0
        self.column = 0
        self.abandoned = 0  # of in_flight: the client has gone, the slice is still at it
        self.sequences = 0
        self.charge = 0.0
        self.drag = 1.0
        self.failed_at_s = 0.0
        self.tallies: dict[str, Tally] = {}
        self.last_pick = 0
        self.max_in_flight = NO_LIMIT
        self.http_requests = 0
        self.grpc_requests = 0
        self.failures = 0
        self.http_latency = Histogram()
        self.grpc_latency = Histogram()
        self.paces: dict[str, Histogram] = {}
        self.on_free: Callable[[], None] | None = None
        self.on_idle: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Count one request in."""
        self.in_flight += 1

    def end(self) -> None:
        """Count one request out; the last one out tells whoever waits for that."""
        assert self.in_flight > 0, f"{self.name}: end() without begin()"
        self.in_flight -= 1
        if self.on_free is not None:
            self.on_free()
        if not self.in_flight and self.on_idle:
            waiting, self.on_idle = self.on_idle, []
            for callback in waiting:
                callback()

    def answered_http(self, seconds: float, key: str = "") -> None:
        """
        Count one HTTP answer relayed to its end.

        Args:
            key: Of the pool the slice was picked from, where this answer says how fast the slice is
                beside the others of that pool; "" where it does not: an error, a request that no
                other slice could have been given, a stream that lasts as long as its client likes.
        """
        microseconds = int(seconds * 1e6)
        bucket = bucket_of(microseconds)
        latency = self.http_latency
        latency.counts[bucket] += 1
        latency.total_us += microseconds
        if key:
            pace = self.paces.get(key) or self.pace(key)
            if pace is not None:
                pace.counts[bucket] += 1
                pace.total_us += microseconds

    def answered_grpc(self, seconds: float, key: str = "") -> None:
        """Count one gRPC call relayed to its end; see answered_http."""
        microseconds = int(seconds * 1e6)
        bucket = bucket_of(microseconds)
        latency = self.grpc_latency
        latency.counts[bucket] += 1
        latency.total_us += microseconds
        if key:
            pace = self.paces.get(key) or self.pace(key)
            if pace is not None:
                pace.counts[bucket] += 1
                pace.total_us += microseconds

    def pace(self, key: str) -> Histogram | None:
        """
        Return where to note answers of the pool `key`; None where it is no inference for a model here.

        What a client names is never kept, and neither is what the slice no longer has.
        """
        pace = self.paces.get(key)
        if pace is None and self._has(key):
            self.paces = {known: kept for known, kept in self.paces.items() if self._has(known)}
            pace = self.paces[key] = Histogram()
        return pace

    def _has(self, key: str) -> bool:
        kind, _, rest = key.partition("/")
        model, _, version = rest.partition("/")
        versions = None if self.models is None else self.models.get(model)
        return kind == "infer" and versions is not None and (not version or version in versions)

    def failed(self) -> None:
        """Count one attempt that the slice did not answer properly."""
        self.failures += 1
        self.charge = min(self.charge + 1.0, CHARGE_MAX)

    def outrun(self) -> None:
        """
        Note that another slice has answered first, and that this one was told to stop.

        That is no failure. But it may be at it for a while, and is no longer counted.
        """
        self.charge = min(self.charge + 1.0, CHARGE_MAX)

    @property
    def requests(self) -> int:
        """Requests given to this slice since the gateway started, attempts that failed included."""
        return self.http_requests + self.grpc_requests

    @property
    def ejection(self) -> Ejection:
        """What the gateway itself has decided of the slice as a whole."""
        tally = self.tallies.get("")
        return FREE if tally is None else tally.ejection

    @property
    def traffic(self) -> Traffic:
        """What work the slice takes, for whatever model."""
        if self.weight <= 0:
            return NONE
        return WHOLE[self.order, self.health.health, self.ejection][1]

    @property
    def routable(self) -> bool:
        """New work may go here."""
        return self.traffic is ALL

    @property
    def state(self) -> State:
        """What users are told; see docs/slice-lifecycle.md."""
        if self.order is DISABLED and self.in_flight:
            return State.DRAINING
        return WHOLE[self.order, self.health.health, self.ejection][0]


class SharedSlice(Slice):
    """
    A slice that several worker processes give work to.

    `in_flight` is what all of them have on it, as of the last pick; what this process has is in
    its row of the memory they share, which nobody else writes to.
    """

    __slots__ = ("_row",)

    def __init__(
        self, spec: SliceSpec, thresholds: Thresholds, now_s: float, row: memoryview, column: int
    ) -> None:
        super().__init__(spec, thresholds, now_s)
        self.column = column
        self._row = row

    def begin(self) -> None:
        self._row[self.column] += 1
        self.in_flight += 1

    def end(self) -> None:
        left = self._row[self.column] - 1
        assert left >= 0, f"{self.name}: end() without begin()"
        self._row[self.column] = left
        self.in_flight -= 1
        if self.on_free is not None:
            self.on_free()
        if not left and self.on_idle:
            waiting, self.on_idle = self.on_idle, []
            for callback in waiting:
                callback()
