"""The three figures as PNG files, and one page with them, their numbers and their conditions."""

import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.figures.points import Record, as_csv, needed, of

PAGE: Final = "figures.html"
Figure = Any
"""matplotlib.figure.Figure; matplotlib has no types of its own."""

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    "color:#17202a;background:#fff}svg{width:100%;height:auto}table{border-collapse:collapse;"
    "font-variant-numeric:tabular-nums;font-size:13px}th,td{padding:.2rem .7rem;text-align:right;"
    "border-bottom:1px solid #dbe1e8}pre{background:#f3f5f8;padding:1rem;overflow:auto;"
    "font-size:12px}.stamp{border:2px dashed #d08700;color:#a86500;padding:.3rem .8rem;"
    "border-radius:6px;font-weight:700}"
)


def draw(record: Record, budget_ms: float) -> list[Path]:
    """Write everything; return the files. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    figures: tuple[tuple[str, str, Callable[[], Figure]], ...] = (
        ("throughput", "Throughput against concurrency", lambda: _throughput(record)),
        ("latency", "p90 latency against concurrency", lambda: _latency(record)),
        ("budget", "What a latency budget needs", lambda: _budget(record, budget_ms)),
    )
    if record.direct:
        title = "Through the gateway, and straight to the slices"
        figures += (("direct", title, lambda: _direct(record)),)
    files, parts = [], []
    for name, title, make in figures:
        figure = make()
        _stamp(figure, record)
        path = record.folder / f"{name}.png"
        figure.savefig(path, dpi=150)
        files.append(path)
        text = io.StringIO()
        figure.savefig(text, format="svg")
        svg = text.getvalue()
        parts.append(f"<h2>{html.escape(title)}</h2>\n{svg[svg.index('<svg') :]}")
    page = record.folder / PAGE
    page.write_text(_page(record, budget_ms, parts), encoding="utf-8")
    return [*files, page]


def _axes(record: Record, ylabel: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure as New

    figure = New(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("concurrency: requests outstanding")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.set_xlim(0, max(c for _, c in record.points) * 1.03)
    return figure, axes


def _colour(record: Record, slices: int) -> Any:
    import matplotlib as mpl

    counts = record.counts
    return mpl.colormaps["viridis"](0.92 * counts.index(slices) / max(1, len(counts) - 1))


def words(slices: int) -> str:
    """Return `1 slice`, `2 slices`, …"""
    return f"{slices} slice" if slices == 1 else f"{slices} slices"


def _throughput(record: Record) -> Figure:
    figure, axes = _axes(record, "inferences/s")
    for slices in record.counts:
        points = record.of(slices)
        axes.plot(
            [p.concurrency for p in points], [p.throughput for p in points], marker=".",
            color=_colour(record, slices), label=words(slices),
        )  # fmt: skip
    axes.set_ylim(0)
    return _with_legend(figure)


def _p90(record: Record, axes: Any, alpha: float = 1.0) -> None:
    for slices in record.counts:
        points = record.of(slices)
        axes.plot(
            [p.concurrency for p in points], [p.p90_us / 1e3 for p in points], marker=".",
            color=_colour(record, slices), label=words(slices), alpha=alpha,
        )  # fmt: skip
    axes.set_ylim(0)


def _latency(record: Record) -> Figure:
    figure, axes = _axes(record, "p90 latency, ms")
    _p90(record, axes)
    return _with_legend(figure)


def _budget(record: Record, budget_ms: float) -> Figure:
    figure, axes = _axes(record, "p90 latency, ms")
    _p90(record, axes, alpha=0.55)
    axes.axhline(budget_ms, color="black", linestyle="--", linewidth=1)
    axes.annotate(f"budget {budget_ms:g} ms", (axes.get_xlim()[1], budget_ms), ha="right",
                  va="bottom", fontsize=9)  # fmt: skip
    path = [
        (concurrency, record.points[slices, concurrency].p90_us / 1e3, slices)
        for concurrency, slices in sorted(needed(record.points.values(), budget_ms).items())
        if slices is not None
    ]
    axes.plot([x for x, _, _ in path], [y for _, y, _ in path], color="black", linewidth=2,
              label="as few slices as keep it")  # fmt: skip
    before = 0
    for x, y, slices in path:
        if slices != before:
            axes.annotate(str(slices), (x, y), xytext=(0, 5), textcoords="offset points",
                          ha="center", fontweight="bold")  # fmt: skip
        before = slices
    axes.set_ylim(0, 4 * budget_ms)
    return _with_legend(figure)


def _direct(record: Record) -> Figure:
    from matplotlib.figure import Figure as New

    figure = New(figsize=(11, 5), layout="constrained")
    rates, latencies = figure.subplots(1, 2)
    for slices in sorted({slices for slices, _ in record.direct}):
        for points, style in ((record.points, "-"), (record.direct, "--")):
            found = of(points, slices)
            colour = _colour(record, slices)
            label = words(slices) if style == "-" else None
            at = [p.concurrency for p in found]
            rates.plot(at, [p.throughput for p in found], style, marker=".", color=colour,
                       label=label)  # fmt: skip
            latencies.plot(at, [p.p90_us / 1e3 for p in found], style, marker=".", color=colour)
    for axes, ylabel in ((rates, "inferences/s"), (latencies, "p90 latency, ms")):
        axes.set_xlabel("concurrency: requests outstanding")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.3)
        axes.set_ylim(0)
    rates.plot([], [], "-", color="black", label="through the gateway")
    rates.plot([], [], "--", color="black", label="straight to the slices")
    return _with_legend(figure)


def _with_legend(figure: Figure) -> Figure:
    """Put what the first axes' curves are beside them all, where it hides none."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _stamp(figure: Figure, record: Record) -> None:
    if record.conditions["simulated"]:
        figure.text(0.5, 0.5, "SIMULATED", fontsize=64, color="#d08700", alpha=0.13,
                    ha="center", va="center", rotation=25, weight="bold")  # fmt: skip
    figure.suptitle(_conditions(record), fontsize=9, color="#5a6775")


def _conditions(record: Record) -> str:
    found = record.conditions
    what = "SIMULATED: no GPU, " if found["simulated"] else ""
    if found["service_ms"]:
        what += f"the model takes a stated {found['service_ms']:g} ms; "
    gpus = [gpu.partition(",")[0] for gpu in found.get("host", {}).get("gpus", ())]
    on = f" of {' and '.join(gpus)}" if gpus else ""
    where = f"{found['layout']}{on}"
    return f"{what}{found['model']} over {found['protocol']}, {found['tool']}, {where}"


def _page(record: Record, budget_ms: float, parts: list[str]) -> str:
    stamp = (
        '<p class="stamp">SIMULATED: measured without a GPU. Times are those of a stand-in.</p>'
        if record.conditions["simulated"]
        else ""
    )
    rows = "".join(
        f"<tr><td>{concurrency}</td><td>{slices or 'more than there are'}</td></tr>"
        for concurrency, slices in sorted(needed(record.points.values(), budget_ms).items())
    )
    tables = "".join(
        f"<h3>{words(slices)}</h3><table>{_rows(as_csv(record.of(slices)))}</table>"
        for slices in record.counts
    )
    conditions = html.escape(json.dumps(record.conditions, indent=1))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>MIG Gateway: figures</title>'
        f"<style>{_STYLE}</style><h1>MIG Gateway: one slice to {max(record.counts)}</h1>{stamp}"
        f"<p>{html.escape(_conditions(record))}</p>{''.join(parts)}"
        f"<h2>Slices that keep p90 within {budget_ms:g} ms</h2>"
        f"<table><tr><th>concurrency</th><th>slices</th></tr>{rows}</table>"
        f"{_beside(record)}"
        f"<h2>All points</h2><p>Times in microseconds.</p>{tables}"
        f"<h2>Conditions</h2><pre>{html.escape(record.command)}</pre><pre>{conditions}</pre></html>\n"
    )


def _beside(record: Record) -> str:
    """Return the table of both ways."""
    if not record.direct:
        return ""
    rows = "".join(
        f"<tr><td>{slices}</td><td>{concurrency}</td>"
        f"<td>{ours.throughput:.0f}</td><td>{one.throughput:.0f}</td>"
        f"<td>{ours.p50_us / 1e3:.2f}</td><td>{one.p50_us / 1e3:.2f}</td>"
        f"<td>{ours.p90_us / 1e3:.2f}</td><td>{one.p90_us / 1e3:.2f}</td></tr>"
        for (slices, concurrency), one in sorted(record.direct.items())
        if (ours := record.points.get((slices, concurrency)))
    )
    return (
        "<h2>Through the gateway, and straight to the slices</h2><p>Straight to them, each "
        "outstanding request is bound to one slice, evenly.</p><table><tr><th>slices</th>"
        "<th>concurrency</th><th>gateway, /s</th><th>direct, /s</th><th>gateway, p50 ms</th>"
        "<th>direct</th><th>gateway, p90 ms</th><th>direct</th></tr>"
        f"{rows}</table>"
    )


def _rows(text: str) -> str:
    head, *lines = text.splitlines()
    cells = [f"<tr>{''.join(f'<th>{c}</th>' for c in head.split(','))}</tr>"]
    cells += [f"<tr>{''.join(f'<td>{c}</td>' for c in line.split(','))}</tr>" for line in lines]
    return "".join(cells)
