"""
mig-launcher: profiles | plan | up | apply | run | down | status | top.

Exit codes: 0 done; 2 it cannot be done, and standard error says why in a sentence; 130 interrupted
before it was done. `run` has the exit code of its job, and 125 when there was none.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.text import Text

from contract import logs
from launcher import (
    apply_client,
    config,
    detach,
    jobs,
    partitioners,
    plan_views,
    status,
    tables,
    top,
    usage,
)
from launcher.command_line import build_parser
from launcher.config import LauncherConfig
from launcher.cures import sentence
from launcher.down import disable_mig, down, steps
from launcher.errors import ConfigError, LauncherError
from launcher.mig import MigError
from launcher.output import unbreakable
from launcher.profile_list import documents
from launcher.progress import LiveProgress, PipeProgress, PlainProgress, Progress
from launcher.state import State, StateStore
from launcher.up import plan_only, up

EXIT_UNUSABLE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_NO_JOB: Final = 125
"""As of `docker run`: a job's own exit code is never mistaken for it."""
WIDTH_WITHOUT_TERMINAL: Final = 200
"""Tables in files and pipes are not cut to 80 columns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given, triton_args = _split(list(sys.argv[1:] if arguments is None else arguments))
    parser = build_parser(COMMANDS)
    options = parser.parse_args(given)
    if triton_args and options.command not in ("up", "run"):
        parser.error("arguments after -- are for the servers of `up`, or the job of `run`")
    if options.command == "run":
        options.job, triton_args = triton_args, []
        if not options.job:
            parser.error("run: name an image and a command after --")
    unusable = EXIT_NO_JOB if options.command == "run" else EXIT_UNUSABLE
    try:
        settings = _settings(options, triton_args)
        _log_to(sys.stderr, settings)
        code: int = options.run(options, settings)
    except LauncherError as error:
        for line in str(error).splitlines():
            print(f"mig-launcher: {line}", file=sys.stderr)
        return unusable
    except MigError as error:  # asked at a moment when nobody else takes it
        print(f"mig-launcher: {sentence(error)}", file=sys.stderr)
        return unusable
    except OSError as error:  # a full disk, a folder that is not ours: names the file itself
        print(f"mig-launcher: {error}", file=sys.stderr)
        return unusable
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


FLAGS: Final = {
    "gpu": "gpu",
    "layout": "layout",
    "mig_parted": "mig_parted",
    "mig_config": "mig_config",
    "shares": "shares",
    "gateway_admin": "gateway_admin",
    "gateway_token_file": "gateway_token_file",
    "drain_timeout": "drain_timeout_s",
    "metrics": "metrics",
    "host": "host",
    "port_base": "port_base",
    "model_repository": "model_repository",
    "tritonserver": "tritonserver",
    "runtime": "runtime",
    "image": "docker.image",
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
    found = documents(settings.gpu, settings.state_dir)
    # One GPU is one document, as scripts expect; several are a list of such.
    shown = found[0] if len(found) == 1 else {"gpus": found}
    _print(options.json, shown, lambda: Group(*map(tables.profiles_table, found)))
    return 0


def _plan(options: argparse.Namespace, settings: LauncherConfig) -> int:
    made = plan_only(settings, options.force)
    _print(options.json, plan_views.as_dict(made), lambda: plan_views.table(made))
    return 0


def _top(options: argparse.Namespace, settings: LauncherConfig) -> int:
    return top.run(settings.state_dir, options.interval, _console())


def _apply(options: argparse.Namespace, settings: LauncherConfig) -> int:
    state = StateStore(settings.state_dir).load()
    if state is None:
        raise LauncherError(
            f"nothing is up (state folder {settings.state_dir}); start with `mig-launcher up`"
        )
    changes = _changes(options)
    wanted = config.amended(state.settings, changes)
    if options.dry_run:
        return _plan(options, wanted)
    if status.read(settings.state_dir).launcher_pid is None:
        # Its launcher was killed: another one adopts what runs, and does the same.
        return _detached(wanted, force=options.force, enable_mig=False)
    with _display(settings) as progress:
        drain = not options.no_drain
        asyncio.run(apply_client.apply(settings.state_dir, changes, options.force, drain, progress))
    _console().print(tables.status_table(status.as_dict(status.read(settings.state_dir))))
    return 0


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `apply` changes of the configuration of the launcher that is up."""
    keys = ("layout", "mig_config", "shares", "gateway_admin")
    changes = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    for key in ("mig_parted", "gateway_token_file"):
        path = getattr(options, key)
        if path is not None:
            changes[key] = str(Path(path).absolute())
    if options.drain_timeout is not None:
        changes["drain_timeout_s"] = options.drain_timeout
    if not {"layout", "mig_parted", "shares"} & changes.keys():
        raise ConfigError(["apply: name a LAYOUT, --mig-parted FILE or --shares N"])
    return changes


def _status(options: argparse.Namespace, settings: LauncherConfig) -> int:
    document = status.as_dict(status.read(settings.state_dir))
    usage.add(document, settings.state_dir)
    if not document["up"] and not options.json:
        print(f"nothing is up (state folder {settings.state_dir})")
        return 0
    _print(options.json, document, lambda: tables.status_table(document))
    return 0


def _down(options: argparse.Namespace, settings: LauncherConfig) -> int:
    if options.dry_run:
        seen = status.read(settings.state_dir)
        would = steps(seen.state, options.disable_mig)
        shown = Text("\n".join(f"would {step}" for step in would) or "nothing is up")
        _print(options.json, {**status.as_dict(seen), "would": would}, lambda: shown)
        return 0
    stopped = asyncio.run(down(settings.state_dir, settings.stop_timeout_s))
    if stopped is None:
        print(f"nothing is up (state folder {settings.state_dir})")
    else:
        servers = stopped.state.servers if stopped.state else ()
        gpu = f" on {stopped.state.gpu}" if stopped.state else ""
        names = ", ".join(record.spec.member.name for record in servers)
        print(f"stopped {names or 'a launcher without servers'}{gpu}")
    if options.disable_mig:
        found = stopped.state.gpu if stopped and stopped.state else settings.gpu
        switched = disable_mig(found, settings.state_dir)
        print(f"MIG mode switched off on {', '.join(switched) or 'no GPU: it was off'}")
    return 0


def _run(options: argparse.Namespace, settings: LauncherConfig) -> int:
    image, *words = ["", *options.job] if options.bare else options.job
    if options.bare and options.volume:
        raise LauncherError("--volume is for a job in a container; a bare one sees this machine's")
    wanted = jobs.Wanted(options.slice_name, options.profile, not options.no_drain, options.force)
    work = jobs.Work(image, tuple(words), tuple(options.env), tuple(options.volume))

    def say(text: str) -> None:
        print(f"mig-launcher: {text}", file=sys.stderr, flush=True)

    return asyncio.run(jobs.run(settings, wanted, work, say))


def _up(options: argparse.Namespace, settings: LauncherConfig) -> int:
    partitioners.resolve(settings.gpu)  # before a process is made for nothing
    if options.dry_run:
        return _plan(options, settings)
    if options.detach:
        return _detached(settings, options.force, options.enable_mig)
    with _display(settings) as progress:
        return asyncio.run(
            up(
                settings,
                progress,
                options.force,
                lambda _: _show_up(settings, "until Ctrl-C"),
                options.enable_mig,
            )
        )


def _detached(settings: LauncherConfig, force: bool, enable_mig: bool) -> int:
    def in_background(progress: PipeProgress) -> int:
        # Again, as standard error is the log file by now: no colours there.
        _log_to(sys.stderr, settings)

        def on_up(_: State) -> None:
            """Tell nobody: the pipe has told it."""

        return asyncio.run(up(settings, progress, force, on_up, enable_mig))

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


COMMANDS: Final = {
    "profiles": _profiles,
    "plan": _plan,
    "up": _up,
    "apply": _apply,
    "down": _down,
    "run": _run,
    "status": _status,
    "top": _top,
}
