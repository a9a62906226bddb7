"""Medians and ratios: as tables in the terminal, as JSON, and as Markdown."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.cells import Cell
from bench.measure import DIRECT, Durations, Measurements, Sample

YARDSTICK: Final = "envoy"
PEERS: Final = ("envoy", "envoy-replaying", "nginx", "nginx-streaming", "haproxy")
JSON_VERSION: Final = 1
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One whole comparison."""

    machine: dict[str, Any]
    slices: int
    rounds: int
    durations: Durations
    cells: tuple[Cell, ...]
    found: Measurements

    @property
    def errors(self) -> int:
        """Requests that failed, in all samples of all proxies."""
        return sum(
            sample.load.errors
            for by_proxy in self.found.samples.values()
            for samples in by_proxy.values()
            for sample in samples
        )

    def proxies(self) -> list[str]:
        """Return their names, the peers first, in the order of known_proxies()."""
        names = {name for by_proxy in self.found.samples.values() for name in by_proxy}
        return [*(one for one in PEERS if one in names), *sorted(names.difference(PEERS))]


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds for one proxy in one cell. Ratios are None without the other."""

    proxy: str
    cpu_us: float
    cpu_us_low: float
    cpu_us_high: float
    to_yardstick: float | None
    to_best_peer: float | None
    requests_per_s: float
    busy: float
    p50_us: float
    p99_us: float
    peak_rss_mib: float
    errors: int
    added_p50_us: float | None
    added_to_yardstick: float | None


def rows(run: Run, cell: Cell) -> Iterator[Row]:
    """Sum up one cell, a row per proxy."""
    by_proxy = run.found.samples[cell.name]
    cpu_us = {name: _median(samples, lambda one: one.cpu_us) for name, samples in by_proxy.items()}
    added_us = added_p50_us(run.found.latencies_us.get(cell.name, {}))
    best_peer = min((cpu_us[name] for name in PEERS if name in cpu_us), default=None)
    for name in (one for one in run.proxies() if one in by_proxy):
        samples = by_proxy[name]
        yield Row(
            proxy=name,
            cpu_us=cpu_us[name],
            cpu_us_low=min(one.cpu_us for one in samples),
            cpu_us_high=max(one.cpu_us for one in samples),
            to_yardstick=_ratio(cpu_us[name], cpu_us.get(YARDSTICK)),
            to_best_peer=_ratio(cpu_us[name], best_peer),
            requests_per_s=_median(samples, lambda one: one.load.requests / one.load.duration_s),
            busy=_median(samples, lambda one: one.busy),
            p50_us=_median(samples, lambda one: one.load.p50_us),
            p99_us=_median(samples, lambda one: one.load.p99_us),
            peak_rss_mib=max(one.peak_rss_bytes for one in samples) / MIB,
            errors=sum(one.load.errors for one in samples),
            added_p50_us=added_us.get(name),
            added_to_yardstick=_ratio(added_us.get(name), added_us.get(YARDSTICK)),
        )


def added_p50_us(p50_us: dict[str, list[float]]) -> dict[str, float]:
    """Return by how much each proxy's median p50 is above the direct one, in microseconds."""
    if not p50_us.get(DIRECT):
        return {}
    direct = median(p50_us[DIRECT])
    return {name: median(found) - direct for name, found in p50_us.items() if name != DIRECT}


def console() -> Console:
    """Return standard output; in a file or pipe wide enough for the tables."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)


def show(run: Run, out: Console) -> None:
    """Print what requests cost, how long they took, and what it was measured with."""
    for title, lines in _tables(run):
        table = Table(title=title, title_justify="left")
        for number, heading in enumerate(lines[0]):
            table.add_column(heading, justify="left" if number < 2 else "right", no_wrap=number < 2)
        for before, line in pairwise(lines):
            if before[0] != line[0] and before is not lines[0]:
                table.add_section()
            same = before[0] == line[0]
            table.add_row("" if same else line[0], *line[1:])
        out.print(table)
    for note in _notes(run):
        out.print(note, style="dim", highlight=False)


def save_json(run: Run, file: Path) -> None:
    """Write everything that was measured, and the medians, to `file`."""
    document = {
        "version": JSON_VERSION,
        "machine": run.machine,
        "settings": {"slices": run.slices, "rounds": run.rounds, **asdict(run.durations)},
        "cells": {
            cell.name: {
                "title": cell.title,
                "body_bytes": len(cell.body),
                "in_flight": cell.connections * cell.streams,
                "proxies": {row.proxy: asdict(row) for row in rows(run, cell)},
                "rounds": {
                    name: [asdict(sample) for sample in samples]
                    for name, samples in run.found.samples[cell.name].items()
                },
                "p50_us_one_at_a_time": run.found.latencies_us.get(cell.name, {}),
            }
            for cell in run.cells
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")


def save_markdown(run: Run, file: Path) -> None:
    """Write the tables as Markdown to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(markdown(run))


def markdown(run: Run) -> str:
    """Return the tables, and what they were made with, as Markdown."""
    parts = []
    for title, lines in _tables(run):
        head, *rest = ("| " + " | ".join(line) + " |" for line in lines)
        rule = "|---|---" + "|--:" * (len(lines[0]) - 2) + "|"
        parts.append("\n".join([f"{title}:", "", head, rule, *rest, ""]))
    return "\n".join([*parts, *(f"- {note}" for note in _notes(run))]) + "\n"


def _tables(run: Run) -> list[tuple[str, list[list[str]]]]:
    """Return titled tables of text; the first line is the heading, the first cell the group."""
    cost, time = [list(_COST_HEADINGS)], [list(_TIME_HEADINGS)]
    for cell in run.cells:
        for row in rows(run, cell):
            cost.append([cell.title, row.proxy, *_cost_texts(row)])
            time.append([cell.title, row.proxy, *_time_texts(row)])
    titles = ("What a request costs the proxy", "How long requests take")
    return list(zip(titles, (cost, time), strict=True))


_COST_HEADINGS: Final = (
    "request",
    "proxy",
    "CPU µs",
    "spread",
    "to envoy",
    "to best",
    "per s",
    "core",
    "MiB",
    "errors",
)
_TIME_HEADINGS: Final = (
    "request",
    "proxy",
    "p50 ms",
    "p99 ms",
    "added p50 µs, one at a time",
    "to envoy",
)


def _cost_texts(row: Row) -> list[str]:
    return [
        f"{row.cpu_us:.1f}",
        f"{(row.cpu_us_high - row.cpu_us_low) / row.cpu_us:.0%}",
        _number(row.to_yardstick, 2),
        _number(row.to_best_peer, 2),
        f"{row.requests_per_s:,.0f}",
        f"{row.busy:.0%}",
        f"{row.peak_rss_mib:.0f}",
        str(row.errors),
    ]


def _time_texts(row: Row) -> list[str]:
    return [
        f"{row.p50_us / 1e3:.2f}",
        f"{row.p99_us / 1e3:.2f}",
        _number(row.added_p50_us, 0),
        _number(row.added_to_yardstick, 2),
    ]


def _notes(run: Run) -> list[str]:
    facts, seconds = run.machine, run.durations
    versions = ", ".join(f"{name}: {text}" for name, text in facts["versions"].items())
    in_flight = ", ".join(f"{one.title} {one.connections * one.streams}" for one in run.cells)
    return [
        f"{facts['when']}, commit {facts['commit']}; {facts['cpu']}, {facts['cores']} cores, "
        f"Linux {facts['kernel']}, Python {facts['python']}; load average before: "
        f"{facts['load_average_before'][0]} (above 0.5 something else ran too: expect spread)",
        f"{run.slices} stand-in slices; medians of {run.rounds} rounds of {seconds.load_s:g} s "
        f"after {seconds.warm_up_s:g} s of warming up; {facts['pinning']}",
        f"in flight: {in_flight}; CPU: utime + stime of all the "
        "proxy's processes per answered request; spread: highest less lowest round; to best: of "
        "the peers; core: CPU time per second; MiB: peak resident size",
        versions,
    ]


def _median(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return median(value(one) for one in samples)


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
