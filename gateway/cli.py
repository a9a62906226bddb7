"""`mig-gateway`: serve | check | slices | top | flowers | figures | reload | upgrade."""

import argparse
import json
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.admin_client import AdminClient, CallError
from gateway.config import Config, ConfigError, load
from gateway.config_security import TlsSection
from gateway.control.security import Secrets
from gateway.figures import command as figures
from gateway.quantities import duration_s
from gateway.terminal import flowers, top
from gateway.terminal.connecting import add_admin_options, admin

REFUSED: Final = 1
"""The gateway said no, or could not be reached."""
MISUSED: Final = 2
"""The command line or the configuration file is wrong; argparse uses the same."""
ANSWER_S: Final = 10.0
UPGRADE_S: Final = 90.0
"""More than a gateway waits for its successor; see workers.takeover.READY_S."""


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
        print("\n".join([f"mig-gateway: {error}", *error.details[1:]]), file=sys.stderr)
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
    add_admin_options(slices)
    slices.set_defaults(command=_slices)
    reload = commands.add_parser(
        "reload", help="let a running gateway read its configuration file again"
    )
    reload.add_argument("--json", action="store_true", help="print the gateway's answer as it is")
    add_admin_options(reload)
    reload.set_defaults(command=_reload)
    _upgrade_options(commands)
    top.add_command(commands)
    flowers.add_command(commands)
    figures.add_command(commands)
    return parser


def _upgrade_options(commands: Any) -> None:
    upgrade = commands.add_parser(
        "upgrade", help="let a running gateway start itself anew, perhaps in a newer version"
    )
    add_admin_options(upgrade)
    upgrade.set_defaults(command=_upgrade)


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- serve, check -----------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    # Here, not above: uvloop and the relay are no business of `check` and `slices`.
    from gateway import app
    from gateway.workers.takeover import predecessor

    before = predecessor()
    try:
        return app.run(load(arguments.config), arguments.config, before)
    except ConfigError as error:
        if before is not None:
            before.failed(str(error))
        raise


def _check(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    _read_secrets(arguments.config, config)
    for warning in config.warnings:
        print(f"{arguments.config}: warning: {warning}", file=sys.stderr)
    print(f"{arguments.config}: fine")
    for line in _summary(config):
        print(f"  {line}")
    return 0


def _read_secrets(path: Path, config: Config) -> None:
    """Raises ConfigError when a token or certificate that the configuration names is no good."""
    try:
        Secrets.of(config)
    except ConfigError as error:
        raise ConfigError([f"{path}: {message}" for message in error.errors]) from None


def _summary(config: Config) -> list[str]:
    lines = [
        f"listen      {', '.join(str(endpoint) for endpoint in config.listen)}{_tls(config.tls)}",
        f"admin       {config.admin.listen}{_tls(config.admin.tls)}{_tokens(config)}",
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


def _tls(section: TlsSection | None) -> str:
    if section is None:
        return ""
    clients = f", clients signed by {section.client_ca}" if section.client_ca else ""
    return f" (TLS {section.min_version} or newer{clients})"


def _tokens(config: Config) -> str:
    named = [f"{token.name} may {token.role}" for token in config.admin.tokens]
    return f" ({', '.join(named)})" if named else ""


# --- slices -----------------------------------------------------------------------------------


def _slices(arguments: argparse.Namespace) -> int:
    calls = admin(arguments)
    if arguments.verb is None:
        answer = calls.call("GET", "/v1/slices", ANSWER_S)
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
    return _order(calls, arguments)


def _order(calls: AdminClient, arguments: argparse.Namespace) -> int:
    query = {}
    if arguments.wait is not None:
        query["wait"] = f"{arguments.wait:.3f}s"
    if arguments.force:
        query["force"] = "true"
    name = urllib.parse.quote(arguments.name, safe="")
    path = f"/v1/slices/{name}/{arguments.verb}?{urllib.parse.urlencode(query)}"
    answer = calls.call("POST", path.rstrip("?"), ANSWER_S + (arguments.wait or 0.0))
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


# --- reload -----------------------------------------------------------------------------------


def _reload(arguments: argparse.Namespace) -> int:
    answer = admin(arguments).call("POST", "/v1/reload", ANSWER_S)
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return 0
    changed, waiting = _fields(answer, "changed"), _fields(answer, "needs_restart")
    print(f"read again: {len(changed)} changed" if changed else "read again: nothing changed")
    for change in changed:
        print(f"  {_change(change)}")
    if waiting:
        print(f"{len(waiting)} in force only after a restart")
    for change in waiting:
        print(f"  {_change(change)}")
    return 0


def _change(change: dict[str, Any]) -> str:
    before, after = (_value(change[key]) for key in ("before", "after"))
    return f"{change['key']}: {before} -> {after}"


def _value(value: Any) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)


# --- upgrade ----------------------------------------------------------------------------------


def _upgrade(arguments: argparse.Namespace) -> int:
    answer = admin(arguments).call("POST", "/v1/upgrade", UPGRADE_S)
    print(f"process {_fields(answer, 'pid')} serves; the old one finishes what it has")
    return 0


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
