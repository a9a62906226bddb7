"""
Tail latency through slices that take time, under open-loop Poisson load: `python -m bench.tail`.

Envoy and the gateway get the same arrivals and the same work; see README.md here.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from bench import machine, report
from bench.arrivals import poisson
from bench.measure import Cores, start_proxies
from bench.open_loop import Outcome, send_all
from bench.processes import BenchError, Programs, end_on_sigterm
from bench.proxies import Envoy, Gateway, Proxy
from bench.standins import start_http
from contract.slice_spec import Endpoint, SliceSpec

YARDSTICK: Final = "envoy-least-request"
SKIPPED_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Slices and what stands in front of them.

    Attributes:
        name: As `--layouts` takes it.
        speeds: One per slice; also the weights that weighted proxies are given.
        proxies: Whom to compare.
        slow: Share of the requests that take longer by a slice's mood, and how many times.
    """

    name: str
    title: str
    speeds: tuple[float, ...]
    proxies: tuple[Proxy, ...]
    slow: tuple[float, float] = (0.0, 1.0)


LAYOUTS: Final = (
    Layout(
        "equal",
        "seven equal slices",
        (1.0,) * 7,
        (
            Envoy("envoy-round-robin", "ROUND_ROBIN"),
            Envoy(YARDSTICK, "LEAST_REQUEST"),
            Gateway("gateway-early-binding", queue={"enabled": False}),
            Gateway("gateway"),
        ),
    ),
    # Without weights round robin gives the 1g slices one and a half times what they can do at
    # this load: it has no tail to report, so it gets the weights.
    Layout(
        "mixed",
        "3g + 2g + 1g + 1g",
        (3.0, 2.0, 1.0, 1.0),
        (
            Envoy("envoy-round-robin-weighted", "ROUND_ROBIN", weighted=True),
            Envoy(YARDSTICK, "LEAST_REQUEST"),
            Envoy("envoy-least-request-weighted", "LEAST_REQUEST", weighted=True),
            Gateway("gateway-early-binding", queue={"enabled": False}),
            Gateway("gateway"),
        ),
    ),
    # One in fifty takes twenty times as long, on whatever slice.
    Layout(
        "moody",
        "seven equal slices, slow for one request in fifty",
        (1.0,) * 7,
        (
            Envoy(YARDSTICK, "LEAST_REQUEST"),
            Gateway("gateway"),
            Gateway("gateway-hedging-p95", hedging={"after": "p95"}),
            Gateway("gateway-hedging-50ms", hedging={"after": "50ms"}),
        ),
        slow=(0.02, 20.0),
    ),
)
DEFAULT_LAYOUTS: Final = "equal,mixed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status: 0, 1 when it failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    end_on_sigterm()
    layouts = [one for one in LAYOUTS if one.name in options.layouts.split(",")]
    if not layouts or not 0 < options.load < 1:
        known = ", ".join(one.name for one in LAYOUTS)
        console.print(f"--layouts takes {known}; --load takes a share between 0 and 1")
        return 2
    found: dict[str, Any] = {}
    tables = []
    try:
        for layout in layouts:
            seconds = options.requests * options.service_ms / 1e3 / options.load / 7
            console.print(f"{layout.title}: about {seconds:.0f} s", highlight=False)
            outcomes = _run(layout, options, console)
            found[layout.name] = {name: _figures(one) for name, one in outcomes.items()}
            tables.append(_table(layout, outcomes))
            report.console().print(tables[-1], highlight=False)
    except BenchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been ended")
        return 130
    settings = {
        key: value for key, value in vars(options).items() if key not in ("json", "markdown")
    }
    facts = machine.describe({}, Cores.of_this_machine())
    document = {"version": 1, "machine": facts, "settings": settings, "layouts": found}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    console.print(f"written: {options.json}")
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    return 0


def _run(layout: Layout, options: argparse.Namespace, console: Console) -> dict[str, Outcome]:
    proxies = []
    for proxy in layout.proxies:
        if sentence := proxy.missing():
            console.print(f"[yellow]left out: {sentence}[/yellow]", highlight=False)
        else:
            proxies.append(proxy)
    if not proxies:
        raise BenchError("no proxy is left to measure")
    arrivals = poisson(
        options.requests,
        options.load,
        layout.speeds,
        options.service_ms / 1e3,
        options.sigma,
        options.seed,
    )
    cores = Cores.of_this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as name,
        Programs(Path(name)) as programs,
    ):
        ports = []
        for proxy in proxies:  # each in front of slices of its own, as all run at the same time
            slices = start_slices(programs, proxy.name, layout.speeds, cores, layout.slow)
            (target,) = start_proxies(programs, [proxy], slices, cores)
            ports.append(target.launch.http_port)
        outcomes = uvloop.run(send_all(ports, arrivals, skip=int(options.requests * SKIPPED_SHARE)))
    return {proxy.name: outcome for proxy, outcome in zip(proxies, outcomes, strict=True)}


def start_slices(
    programs: Programs,
    proxy: str,
    speeds: Sequence[float],
    cores: Cores,
    slow: tuple[float, float] = (0.0, 1.0),
) -> list[SliceSpec]:
    """Start timed slices for one proxy, one of each of `speeds`, which are their weights too."""
    ports = [programs.take_port() for _ in speeds]
    arguments = [
        f"{port}:{speed}:{slow[0]}:{slow[1]}" for port, speed in zip(ports, speeds, strict=True)
    ]
    name = f"slices-of-{proxy}"
    start_http(programs, name, "bench.tail_slice", arguments, ports[-1], cores.rest)
    nowhere = Endpoint("127.0.0.1", programs.take_port())  # the load is HTTP
    return [
        SliceSpec(f"s{i}", Endpoint("127.0.0.1", port), nowhere, weight=speed)
        for i, (port, speed) in enumerate(zip(ports, speeds, strict=True))
    ]


def _figures(outcome: Outcome) -> dict[str, float]:
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
    found = {f"{name}_ms": outcome.percentile_s(share) * 1e3 for name, share in shares}
    lags = sorted(outcome.lags_s)
    lag_ms = lags[int(0.99 * len(lags))] * 1e3 if lags else 0.0
    return {**found, "client_lag_p99_ms": lag_ms, "errors": outcome.errors}


def _table(layout: Layout, outcomes: dict[str, Outcome]) -> str:
    """Return a Markdown table, a line per proxy."""
    headings = ("p50", "p99", "p99.9", "p99 to LR", "p99.9 to LR", "errors", "client lag p99")
    lines = [
        f"{layout.title}, latency from the scheduled arrival in ms (LR: {YARDSTICK}):",
        "",
        "| proxy | " + " | ".join(headings) + " |",
        "|---" + "|--:" * len(headings) + "|",
    ]
    base = _figures(outcomes[YARDSTICK]) if YARDSTICK in outcomes else None
    for name, outcome in outcomes.items():
        found = _figures(outcome)
        cells = [
            name,
            *(f"{found[key]:.1f}" for key in ("p50_ms", "p99_ms", "p999_ms")),
            *(f"{found[key] / base[key]:.2f}" if base else "-" for key in ("p99_ms", "p999_ms")),
            str(outcome.errors),
            f"{found['client_lag_p99_ms']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.tail", description=__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=20000, metavar="N", help="per proxy (default 20000)")
    add("--load", type=float, default=0.85, metavar="SHARE", help="of all slices (default 0.85)")
    add("--service-ms", type=float, default=20.0, metavar="MS", help="mean work (default 20)")
    add("--sigma", type=float, default=1.0, help="of the work's logarithm (default 1.0)")
    add("--seed", type=int, default=1, help="of arrivals and work (default 1)")
    names = ",".join(one.name for one in LAYOUTS)
    default = DEFAULT_LAYOUTS
    add("--layouts", default=default, metavar="NAMES", help=f"of {names} (default {default})")
    json_file = Path("run/bench/tail.json")
    add("--json", type=Path, default=json_file, metavar="FILE", help=f"default {json_file}")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
