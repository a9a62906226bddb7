"""`mig-gateway`: serve | check | slices."""

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contract.slice_spec import Endpoint
from gateway.config import Config, ConfigError, load
from gateway.quantities import duration_s

REFUSED: Final = 1
"""The gateway said no, or could not be reached."""
MISUSED: Final = 2
"""The command line or the configuration file is wrong; argparse uses the same."""
DEFAULT_ADMIN: Final = "http://127.0.0.1:9001"
ANSWER_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024


class CallError(Exception):
    """An admin call failed; the message is one sentence for the terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        command: Any = arguments.command
        return int(command(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return MISUSED
    except CallError as error:
        print(f"mig-gateway: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mig-gateway",
        description="One port in front of N Triton servers that behaves like one big Triton.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", type=Path, required=True, metavar="FILE")
    serve.set_defaults(command=_serve)
    check = commands.add_parser(
        "check", help="validate a configuration; name every mistake, exit 2 on any"
    )
    check.add_argument("--config", type=Path, required=True, metavar="FILE")
    check.set_defaults(command=_check)
    slices = commands.add_parser(
        "slices", help="show the slices of a running gateway, or take one out and in"
    )
    slices.add_argument("verb", nargs="?", choices=("enable", "disable", "drain"))
    slices.add_argument("name", nargs="?", metavar="NAME", help="the slice")
    slices.add_argument(
        "--wait", metavar="30s", type=_duration, help="return when nothing is in flight"
    )
    slices.add_argument(
        "--force", action="store_true", help="even if it is the last slice that can serve"
    )
    slices.add_argument("--json", action="store_true", help="print the gateway's answer as it is")
    where = slices.add_mutually_exclusive_group()
    where.add_argument("--admin", metavar="URL", help=f"the admin API (default {DEFAULT_ADMIN})")
    where.add_argument("--config", type=Path, metavar="FILE", help="take its address from there")
    slices.set_defaults(command=_slices)
    return parser


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- serve, check -----------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    # Here, not above: uvloop and the relay are no business of `check` and `slices`.
    from gateway import app

    return app.run(config)


def _check(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    for warning in config.warnings:
        print(f"{arguments.config}: warning: {warning}", file=sys.stderr)
    print(f"{arguments.config}: fine")
    for line in _summary(config):
        print(f"  {line}")
    return 0


def _summary(config: Config) -> list[str]:
    lines = [
        f"listen      {', '.join(str(endpoint) for endpoint in config.listen)}",
        f"admin       {config.admin.listen}",
        f"policy      {config.balancing.policy}",
    ]
    lines += [
        f"slice       {spec.name}: http {spec.http}, grpc {spec.grpc}, weight {spec.weight:g}"
        for spec in config.specs
    ]
    if config.inventory is not None:
        there = "" if config.inventory.exists() else " (not there yet)"
        lines.append(f"inventory   {config.inventory}{there}")
    lines.append(f"state_file  {config.state_file}")
    return lines


# --- slices -----------------------------------------------------------------------------------


def _slices(arguments: argparse.Namespace) -> int:
    base = _admin_url(arguments)
    if arguments.verb is None:
        answer = _call(base, "GET", "/v1/slices", ANSWER_S)
        if arguments.json:
            print(json.dumps(answer, indent=2))
        else:
            # A pipe has no width: 80 columns would cut what is to be read by a program.
            wide = None if sys.stdout.isatty() else 200
            Console(width=wide).print(_table(_fields(answer, "slices")))
        return 0
    if arguments.name is None:
        print(f"mig-gateway slices {arguments.verb}: NAME is missing", file=sys.stderr)
        return MISUSED
    return _order(base, arguments)


def _order(base: str, arguments: argparse.Namespace) -> int:
    query = {}
    if arguments.wait is not None:
        query["wait"] = f"{arguments.wait:.3f}s"
    if arguments.force:
        query["force"] = "true"
    name = urllib.parse.quote(arguments.name, safe="")
    path = f"/v1/slices/{name}/{arguments.verb}?{urllib.parse.urlencode(query)}"
    answer = _call(base, "POST", path.rstrip("?"), ANSWER_S + (arguments.wait or 0.0))
    in_flight = _fields(answer, "in_flight")
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        paper = " (simulated)" if answer.get("simulated") else ""
        state = _fields(answer, "state")
        print(f"{arguments.name}{paper} is {state}, {in_flight} requests in flight")
    if arguments.wait is not None and arguments.verb != "enable" and in_flight:
        raise CallError(f"{in_flight} requests are still in flight after {arguments.wait:g} s")
    return 0


def _admin_url(arguments: argparse.Namespace) -> str:
    if arguments.config is not None:
        listen = load(arguments.config).admin.listen
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
        return f"http://{Endpoint(host, listen.port)}"
    url: str = arguments.admin or DEFAULT_ADMIN
    if "://" not in url:
        url = f"http://{url}"
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise CallError(f"{url!r} is no http address; write http://host:port")
    return url.rstrip("/")


def _call(base: str, method: str, path: str, timeout_s: float) -> dict[str, Any]:
    """Make one admin call; return its JSON answer. Raises CallError with the gateway's own words."""
    request = urllib.request.Request(base + path, method=method)  # noqa: S310 (scheme was checked)
    # Not through a proxy of the environment: the admin API is near, and a proxy is not meant.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            document = json.loads(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            raise CallError(_said(error)) from None
    except (OSError, ValueError, urllib.error.URLError) as error:
        why = getattr(error, "reason", None) or error
        raise CallError(
            f"no gateway's admin API at {base} ({why}); is it running, and is this its address?"
        ) from None
    if not isinstance(document, dict):
        raise CallError(f"{base} is no gateway's admin API: it answered no JSON object")
    return document


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(ANSWER_BYTES_MAX))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.url} answered {error.code} {error.reason}"


def _fields(answer: dict[str, Any], key: str) -> Any:
    if key not in answer:
        raise CallError(f"the answer has no {key!r}; is this a gateway's admin API?")
    return answer[key]


_COLOURS: Final = {"ready": "green", "disabled": "dim", "draining": "yellow", "starting": "yellow"}


def _table(slices: list[dict[str, Any]]) -> Table:
    paper = any(entry["simulated"] for entry in slices)
    table = Table(
        title="slices (simulated: their MIG devices exist on paper only)" if paper else None
    )
    for heading in ("slice", "state", "profile", "models"):
        table.add_column(heading)
    for heading in ("weight", "in flight", "requests", "failures", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    table.add_column("reason")
    for entry in slices:
        colour = _COLOURS.get(entry["state"], "red")
        latency = entry["latency_ms"]["all"]
        table.add_row(
            entry["name"] + (" (simulated)" if entry["simulated"] else ""),
            f"[{colour}]{entry['state']}[/]",
            entry["profile"],
            ", ".join(dict.fromkeys(model["name"] for model in entry["models"])),
            f"{entry['weight']:g}",
            str(entry["in_flight"]),
            str(entry["requests"]),
            str(entry["failures"]),
            f"{latency['p50']:.1f}",
            f"{latency['p99']:.1f}",
            Text(entry["reason"]),  # may hold brackets, which rich would take for markup
        )
    return table
