"""
mig-launcher: profiles | plan | up | down | status.

Exit codes: 0 done; 2 it cannot be done, and standard error says why in a sentence; 130 interrupted
before it was done.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console, RenderableType

from contract import logs
from launcher import config, detach, drivers, status, tables
from launcher.config import LauncherConfig
from launcher.down import down
from launcher.errors import LauncherError
from launcher.output import unbreakable
from launcher.progress import LiveProgress, PipeProgress, PlainProgress, Progress
from launcher.state import State
from launcher.up import plan_only, up

EXIT_UNUSABLE: Final = 2
EXIT_INTERRUPTED: Final = 130
WIDTH_WITHOUT_TERMINAL: Final = 200
"""Tables in files and pipes are not cut to 80 columns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, triton_args = _split(list(sys.argv[1:] if arguments is None else arguments))
    parser = build_parser()
    options = parser.parse_args(given)
    if triton_args and options.command != "up":
        parser.error("arguments after -- are for the servers of `up`")
    try:
        settings = _settings(options, triton_args)
        _log_to(sys.stderr, settings)
        code: int = options.run(options, settings)
    except LauncherError as error:
        for line in str(error).splitlines():
            print(f"mig-launcher: {line}", file=sys.stderr)
        return EXIT_UNUSABLE
    except OSError as error:  # a full disk, a folder that is not ours: names the file itself
        print(f"mig-launcher: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; flags default to None, which means: what the configuration says."""
    parser = argparse.ArgumentParser(
        prog="mig-launcher", description="Cuts a GPU into MIG slices and runs one Triton on each."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="YAML; flags override it")
    common.add_argument("--state-dir", metavar="DIR", help="what must be remembered (run)")
    common.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    common.add_argument("--log-format", metavar="FORM", help="auto, json or text")
    gpu = argparse.ArgumentParser(add_help=False)
    gpu.add_argument("--gpu", metavar="GPU", help="simulated, or simulated:BOARD")
    wanted = argparse.ArgumentParser(add_help=False)
    wanted.add_argument("--layout", metavar="LAYOUT", help="all-1g, or a list such as 3g,2g,1g,1g")
    wanted.add_argument("--host", metavar="ADDRESS", help="where servers listen (127.0.0.1)")
    wanted.add_argument("--port-base", type=int, metavar="N", help="HTTP port of slice 0 (8000)")
    wanted.add_argument(
        "--force", action="store_true", help="destroy others' GPU instances that are in the way"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    def command(name: str, run: Callable[..., int], text: str, *parents: Any) -> Any:
        added = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        added.set_defaults(run=run)
        return added

    command("profiles", _profiles, "List what the GPU can be cut into.", gpu, as_json)
    command("plan", _plan, "Show what `up` would do; change nothing.", gpu, wanted, as_json)
    command("down", _down, "Stop what `up` started, and remove what it made.")
    command("status", _status, "Show slices and servers.", as_json)
    add = command("up", _up, "Cut the GPU, run the servers, watch them.", gpu, wanted).add_argument
    add("--model-repository", metavar="DIR", help="models for every slice (configs/models)")
    add(
        "--triton-arg",
        action="append",
        metavar="ARG",
        help="for every server, as --triton-arg=--log-verbose=1; or all of them last, after --",
    )
    add("--tritonserver", metavar="FILE", help="the program (PATH, then nvidia-pytriton)")
    add("--runtime", metavar="NAME", help="what servers run as: process")
    add("--inventory", metavar="FILE", help="file for the gateway (STATE_DIR/slices.json)")
    add("--ready-timeout", type=float, metavar="SECONDS", help="for a server to be ready (120)")
    add("--stop-timeout", type=float, metavar="SECONDS", help="from SIGTERM to SIGKILL (20)")
    add("--detach", action="store_true", help="return when all are ready; supervise in background")
    return parser


FLAGS: Final = {
    "gpu": "gpu",
    "layout": "layout",
    "host": "host",
    "port_base": "port_base",
    "model_repository": "model_repository",
    "tritonserver": "tritonserver",
    "runtime": "runtime",
    "state_dir": "state_dir",
    "inventory": "inventory",
    "ready_timeout": "ready_timeout_s",
    "stop_timeout": "stop_timeout_s",
    "log_level": "log_level",
    "log_format": "log_format",
}
"""Which flag overrides which key."""


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after `--`."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _settings(options: argparse.Namespace, triton_args: list[str]) -> LauncherConfig:
    flags = {key: getattr(options, flag, None) for flag, key in FLAGS.items()}
    extra = [*(getattr(options, "triton_arg", None) or []), *triton_args]
    return config.load(options.config, {**flags, "triton_args": extra or None})


def _profiles(options: argparse.Namespace, settings: LauncherConfig) -> int:
    driver = drivers.open_driver(drivers.resolve(settings.gpu), settings.state_dir)
    document = tables.profiles_dict(driver)
    _print(options.json, document, lambda: tables.profiles_table(document))
    return 0


def _plan(options: argparse.Namespace, settings: LauncherConfig) -> int:
    made = plan_only(settings, options.force)
    _print(options.json, tables.plan_dict(made), lambda: tables.plan_table(made))
    return 0


def _status(options: argparse.Namespace, settings: LauncherConfig) -> int:
    document = status.as_dict(status.read(settings.state_dir))
    if not document["up"] and not options.json:
        print(f"nothing is up (state folder {settings.state_dir})")
        return 0
    _print(options.json, document, lambda: tables.status_table(document))
    return 0


def _down(options: argparse.Namespace, settings: LauncherConfig) -> int:
    stopped = asyncio.run(down(settings.state_dir, settings.stop_timeout_s))
    if stopped is None:
        print(f"nothing is up (state folder {settings.state_dir})")
        return 0
    servers = stopped.state.servers if stopped.state else ()
    gpu = f" on {stopped.state.gpu}" if stopped.state else ""
    names = ", ".join(record.spec.member.name for record in servers) or "a launcher without servers"
    print(f"stopped {names}{gpu}")
    return 0


def _up(options: argparse.Namespace, settings: LauncherConfig) -> int:
    drivers.resolve(settings.gpu)  # before a process is made for nothing

    def work(progress: Progress, on_up: Callable[[State], None]) -> int:
        return asyncio.run(up(settings, progress, options.force, on_up))

    if not options.detach:
        with _display(settings) as progress:
            return work(progress, lambda _: _show_up(settings, "until Ctrl-C"))

    def in_background(progress: PipeProgress) -> int:
        # Again, as standard error is the log file by now: no colours there.
        _log_to(sys.stderr, settings)
        return work(progress, lambda _: None)

    log = settings.state_dir.absolute() / "launcher.log"
    code = detach.in_background(in_background, lambda: _display(settings), log)
    if code == 0:
        _show_up(settings, f"in the background until `mig-launcher down`; its log is {log}")
    return code


def _show_up(settings: LauncherConfig, how_long: str) -> None:
    document = status.as_dict(status.read(settings.state_dir))
    _console().print(tables.status_table(document))
    print(f"up {how_long}", file=unbreakable(sys.stdout), flush=True)


@contextmanager
def _display(settings: LauncherConfig) -> Iterator[Progress]:
    console = _console()
    if not console.is_terminal:
        yield PlainProgress(unbreakable(sys.stdout))
        return

    with LiveProgress(console, lambda stream: _log_to(stream, settings)) as live:
        yield live


def _log_to(stream: TextIO, settings: LauncherConfig) -> None:
    logs.configure(settings.log_level, settings.log_format, unbreakable(stream))


def _print(as_json: bool, document: dict[str, Any], table: Callable[[], RenderableType]) -> None:
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _console().print(table())


def _console() -> Console:
    out = unbreakable(sys.stdout)
    return Console(file=out) if out.isatty() else Console(file=out, width=WIDTH_WITHOUT_TERMINAL)
