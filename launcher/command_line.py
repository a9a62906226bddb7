"""The commands of mig-launcher and their flags; flags default to None: what the configuration says."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

Run = Callable[..., int]

LAYOUT_HELP: Final = (
    "all-1g, balanced, a list such as 3g,2g,2x1g or 3g@4,1g@0; by GPU: 0=3g,3g;1=all-1g"
)


def build_parser(run: Mapping[str, Run]) -> argparse.ArgumentParser:
    """
    Return the parser.

    Args:
        run: What carries each command out, by its name.
    """
    parser = argparse.ArgumentParser(
        prog="mig-launcher", description="Cuts GPUs into MIG slices and runs one Triton on each."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common, gpu, layout, servers = _common(), _gpu(), _layout(), _servers()
    gateway, dry, as_json = _gateway(), _dry_run(), _json()

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> Any:
        added = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        added.set_defaults(run=run[name])
        return added

    command("profiles", "List what the GPUs can be cut into.", gpu, as_json)
    shown = command(
        "plan", "Show what `up` would do; change nothing.", gpu, servers, layout, as_json
    )
    shown.add_argument("--enable-mig", action="store_true", help="accepted as for `up`")
    what = "Cut the GPUs, run the servers, watch them."
    _add_up(command("up", what, gpu, servers, layout, gateway, dry, as_json).add_argument)
    what = "Re-cut what is up, while it serves."
    applied = command("apply", what, layout, gateway, dry, as_json).add_argument
    applied("layout", nargs="?", metavar="LAYOUT", help=LAYOUT_HELP)
    applied("--no-drain", action="store_true", help="do not ask the gateway to drain slices before")
    stopped = command("down", "Stop what `up` started, restore what it found.", gpu, dry, as_json)
    stopped.add_argument(
        "--disable-mig", action="store_true", help="switch MIG mode off, whoever switched it on"
    )
    what = "Run a job on a slice, which serves again afterwards: run --slice s6 -- IMAGE CMD…"
    _add_run(command("run", what, gateway))
    command("status", "Show slices and servers.", as_json)
    watched = command("top", "Show slices and servers, again and again.")
    watched.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="(1)")
    return parser


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML; flags override it")
    parser.add_argument("--state-dir", metavar="DIR", help="what must be remembered (run)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORM", help="auto, json or text")
    return parser


def _gpu() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--gpu",
        metavar="GPU",
        help="index, UUID or several (0,1); all (the default); simulated or simulated:BOARD for "
        "one on paper; mps or mps:0 to share out whole GPUs",
    )
    return parser


def _layout() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mig-parted", metavar="FILE", help="NVIDIA mig-parted's configuration")
    parser.add_argument("--mig-config", metavar="LABEL", help="which of its configurations")
    parser.add_argument(
        "--shares", metavar="N", help="for mps: equal shares (7), or weights (3,2,1)"
    )
    parser.add_argument(
        "--force", action="store_true", help="destroy others' GPU instances that are in the way"
    )
    return parser


def _servers() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--layout", metavar="LAYOUT", help=LAYOUT_HELP)
    parser.add_argument("--host", metavar="ADDRESS", help="where servers listen (127.0.0.1)")
    parser.add_argument("--port-base", type=int, metavar="N", help="HTTP port of slice 0 (8000)")
    return parser


def _gateway() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--gateway-admin", metavar="ADDRESS", help="the gateway's admin API (127.0.0.1:9001)"
    )
    parser.add_argument("--gateway-token-file", metavar="FILE", help="a bearer token for it")
    parser.add_argument(
        "--drain-timeout", type=float, metavar="SECONDS", help="for requests in flight to end (30)"
    )
    return parser


def _dry_run() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done; change nothing"
    )
    return parser


def _json() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--slice", dest="slice_name", metavar="NAME", help="the slice")
    which.add_argument("--profile", metavar="PROFILE", help="any slice of it: 3g, or 3g.20gb")
    add = parser.add_argument
    add("--bare", action="store_true", help="a program of this machine, without an image: -- CMD…")
    add("--env", "-e", action="append", default=[], metavar="KEY=VALUE", help="a variable for it")
    add("--volume", "-v", action="append", default=[], metavar="DIR:DIR", help="a folder for it")
    add("--no-drain", action="store_true", help="do not ask the gateway to drain the slice before")
    add("--force", action="store_true", help="also the last slice that serves, or a busy one")


def _add_up(add: Callable[..., Any]) -> None:
    add("--enable-mig", action="store_true", help="switch MIG mode on where it is off")
    add("--model-repository", metavar="DIR", help="models for every slice (configs/models)")
    add(
        "--triton-arg",
        action="append",
        metavar="ARG",
        help="for every server, as --triton-arg=--log-verbose=1; or all of them last, after --",
    )
    add("--tritonserver", metavar="FILE", help="the program (PATH, then nvidia-pytriton)")
    add("--runtime", metavar="NAME", help="what servers run as: process or docker (process)")
    add("--image", metavar="IMAGE", help="of each server, with --runtime docker (NVIDIA's Triton)")
    add("--inventory", metavar="FILE", help="file for the gateway (STATE_DIR/slices.json)")
    add("--ready-timeout", type=float, metavar="SECONDS", help="for a server to be ready (120)")
    add("--stop-timeout", type=float, metavar="SECONDS", help="from SIGTERM to SIGKILL (20)")
    add("--metrics", metavar="ADDRESS", help="answer /metrics, /livez and /readyz at host:port")
    add("--detach", action="store_true", help="return when all are ready; supervise in background")
