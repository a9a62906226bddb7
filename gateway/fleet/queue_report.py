"""What all lines have done and hold, as JSON has it; and the sum of several processes' reports. Pure."""

from collections.abc import Iterable
from typing import Any

from gateway.fleet.histogram import Histogram
from gateway.fleet.queues import Queues

QueueReport = dict[str, Any]
"""
{"lines": {model: [waiting, bytes, seconds the oldest has waited]}, "ended": {"MODEL HOW": n},
 "refused": {"MODEL WHY": n}, "wait_us": n, "wait": {bucket: n}}; see QueueFigures.
"""


def report(queues: Queues) -> QueueReport:
    """Return what one process's lines have done since its start, and who waits now."""
    now_s, figures = queues.common.now_s(), queues.figures
    return {
        "lines": {
            line.model: [line.waiting, line.bytes, max(0.0, now_s - line.oldest_s)]
            for line in queues.common.busy
        },
        "ended": dict(figures.ended),
        "refused": dict(figures.refused),
        "wait_us": figures.wait.total_us,
        "wait": {str(index): n for index, n in enumerate(figures.wait.counts) if n},
    }


def merged(reports: Iterable[QueueReport]) -> QueueReport:
    """Return the report of all processes together."""
    lines: dict[str, list[float]] = {}
    total: QueueReport = {"lines": lines, "ended": {}, "refused": {}, "wait_us": 0, "wait": {}}
    for one in reports:
        for model, (waiting, size, oldest_s) in one["lines"].items():
            before = lines.get(model, [0, 0, 0.0])
            lines[model] = [before[0] + waiting, before[1] + size, max(before[2], oldest_s)]
        total["wait_us"] += one["wait_us"]
        for name in ("ended", "refused", "wait"):
            kept = total[name]
            for key, n in one[name].items():
                kept[key] = kept.get(key, 0) + n
    return total


def at_rest(told: QueueReport) -> QueueReport:
    """Return what is left of the report of a process that has ended."""
    return {**told, "lines": {}}


def waits(told: QueueReport) -> Histogram:
    """Return how long requests have waited that were served."""
    histogram = Histogram()
    histogram.total_us = told["wait_us"]
    for index, n in told["wait"].items():
        histogram.counts[int(index)] = n
    return histogram
