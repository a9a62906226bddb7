"""Jobs of the configuration on slices, with real programs as jobs and scripted servers beside them."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import reservation, stopping
from launcher.config import LauncherConfig, Restart
from launcher.errors import StartError
from launcher.job_settings import JobSettings
from launcher.keeper import JobKeeper, assign
from launcher.runtime import Handle, ServerSpec
from launcher.stages import Planned
from launcher.state import JobRecord, ServerRecord, State, StateStore

# The launchers of these tests are all one process, in which the jobs of a killed one stay children.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WAIT = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"


async def until(condition):
    """Wait for what another process does."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files and locks of another program
            await asyncio.sleep(0.01)


class FakeRuntime:
    """Servers that run until they are told to stop."""

    def __init__(self, *running):
        self.running = {marker: FakeServer(self, marker) for marker in running}
        self.told = []

    def find(self, handle):
        return self.running.get(handle.marker)

    def sweep(self, markers):
        """Nothing is left of a server."""


class FakeServer:
    def __init__(self, runtime, marker):
        self.handle = Handle(marker)
        self._runtime = runtime

    def terminate(self):
        self._runtime.told.append(self.handle.marker)
        del self._runtime.running[self.handle.marker]

    async def wait_ended(self):
        return "exit code 0"


def planned(name, profile, port):
    ends = (Endpoint("h", port), Endpoint("h", port + 1), None)
    return Planned(name, profile, 1.0, *ends, simulated=True)


PLANNED = [
    planned("s0", "2g.10gb", 8000),
    planned("s1", "1g.5gb", 8010),
    planned("s2", "1g.5gb", 8020),
]
SPECS = {
    member.name: ServerSpec(
        SliceSpec(member.name, member.http, member.grpc, mig_uuid=f"MIG-{member.name}"), "/m", ()
    )
    for member in PLANNED
}


class Kept:
    """One launcher's jobs after another's, in one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = FakeRuntime()

    @contextlib.asynccontextmanager
    async def by(self, *jobs, servers=()):
        """Be a launcher with these jobs, until it is killed: nobody tidies up."""
        config = LauncherConfig(
            state_dir=self.folder,
            jobs=[JobSettings(**job) for job in jobs],
            restart=Restart(first_delay_s=0.01, max_delay_s=0.01),
            gateway_admin="127.0.0.1:9",
        )
        store = StateStore(self.folder)
        if store.load() is None:
            store.begin(State("simulated", "process", "/none"))
        store.change(servers=servers)
        keeper = JobKeeper(config, self.runtime, store)
        await keeper.check(print)
        await keeper.claim(PLANNED)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(keeper.keep(lambda: SPECS))
            yield
            task.cancel()

    def job(self, name="train") -> JobRecord:
        state = StateStore(self.folder).load()
        (found,) = (record for record in state.jobs if record.name == name)
        return found

    async def until(self, state, name="train"):
        await until(lambda: self.job(name).state == state)
        return self.job(name)

    async def until_said(self, text, name="train"):
        await until(lambda: text in self.said(name))

    def said(self, name="train"):
        path = Path(self.job(name).log)
        return path.read_text() if path.exists() else ""


@pytest.fixture
async def kept(tmp_path):
    made = Kept(tmp_path)
    yield made
    await stopping.stop_jobs(tmp_path, 0.0, asyncio.Event())


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


async def test_a_job_has_its_slice_and_gives_it_back_with_its_exit_code(kept, tmp_path):
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['COLOUR'])\n" + WAIT
    command = python(f"{code}sys.exit(7)", tmp_path / "go")
    job = {"name": "train", "profile": "1g", "command": command, "environment": {"COLOUR": "blue"}}
    async with kept.by(job):
        await kept.until_said("MIG-s2 blue\n")
        assert reservation.is_held(tmp_path, "s2")
        (tmp_path / "go").touch()
        ended = await kept.until("ended")
        assert (ended.exit_code, ended.reason, ended.slice_name) == (7, "exit code 7", "s2")
        await until(lambda: not reservation.is_held(tmp_path, "s2"))
        assert reservation.marker_of(tmp_path, "s2") == ""


async def test_a_job_goes_on_without_its_launcher_and_the_next_one_finds_it(kept, tmp_path):
    command = python(f"import sys\nprint('begun')\nsys.stdout.flush()\n{WAIT}", tmp_path / "go")
    job = {"name": "train", "slice": "s1", "command": command}
    async with kept.by(job):
        await kept.until_said("begun")
    before = kept.job()
    async with kept.by(job):
        assert reservation.is_held(tmp_path, "s1")
        (tmp_path / "go").touch()
        assert (await kept.until("ended")).exit_code == 0
    assert kept.job().handle == before.handle
    assert kept.said() == "begun\n"


async def test_what_ended_while_nobody_watched_is_known_and_not_run_again(kept, tmp_path):
    command = python(f"{WAIT}open(sys.argv[1], 'a').write('x')\nsys.exit(3)", tmp_path / "go")
    job = {"name": "train", "slice": "s1", "command": command}
    async with kept.by(job):
        await until(lambda: kept.job().handle.process)
    (tmp_path / "go").touch()
    exit_file = tmp_path / "jobs" / f"{kept.job().handle.marker}.exit"
    await until(exit_file.exists)
    async with kept.by(job):
        assert (await kept.until("ended")).exit_code == 3
        await until(lambda: not reservation.is_held(tmp_path, "s1"))
    async with kept.by(job):
        assert not reservation.is_held(tmp_path, "s1")
    assert (tmp_path / "go").read_text() == "x"
    assert not exit_file.exists()


async def test_a_notebook_is_started_again_and_keeps_its_slice(kept, tmp_path):
    count = tmp_path / "count"
    command = python("import sys\nopen(sys.argv[1], 'a').write('x')", count)
    async with kept.by({"name": "nb", "slice": "s1", "command": command, "restart": "always"}):
        await until(lambda: count.exists() and len(count.read_text()) >= 3)
        assert reservation.is_held(tmp_path, "s1")
        assert kept.job("nb").restarts >= 2


async def test_on_failure_it_is_started_until_it_succeeds(kept, tmp_path):
    code = (
        "import sys\nwith open(sys.argv[1], 'a+') as f: f.write('x'); n = f.tell()\nsys.exit(n < 3)"
    )
    job = {"name": "train", "slice": "s1", "restart": "on-failure"}
    async with kept.by({**job, "command": python(code, tmp_path / "count")}):
        ended = await kept.until("ended")
    assert (ended.exit_code, ended.restarts) == (0, 2)


async def test_another_entry_is_another_job_and_none_is_none(kept, tmp_path):
    one = {"name": "train", "slice": "s1", "command": python(WAIT, tmp_path / "never")}
    two = {"name": "train", "slice": "s2", "command": python(WAIT, tmp_path / "never")}
    async with kept.by(one):
        first = await kept.until("running")
    async with kept.by(two):
        second = await kept.until("running")
        assert second.handle.marker != first.handle.marker
        assert not reservation.is_held(tmp_path, "s1")
    async with kept.by():
        assert StateStore(tmp_path).load().jobs == ()
    assert not reservation.is_held(tmp_path, "s2")


async def test_a_slice_that_serves_is_stopped_before(kept, tmp_path):
    kept.runtime = FakeRuntime("mig-s1-1_", "mig-s2-2_")
    servers = tuple(
        ServerRecord(SPECS[name], Handle(marker), "/none", "ready")
        for name, marker in (("s1", "mig-s1-1_"), ("s2", "mig-s2-2_"))
    )
    job = {"name": "train", "slice": "s1", "command": python("")}
    async with kept.by(job, servers=servers):
        await kept.until("ended")
    assert kept.runtime.told == ["mig-s1-1_"]


async def test_a_job_that_was_begun_by_hand_is_waited_for(kept, tmp_path):
    job = {"name": "train", "slice": "s1", "command": python("")}
    with reservation.hold(tmp_path, "s1", "mig-job-s1-1_"):
        async with kept.by(job):
            await until(lambda: kept.job().reason)
            assert (kept.job().state, "runs another job" in kept.job().reason) == ("waiting", True)
    async with kept.by(job):
        assert (await kept.until("ended")).exit_code == 0


async def test_stopping_asks_before_it_kills(kept, tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told'), sys.exit(4)))\n"
        "print('begun'); sys.stdout.flush()\n"
        "while True: time.sleep(0.01)\n"
    )
    async with kept.by({"name": "train", "slice": "s1", "command": python(code)}):
        await kept.until_said("begun")
    await stopping.stop_jobs(tmp_path, 20.0, asyncio.Event())
    assert kept.said() == "begun\ntold\n"
    assert reservation.markers(tmp_path) == []


async def test_a_program_that_is_not_there_is_told_before_anything_begins(kept):
    with pytest.raises(StartError, match=r"jobs.train: there is no program none-such here"):
        async with kept.by({"name": "train", "slice": "s1", "command": ["none-such"]}):
            pass


def assigned(*jobs, earlier=None):
    return assign([JobSettings(image="i", **job) for job in jobs], PLANNED, earlier or {})


def test_slices_by_name_come_first_then_the_last_of_a_profile():
    a, b = {"name": "a", "profile": "1g"}, {"name": "b", "slice": "s2"}
    assert assigned(a, b) == {"a": "s1", "b": "s2"}
    assert assigned({"name": "a", "profile": "1g.5gb"}) == {"a": "s2"}


def test_a_job_keeps_the_slice_that_it_has():
    had = {"b": JobRecord("b", "s2", "{}", Handle("m"), "l")}
    both = {"name": "a", "profile": "1g"}, {"name": "b", "profile": "1g"}
    assert assigned(*both, earlier=had) == {"a": "s1", "b": "s2"}


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([{"name": "a", "slice": "s9"}], "jobs.a: s9 is not there; there are s0 (2g.10gb), s1"),
        ([{"name": "a", "profile": "3g"}], "jobs.a: profile 3g is not there"),
        (
            [{"name": "a", "slice": "s0"}, {"name": "b", "profile": "2g"}],
            "jobs.b: profile 2g is another job's already",
        ),
    ],
)
def test_what_cannot_be_had_is_told(jobs, told):
    with pytest.raises(StartError) as failed:
        assigned(*jobs)
    assert told in str(failed.value)
