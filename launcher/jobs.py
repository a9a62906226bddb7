"""
`run`: a job on a slice that otherwise serves: training, a notebook, anything in a container, or a
program of this machine.

The slice is lent: drained at the gateway, its server stopped, the job run on its MIG device, and given
back: the launcher that is up starts the server again. A job that is killed gives it back as well.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from contract.slice_spec import SliceSpec
from launcher import reservation, state
from launcher.config import LauncherConfig
from launcher.docker.threads import in_thread
from launcher.errors import LauncherError, StartError
from launcher.gateway_admin import GatewayAdmin
from launcher.job import Job, new_marker
from launcher.job_runtimes import JobRuntimes
from launcher.lending import vacate
from launcher.runtimes import open_runtime
from launcher.state import ServerRecord, State, StateStore

log = structlog.get_logger()

POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Attributes:
        slice_name: The slice, or
        profile: one of this profile: `3g` or `3g.20gb`.
        drain: Whether the gateway is asked first.
        force: Take also the last slice that serves, and what does not fall idle.
    """

    slice_name: str | None
    profile: str | None
    drain: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What is to run: see launcher/job.py."""

    image: str
    command: tuple[str, ...]
    environment: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


async def run(
    config: LauncherConfig, wanted: Wanted, work: Work, say: Callable[[str], None]
) -> int:
    """
    Run a job to its end and return its exit code.

    Raises:
        LauncherError: It could not be run; the slice serves as before.
    """
    folder = config.state_dir
    found = _what_is_up(folder)
    record = choose(found, wanted, folder)
    name = record.spec.member.name
    job = _job(record, work)
    marker = new_marker(job, name)
    runtimes = JobRuntimes(config)
    await in_thread(lambda: runtimes.check(job, say))
    with reservation.hold(folder, name, marker) as left:
        await in_thread(lambda: runtimes.sweep([left] if left else []))
        gateway = GatewayAdmin(config.gateway_admin, config.gateway_token_file)
        say(f"{name} is lent: stopping its server")
        await vacate(
            record,
            open_runtime(found.runtime, config),
            gateway if wanted.drain else None,
            config.drain_timeout_s,
            config.stop_timeout_s,
            wanted.force,
        )
        say(f"running {work.image or work.command[0]} on {name} ({record.spec.member.mig_uuid})")
        code = await _run_to_its_end(runtimes, job, record.spec.member, marker)
    say(f"the job ended with exit code {code}; {name} serves again in a moment")
    await _serves_again(config, record)
    return code


def choose(found: State, wanted: Wanted, folder: Path) -> ServerRecord:
    """
    Return the slice that is meant: of several with a profile the last that no job has.

    Raises:
        StartError: There is none.
    """
    there = ", ".join(f"{r.spec.member.name} ({r.spec.member.profile})" for r in found.servers)
    if wanted.slice_name is not None:
        for record in found.servers:
            if record.spec.member.name == wanted.slice_name:
                return record
        raise StartError(f"there is no slice {wanted.slice_name}; there are {there}")
    profile = wanted.profile
    assert profile is not None
    fitting = [
        record
        for record in found.servers
        if profile in (record.spec.member.profile, record.spec.member.profile.partition(".")[0])
    ]
    if not fitting:
        raise StartError(f"there is no slice of profile {profile}; there are {there}")
    free = [r for r in fitting if not reservation.is_held(folder, r.spec.member.name)]
    if not free:
        raise StartError(f"every slice of profile {profile} runs a job already")
    return free[-1]


def _what_is_up(folder: Path) -> State:
    found = StateStore(folder).load()
    holder = state.holder_of(folder)
    if found is None or holder is None or holder.command != "up":
        raise StartError(
            f"no launcher is up with state folder {folder}, which would start the slice's server "
            "again: `mig-launcher up` first, or name another with --state-dir"
        )
    return found


def _job(record: ServerRecord, work: Work) -> Job:
    spec = record.spec
    if work.image and not spec.member.mig_uuid:
        raise StartError(
            f"{spec.member.name} is a share by MPS, which a container does not see; run a program of "
            "this machine there, with --bare"
        )
    pairs = [entry.partition("=") for entry in work.environment]
    variables = tuple((name, value) for name, _, value in pairs)
    return Job(
        work.image, work.command, variables, work.volumes, cpus=spec.cpus, bound=spec.environment
    )


async def _run_to_its_end(runtimes: JobRuntimes, job: Job, member: SliceSpec, marker: str) -> int:
    """Run; Ctrl-C asks the job to end, and kills it when it comes again."""
    loop = asyncio.get_running_loop()
    asked = iter(["SIGTERM"])
    helpers: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        number = next(asked, "SIGKILL")
        log.info("job.stopping", signal=number)
        helpers.add(loop.create_task(in_thread(lambda: runtimes.signal(marker, number))))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return await in_thread(lambda: runtimes.run(job, member, marker))


async def _serves_again(config: LauncherConfig, record: ServerRecord) -> None:
    """
    Wait until the launcher says so.

    Raises:
        StartError: It does not, in time.
    """
    folder, name = config.state_dir, record.spec.member.name
    try:
        async with asyncio.timeout(config.ready_timeout_s):
            while not _is_ready(folder, name, record.handle.marker):  # noqa: ASYNC110 - a file
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StartError(
            f"{name} does not serve again within {config.ready_timeout_s:g} s; see "
            "`mig-launcher status`"
        ) from None


def _is_ready(folder: Path, name: str, before: str) -> bool:
    found = StateStore(folder).load()
    if found is None or state.holder_of(folder) is None:
        raise LauncherError("the launcher was stopped meanwhile: nothing serves any more")
    return any(
        record.spec.member.name == name
        and record.state == "ready"
        and record.handle.marker != before
        for record in found.servers
    )
