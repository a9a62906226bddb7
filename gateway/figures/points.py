"""What is measured and what has been; kept in a file so that a run that was broken off goes on."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from contract.files import write_atomically

VERSION: Final = 1
FILE: Final = "figures.json"
COLUMNS: Final = (
    "Concurrency", "Inferences/Second", "Client Send", "Network+Server Send/Recv", "Server Queue",
    "Server Compute Input", "Server Compute Infer", "Server Compute Output", "Client Recv",
    "p50 latency", "p90 latency", "p95 latency", "p99 latency",
)  # fmt: skip
"""perf_analyzer's, in its order; times in microseconds."""


@dataclass(frozen=True, slots=True)
class Point:
    """
    One measurement; times in microseconds.

    Attributes:
        slices: How many were enabled.
        failed: Requests that failed in the window.
        network_us: Of the mean latency, what was spent neither in a queue nor computing.
        load_cpu: Share of one processor that the busiest process of the built-in load took; near 1
            it is the load that was measured. 0 where another tool has measured.
    """

    slices: int
    concurrency: int
    throughput: float
    failed: int
    p50_us: float
    p90_us: float
    p95_us: float
    p99_us: float
    network_us: float = 0.0
    queue_us: float = 0.0
    input_us: float = 0.0
    infer_us: float = 0.0
    output_us: float = 0.0
    load_cpu: float = 0.0


Points = dict[tuple[int, int], Point]
"""By (slices, concurrency)."""


class Record:
    """
    All points of one run, and under what conditions they were measured.

    Attributes:
        conditions: What must be equal for a run to go on: model, layout, tool, versions, host.
        command: The command that has measured the last of them.
        points: Through the gateway, by (slices, concurrency).
        direct: The same with the load going straight to the slices, where that was asked for.
    """

    def __init__(self, folder: Path, conditions: dict[str, Any], command: str = "") -> None:
        self.folder = folder
        self.conditions = conditions
        self.command = command
        self.points: Points = {}
        self.direct: Points = {}

    def resume(self) -> bool:
        """Take over what an earlier run under the same conditions has measured."""
        try:
            document = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
            if document["version"] != VERSION or document["conditions"] != self.conditions:
                return False
            self.points = _read(document["points"])
            self.direct = _read(document.get("direct", []))
        except (OSError, ValueError, KeyError, TypeError):
            return False  # none, or not ours: it is written anew
        return bool(self.points or self.direct)

    def add(self, point: Point, *, direct: bool = False) -> None:
        """Take one in, and write everything down."""
        points, word = (self.direct, "direct") if direct else (self.points, "slices")
        points[point.slices, point.concurrency] = point
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {
            "version": VERSION,
            "conditions": self.conditions,
            "command": self.command,
            "points": [asdict(self.points[key]) for key in sorted(self.points)],
        }
        if self.direct:
            document["direct"] = [asdict(self.direct[key]) for key in sorted(self.direct)]
        write_atomically(self.folder / FILE, json.dumps(document, indent=1) + "\n")
        name = f"{word}-{point.slices}.csv"
        write_atomically(self.folder / name, as_csv(of(points, point.slices)))

    def of(self, slices: int) -> list[Point]:
        """Return the points of one number of slices by ascending concurrency."""
        return of(self.points, slices)

    @property
    def counts(self) -> list[int]:
        """The numbers of slices that were measured."""
        return sorted({slices for slices, _ in self.points})


def of(points: Points, slices: int) -> list[Point]:
    """Return the points of one number of slices by ascending concurrency."""
    return [points[key] for key in sorted(points) if key[0] == slices]


def _read(entries: Iterable[dict[str, Any]]) -> Points:
    names = {field.name for field in fields(Point)}
    points = [Point(**{k: v for k, v in entry.items() if k in names}) for entry in entries]
    return {(point.slices, point.concurrency): point for point in points}


def needed(points: Iterable[Point], budget_ms: float) -> dict[int, int | None]:
    """Return, for each concurrency, the fewest slices whose p90 keeps the budget; None for none."""
    found: dict[int, int | None] = {}
    for point in sorted(points, key=lambda point: (point.concurrency, point.slices)):
        kept = point.slices if point.p90_us <= budget_ms * 1e3 else None
        if found.get(point.concurrency) is None:
            found[point.concurrency] = kept
    return found


def as_csv(points: Sequence[Point]) -> str:
    """Return the points in perf_analyzer's columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in points:
        times = (
            0, one.network_us, one.queue_us, one.input_us, one.infer_us, one.output_us, 0,
            one.p50_us, one.p90_us, one.p95_us, one.p99_us,
        )  # fmt: skip
        writer.writerow([one.concurrency, f"{one.throughput:.2f}", *(round(t) for t in times)])
    return text.getvalue()


def from_csv(text: str, slices: int) -> Point:
    """Read the last line of what perf_analyzer has written. Raises ValueError, KeyError."""
    row = list(csv.DictReader(io.StringIO(text)))[-1]
    return Point(
        slices=slices,
        concurrency=int(row["Concurrency"]),
        throughput=float(row["Inferences/Second"]),
        failed=0,  # perf_analyzer ends with an error at the first
        p50_us=float(row["p50 latency"]),
        p90_us=float(row["p90 latency"]),
        p95_us=float(row["p95 latency"]),
        p99_us=float(row["p99 latency"]),
        network_us=float(row["Network+Server Send/Recv"]),
        queue_us=float(row["Server Queue"]),
        input_us=float(row["Server Compute Input"]),
        infer_us=float(row["Server Compute Infer"]),
        output_us=float(row["Server Compute Output"]),
    )
