"""`mig-gateway figures`."""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract.slice_spec import Endpoint
from gateway.admin_client import AdminClient, CallError
from gateway.figures import drawing, perf_analyzer, system
from gateway.figures.fleet import Fleet
from gateway.figures.points import Point, Record, needed
from gateway.flowers import addresses
from gateway.flowers.asking import AskError
from gateway.quantities import duration_s
from gateway.terminal.connecting import add_admin_options, admin

BUILT_IN: Final = "built-in load"
CONCURRENCY: Final = "1,2,4,6,8,12,16,24,32,40,48,64,80,100"
CLIENTS: Final = "127.0.0.1:50050"
ORDERS: Final = "orders.json"
ANSWER_S: Final = 10.0
LOAD_BUSY: Final = 0.9
"""Share of a processor from which on a process of the load has no time left."""


def add_command(commands: Any) -> None:
    """Add `figures` to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "figures", help="measure and draw throughput and latency for one slice to all"
    )
    parser.add_argument(
        "--simulated", action="store_true",
        help="start seven slices of a simulated GPU whose model takes --service-time",
    )  # fmt: skip
    parser.add_argument(
        "--gpu", metavar="GPU",
        help="start launcher, servers and gateway by itself, for this GPU as the launcher names it",
    )  # fmt: skip
    parser.add_argument(
        "--model-repository", type=Path, metavar="DIR", help="for --gpu: the models to serve"
    )
    parser.add_argument("--service-time", type=_duration, default=0.010, metavar="10ms")
    parser.add_argument(
        "--url", default=CLIENTS, metavar="HOST:PORT", help=f"for clients ({CLIENTS})"
    )
    parser.add_argument("--model", metavar="NAME", help="(flower; timed when simulated)")
    parser.add_argument("--grpc", action="store_true", help="over gRPC instead of HTTP")
    parser.add_argument(
        "--slices", type=_numbers, metavar="1,2,…", help="how many to enable (1 to all)"
    )
    parser.add_argument("--concurrency", type=_numbers, default=CONCURRENCY, metavar="1,2,…")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each point (3)")
    parser.add_argument("--budget", type=float, default=50.0, metavar="MS", help="(50)")
    parser.add_argument("--out", type=Path, default=Path("run/figures"), metavar="FOLDER")
    parser.add_argument(
        "--built-in", action="store_true", help="do not use perf_analyzer, though it is there"
    )
    parser.add_argument(
        "--direct", action="store_true",
        help="measure each point also with the load going straight to the slices (built-in load)",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that send, of the built-in load (1)"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    add_admin_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing, and draw what there is. Raises CallError."""
    if arguments.processes < 1:
        raise CallError("--processes: 1 or more")
    # Told to end by whatever means, it leaves the slices as they were: as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with _system(arguments) as started:
        calls = AdminClient(f"http://{started.admin}") if started else admin(arguments)
        endpoint = started.clients if started else addresses.near(_endpoint(arguments.url))
        model = arguments.model or (system.MODEL if arguments.simulated else "flower")
        # Slices that this command has started itself are nobody's afterwards.
        folder = arguments.out / "system" if started else arguments.out
        fleet = Fleet(calls, folder / ORDERS)
        built_in = arguments.built_in or arguments.direct
        program = None if built_in else shutil.which(perf_analyzer.PROGRAM)
        conditions = _conditions(arguments, fleet, endpoint, model, program)
        record = Record(arguments.out, conditions, shlex.join(["mig-gateway", *sys.argv[1:]]))
        if not arguments.fresh and record.resume():
            found = len(record.points) + len(record.direct)
            print(f"goes on with {found} points in {arguments.out}")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(_measure(arguments, fleet, endpoint, model, program, record))
            except KeyboardInterrupt:
                print("broken off; the same command goes on from here")
            except AskError as error:
                raise CallError(f"{model}: {error}") from None
            finally:
                fleet.restore()
    return _report(record, arguments.budget)


def _system(arguments: argparse.Namespace) -> AbstractContextManager[system.System | None]:
    """Return what is to be started first. Raises CallError."""
    folder = arguments.out / "system"
    if arguments.simulated:
        models = system.timed_model(arguments.out / "models", arguments.service_time * 1e3)
        return system.started(folder, arguments.gpu or system.SIMULATED, models)
    if not arguments.gpu:
        return nullcontext()
    if arguments.model_repository is None:
        raise CallError("--gpu: say with --model-repository what is to be served")
    return system.started(folder, arguments.gpu, arguments.model_repository)


async def _measure(
    arguments: argparse.Namespace, fleet: Fleet, endpoint: Endpoint, model: str,
    program: str | None, record: Record,
) -> None:  # fmt: skip
    counts = arguments.slices or list(range(1, len(fleet.found) + 1))
    missing = [
        (slices, concurrency, direct)
        for slices in counts
        for concurrency in arguments.concurrency
        for direct in (False, True)[: 1 + arguments.direct]
        if (slices, concurrency) not in (record.direct if direct else record.points)
    ]
    from gateway.figures.crew import Crew  # and with it grpcio, which no other command needs

    http = [Endpoint.parse(view["http"]) for view in fleet.found]
    straight = [Endpoint.parse(view["grpc"]) for view in fleet.found] if arguments.grpc else http
    crew = Crew(arguments.processes, endpoint, model, over_grpc=arguments.grpc)
    await crew.open()
    enabled = 0
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with Progress(*columns, console=Console()) as progress:
            bar = progress.add_task("", total=len(missing))
            for slices, concurrency, direct in missing:
                if slices != enabled:
                    await asyncio.to_thread(fleet.use, slices)
                    enabled = slices
                words = f"{drawing.words(slices)}, {concurrency} outstanding"
                progress.update(bar, description=words + (", direct" if direct else ""))
                if direct:
                    targets = [straight[at % slices] for at in range(concurrency)]
                    point = await crew.measure(slices, targets, http[:slices], arguments.seconds)
                elif program is None:
                    targets = [endpoint] * concurrency
                    point = await crew.measure(slices, targets, [endpoint], arguments.seconds)
                else:
                    point = await asyncio.to_thread(
                        perf_analyzer.measure, program, endpoint, model, over_grpc=arguments.grpc,
                        slices=slices, concurrency=concurrency, seconds=arguments.seconds,
                        folder=arguments.out / "perf_analyzer",
                    )  # fmt: skip
                record.add(point, direct=direct)
                progress.advance(bar)
    finally:
        await crew.close()


def _conditions(
    arguments: argparse.Namespace, fleet: Fleet, endpoint: Endpoint, model: str, program: str | None
) -> dict[str, Any]:
    """Return everything that somebody needs who wants to measure the same."""
    profiles = [view["profile"] or "no profile" for view in fleet.found]
    layout = ", ".join(f"{profiles.count(name)} x {name}" for name in dict.fromkeys(profiles))
    is_simulated = any(view["simulated"] for view in fleet.found)
    return {
        "simulated": is_simulated,
        "service_ms": arguments.service_time * 1e3 if arguments.simulated else 0,
        "model": model,
        "protocol": "gRPC" if arguments.grpc else "HTTP",
        "tool": perf_analyzer.PROGRAM if program else BUILT_IN,
        "processes": 0 if program else arguments.processes,
        "seconds": arguments.seconds,
        "layout": layout,
        "slices": [
            {key: view[key] for key in ("name", "profile", "mig_uuid", "place", "weight")}
            for view in fleet.found
            if not arguments.simulated
        ],
        "versions": {
            "mig-gateway": importlib.metadata.version("mig-gateway"),
            "python": platform.python_version(),
            "triton": _triton_version(endpoint),
            "perf_analyzer": perf_analyzer.version(program) if program else "",
        },
        "host": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "gpus": [] if is_simulated else _gpus(),
        },
    }


def _triton_version(endpoint: Endpoint) -> str:
    """Return what the servers say of themselves. Raises CallError."""
    try:
        with urllib.request.urlopen(f"http://{endpoint}/v2", timeout=ANSWER_S) as answer:
            return str(json.load(answer)["version"])
    except (OSError, ValueError, KeyError) as error:
        raise CallError(f"{endpoint}: {error}") from None


def _gpus() -> list[str]:
    """Return this machine's GPUs with their driver's version, as nvidia-smi names them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []  # there is a program and no driver
    return done.stdout.splitlines()


def _report(record: Record, budget_ms: float) -> int:
    if not record.points:
        return 1
    everything = [*record.points.values(), *record.direct.values()]
    failed = sum(point.failed for point in everything)
    most: Point = max(record.points.values(), key=lambda point: point.throughput)
    print(
        f"{len(record.points)} points, {failed} failed requests; the most: "
        f"{most.throughput:.0f} inferences/s by {most.slices} slices at {most.concurrency}"
    )
    if busy := sum(point.load_cpu > LOAD_BUSY for point in everything):
        print(
            f"at {busy} points the load itself was at its limit: more --processes would tell more"
        )
    for concurrency, slices in sorted(needed(record.points.values(), budget_ms).items()):
        words = drawing.words(slices) if slices else "more slices than there are"
        print(f"  {concurrency:4} outstanding: p90 within {budget_ms:g} ms takes {words}")
    try:
        files = drawing.draw(record, budget_ms)
    except ImportError:
        print("nothing drawn: matplotlib is missing (pip install 'mig-gateway[figures]')")
        return 1
    print("\n".join(f"wrote {path}" for path in files))
    return 1 if failed else 0


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise CallError(str(error)) from None


def _numbers(text: str) -> list[int]:
    """Read `1,2,4` or `1:7`, as perf_analyzer writes ranges."""
    first, colon, last = text.partition(":")
    try:
        found = list(range(int(first), int(last) + 1)) if colon else [int(n) for n in text.split(",")]  # fmt: skip
    except ValueError:
        found = []
    if not found or min(found) < 1 or len(found) > 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: write 1,2,4 or 1:7")
    return found


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
