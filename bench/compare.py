"""Compare the gateway with Envoy, nginx and HAProxy: `make bench`. See README.md here."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import load, machine, report
from bench.cells import Cell, all_cells, choose
from bench.measure import Comparison, Cores, Durations, Measurements, check_targets, start_proxies
from bench.processes import BenchError, Programs, end_on_sigterm
from bench.progress import Progress
from bench.proxies import Gateway, Proxy, known_proxies
from bench.standins import GrpcSlices, nghttpd_missing, start_slices

DEFAULT: Final = Durations(warm_up_s=1, load_s=5, latency_s=2)
QUICK: Final = Durations(warm_up_s=0, load_s=2, latency_s=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status: 0, 1 when it failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    end_on_sigterm()
    try:
        cells = choose(_names(options.cells))
        proxies = _choose_proxies(_names(options.only), options.checkout)
        proxies = _installed(proxies, options.require_all, console)
        _need_tools(cells, options.grpc_slices)
    except ValueError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 2
    try:
        run = _run(options, cells, proxies, console)
    except BenchError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been ended")
        return 130
    report.show(run, report.console())
    report.save_json(run, options.json)
    console.print(f"written: {options.json}")
    if options.markdown:
        report.save_markdown(run, options.markdown)
        console.print(f"written: {options.markdown}")
    return 0 if run.errors == 0 else 1


def _run(
    options: argparse.Namespace, cells: Sequence[Cell], proxies: Sequence[Proxy], console: Console
) -> report.Run:
    base = QUICK if options.quick else DEFAULT
    rounds = options.rounds or (1 if options.quick else 3)
    durations = Durations(
        warm_up_s=base.warm_up_s,
        load_s=options.seconds or base.load_s,
        latency_s=0 if options.no_latency else base.latency_s,
    )
    cores = Cores.of_this_machine()
    facts = machine.describe({proxy.name: proxy.version() for proxy in proxies}, cores)
    with (
        tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as name,
        Programs(Path(name)) as programs,
        Progress(console) as progress,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # nginx, started by root, works as another user
        progress.say("starting the slices")
        slices = start_slices(programs, options.slices, cores.rest, options.grpc_slices)
        progress.say("starting the proxies")
        targets = start_proxies(programs, proxies, slices, cores)
        check_targets(targets, cells, folder)
        comparison = Comparison(
            targets, cells, slices[0], cores, durations, folder, progress=progress.say
        )
        found: Measurements = comparison.run(rounds)
    return report.Run(facts, options.slices, rounds, durations, tuple(cells), found)


def _choose_proxies(names: Sequence[str], checkouts: Sequence[str]) -> list[Proxy]:
    proxies = list(known_proxies())
    for text in checkouts:
        name, separator, folder = text.partition("=")
        if not separator or not name or not Path(folder).is_dir():
            raise ValueError(f"--checkout {text!r} is not NAME=FOLDER with a folder that exists")
        proxies.append(Gateway(name, Path(folder).resolve()))
    known = [proxy.name for proxy in proxies]
    for name in names:
        if name not in known:
            raise ValueError(f"--only: there is no {name!r}; known: {', '.join(known)}")
    added = known[len(known_proxies()) :]
    return [one for one in proxies if not names or one.name in names or one.name in added]


def _installed(proxies: Sequence[Proxy], require_all: bool, console: Console) -> list[Proxy]:
    """Return those that can run; say what to install for the others."""
    missing = [sentence for proxy in proxies if (sentence := proxy.missing())]
    if missing and require_all:
        raise ValueError("not everything is installed:\n" + "\n".join(missing))
    for sentence in missing:
        console.print(f"[yellow]left out: {sentence}[/yellow]", highlight=False)
    present = [proxy for proxy in proxies if proxy.missing() is None]
    if not present:
        raise ValueError("no proxy is left to measure")
    return present


def _need_tools(cells: Sequence[Cell], grpc_slices: GrpcSlices) -> None:
    missing = load.missing_tools(cells)
    if grpc_slices == "nghttpd":
        missing += nghttpd_missing()
    if missing:
        raise ValueError("\n".join([*missing, "or choose cells that do without (--cells)"]))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__)
    names = ",".join(proxy.name for proxy in known_proxies())
    cells = ",".join(cell.name for cell in all_cells())
    add = parser.add_argument
    add("--only", default="", metavar="NAMES", help=f"these proxies only, from {names}")
    add("--cells", default="", metavar="NAMES", help=f"these cells only, from {cells}")
    add("--rounds", type=int, metavar="N", help="rounds; figures are medians (default 3)")
    add("--seconds", type=int, metavar="S", help="load per proxy, cell and round (default 5)")
    add("--slices", type=int, default=7, metavar="N", help="stand-in slices (default 7)")
    kinds = ("own", "nghttpd")
    add("--grpc-slices", choices=kinds, default="own", help="who plays gRPC slices (default own)")
    add("--quick", action="store_true", help="one round of 2 s: about a minute, rough figures")
    add("--no-latency", action="store_true", help="leave out latency at concurrency 1")
    add("--require-all", action="store_true", help="fail when a proxy is not installed")
    add(
        "--checkout",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="also measure the gateway of another checkout (may be given again)",
    )
    json_file = Path("run/bench/compare.json")
    add("--json", type=Path, default=json_file, metavar="FILE", help=f"default {json_file}")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
