"""
What clients get beyond capacity, with load shed and without: `python -m bench.overload`.

Seven stand-in slices that serve one request at a time, Poisson arrivals from half of what they can do
to three times as much. Both gateways get the same arrivals at the same time, each before slices of
its own: one waits and refuses (`queue.timeout`), one gives each request to a slice at once.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench import machine, report
from bench.arrivals import poisson
from bench.figure import Series, chart
from bench.measure import Cores, start_proxies
from bench.open_loop import Outcome, send_all
from bench.processes import BenchError, Programs, end_on_sigterm
from bench.proxies import Gateway
from bench.tail import start_slices

SPEEDS: Final = (1.0,) * 7
SIGMA: Final = 0.5
SHED: Final = "shedding"
BOUND: Final = "no queue, no limit"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status: 0, 1 when it failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    end_on_sigterm()
    loads = options.loads
    seconds = sum(max(1.0, load) for load in loads) * options.seconds
    console.print(f"about {seconds:.0f} s", highlight=False)
    found: dict[str, list[dict[str, float]]] = {SHED: [], BOUND: []}
    try:
        for load in loads:
            for name, outcome in _run(load, options).items():
                found[name].append(_figures(load, outcome))
            console.print(f"load {load:g} done", highlight=False)
    except BenchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been ended")
        return 130
    _show(found, report.console())
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "svg")}
    facts = machine.describe({}, Cores.of_this_machine())
    document = {"version": 1, "machine": facts, "settings": settings, "figures": found}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(_drawn(found, options))
    console.print(f"written: {options.json}")
    return 0


def _run(load: float, options: argparse.Namespace) -> dict[str, Outcome]:
    service_s = options.service_ms / 1e3
    count = int(options.seconds * load * sum(SPEEDS) / service_s)
    arrivals = poisson(count, load, SPEEDS, service_s, SIGMA, options.seed)
    cores = Cores.of_this_machine()
    proxies = (
        Gateway(SHED, queue={"timeout": options.timeout_ms / 1e3}),
        Gateway(BOUND, queue={"enabled": False}),
    )
    with (
        tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as name,
        Programs(Path(name)) as programs,
    ):
        ports = []
        for number, proxy in enumerate(proxies):
            slices = start_slices(programs, f"gateway-{number}", SPEEDS, cores)
            (target,) = start_proxies(programs, [proxy], slices, cores)
            ports.append(target.launch.http_port)
        # The first fifth is left out: queues fill.
        outcomes = uvloop.run(send_all(ports, arrivals, skip=count // 5))
    return {proxy.name: outcome for proxy, outcome in zip(proxies, outcomes, strict=True)}


def _figures(load: float, outcome: Outcome) -> dict[str, float]:
    served = len(outcome.latencies_s)
    lags = sorted(outcome.lags_s)
    return {
        "load": load,
        "p50_ms": outcome.percentile_s(0.5) * 1e3,
        "p99_ms": outcome.percentile_s(0.99) * 1e3,
        "served": served,
        "refused": outcome.counted_errors,
        "refused_share": outcome.counted_errors / max(1, served + outcome.counted_errors),
        "client_lag_p99_ms": lags[int(0.99 * len(lags))] * 1e3 if lags else 0.0,
    }


def _show(found: dict[str, list[dict[str, float]]], console: Console) -> None:
    table = Table(title="Latency of what was served, from the scheduled arrival, ms")
    for heading in ("load", "gateway", "p50", "p99", "refused", "client lag p99"):
        table.add_column(heading, justify="right")
    for rows in zip(*found.values(), strict=True):
        for name, row in zip(found, rows, strict=True):
            table.add_row(
                f"{row['load']:g}", name, f"{row['p50_ms']:.0f}", f"{row['p99_ms']:.0f}",
                f"{row['refused_share']:.0%}", f"{row['client_lag_p99_ms']:.0f}",
            )  # fmt: skip
    console.print(table)


def _drawn(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    lines = [
        Series(f"{label} {name}", [(row["load"], row[key]) for row in found[name]])
        for name in (BOUND, SHED)
        for label, key in (("p99", "p99_ms"), ("p50", "p50_ms"))
    ]
    return chart(
        f"Latency of what is served; service {options.service_ms:g} ms, "
        f"queue.timeout {options.timeout_ms:g} ms",
        "offered load, in capacities", "ms", lines, log=True,
    )  # fmt: skip


def _loads(text: str) -> list[float]:
    loads = sorted(float(part) for part in text.split(","))
    if not all(0 < load <= 10 for load in loads):
        raise argparse.ArgumentTypeError("loads are in capacities: above 0, 10 at most")
    return loads


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload", description="Latency beyond capacity, shed or not."
    )
    parser.add_argument("--loads", type=_loads, default=_loads("0.5,0.8,1,1.5,2,3"))
    parser.add_argument("--seconds", type=float, default=15.0, help="of arrivals for each load")
    parser.add_argument("--service-ms", type=float, default=100.0, help="mean, at speed 1")
    parser.add_argument("--timeout-ms", type=float, default=300.0, help="queue.timeout")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("run/bench/overload.json"))
    parser.add_argument("--svg", type=Path, help="where to draw the figure; not drawn without")
    return parser


if __name__ == "__main__":
    sys.exit(main())
