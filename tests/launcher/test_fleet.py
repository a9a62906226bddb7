"""Servers start together, come back when they die, and stop together: on scripted servers."""

import asyncio
import contextlib

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import fleet, reservation, stopping
from launcher.config import LauncherConfig, Restart
from launcher.errors import StartError
from launcher.fleet import Fleet
from launcher.process_table import ProcessId
from launcher.runtime import Handle, ServerSpec
from launcher.state import State, StateStore


class FakeServer:
    """Ends when told: by the test, by terminate unless stubborn, by kill."""

    def __init__(self, handle, stubborn=False):
        self.handle = handle
        self.ended = asyncio.Event()
        self.told = []
        self.how = "exit code 1"
        self._stubborn = stubborn

    def has_ended(self):
        return self.ended.is_set()

    async def wait_ended(self):
        await self.ended.wait()
        return self.how

    def terminate(self):
        self.told.append("terminate")
        if not self._stubborn:
            self.ended.set()

    def kill(self):
        self.told.append("kill")
        self.how = "SIGKILL"
        self.ended.set()


class FakeRuntime:
    """Starts fake servers; `output` is written to the log of each, `dead` are born ended."""

    def __init__(self):
        self.started = []
        self.swept = []
        self.forgotten = []
        self.dead = set()
        self.stubborn = False
        self.output = ""

    settings = ""

    async def check(self, say):
        """Nothing is missing."""

    def start(self, spec, marker, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(self.output)
        handle = Handle(marker, ProcessId(1000 + len(self.started), "boot/1"))
        server = FakeServer(handle, self.stubborn)
        if len(self.started) in self.dead:
            server.ended.set()
        self.started.append(server)
        return server

    def find(self, handle):
        running = (s for s in self.started if s.handle == handle and not s.has_ended())
        return next(running, None)

    def sweep(self, markers):
        self.swept.extend(markers)

    def left(self):
        return list(self.forgotten)


class Heard:
    """Progress that remembers."""

    def __init__(self):
        self.ready_names = []

    def step(self, text):
        """Not heard here."""

    def starting(self, names):
        self.names = names

    def ready(self, name, after_s):
        self.ready_names.append(name)

    def up(self):
        """Not heard here."""


@pytest.fixture
def runtime():
    return FakeRuntime()


@pytest.fixture(autouse=True)
def readiness(monkeypatch):
    """Which HTTP ports answer that they are ready."""
    ports = {8000, 8010}

    async def is_ready(http):
        return http.port in ports

    monkeypatch.setattr(fleet, "is_ready", is_ready)
    return ports


@pytest.fixture
def made(tmp_path, runtime):
    return build(tmp_path, runtime)


def spec(i):
    member = SliceSpec(f"s{i}", Endpoint("h", 8000 + 10 * i), Endpoint("h", 8001 + 10 * i))
    return ServerSpec(member, "/models", ())


def build(tmp_path, runtime, adopted=(), **settings):
    config = LauncherConfig(
        state_dir=tmp_path,
        restart=Restart(first_delay_s=0.001, max_delay_s=0.01),
        **settings,
    )
    store = StateStore(tmp_path)
    store.begin(State("simulated:a100-40gb", "process", str(tmp_path / "slices.json")))
    return Fleet([spec(0), spec(1)], adopted, config, runtime, store)


def on_record(tmp_path):
    return StateStore(tmp_path).load().servers


def handles_on_record(tmp_path):
    return [record.handle for record in on_record(tmp_path)]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is a file's content
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def supervised(made):
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.supervise())
        yield
        task.cancel()


async def test_all_are_started_before_any_is_waited_for(made, runtime, readiness, tmp_path):
    readiness.clear()
    heard = Heard()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.start(heard))
        await until(lambda: len(runtime.started) == 2)
        assert [record.state for record in on_record(tmp_path)] == ["starting", "starting"]
        assert [record.handle for record in on_record(tmp_path)] == [
            server.handle for server in runtime.started
        ]
        readiness.add(8010)
        await until(lambda: heard.ready_names == ["s1"])
        readiness.add(8000)
    assert heard.ready_names == ["s1", "s0"]
    assert [record.state for record in on_record(tmp_path)] == ["ready", "ready"]


async def test_one_that_ends_fails_the_start_with_tritons_reason(made, runtime, readiness):
    readiness.clear()
    runtime.dead = {1}
    runtime.output = "error: creating server: no such file\n"
    with pytest.raises(StartError, match=r"s1 did not start: creating server: no such file .exit"):
        await made.start(Heard())


async def test_an_answer_of_another_program_on_the_port_is_no_success(made, runtime):
    runtime.dead = {0}
    with pytest.raises(StartError, match="s0 did not start"):
        await made.start(Heard())


async def test_one_that_would_hang_is_not_waited_for(made, runtime, readiness):
    readiness.clear()
    runtime.output = "Failed to preinitialize Python stub: Python model file not found in 'x'\n"
    with pytest.raises(StartError, match="Python model file not found"):
        await made.start(Heard())


async def test_the_wait_has_an_end(tmp_path, runtime, readiness):
    readiness.clear()
    with pytest.raises(StartError, match=r"not ready within 0\.1 s"):
        await build(tmp_path, runtime, ready_timeout_s=0.1).start(Heard())


async def test_a_server_that_dies_is_started_again_under_a_new_marker(made, runtime, tmp_path):
    await made.start(Heard())
    async with supervised(made):
        first = runtime.started[0]
        first.ended.set()
        await until(lambda: on_record(tmp_path)[0].restarts == 1)
        await until(lambda: on_record(tmp_path)[0].state == "ready")
    record = on_record(tmp_path)[0]
    assert record.handle == runtime.started[2].handle
    assert record.handle.marker != first.handle.marker
    assert runtime.swept == [first.handle.marker]
    assert on_record(tmp_path)[1].handle == runtime.started[1].handle


async def test_it_is_started_again_however_often_that_takes(made, runtime, tmp_path):
    await made.start(Heard())
    runtime.dead = {2, 3, 4}
    async with supervised(made):
        runtime.started[1].ended.set()
        await until(lambda: len(runtime.started) == 6 and on_record(tmp_path)[1].state == "ready")
    assert on_record(tmp_path)[1].restarts == 4


async def test_servers_of_before_are_adopted_and_the_missing_one_started(tmp_path, runtime):
    before = build(tmp_path, runtime)
    await before.start(Heard())
    records = on_record(tmp_path)
    runtime.started[1].ended.set()
    await build(tmp_path, runtime, records).start(Heard())
    assert len(runtime.started) == 3
    assert on_record(tmp_path)[0].handle == runtime.started[0].handle
    assert on_record(tmp_path)[1].handle == runtime.started[2].handle


async def test_while_a_job_has_a_slice_no_server_is_started_there(made, runtime, tmp_path):
    await made.start(Heard())
    async with supervised(made):
        with reservation.hold(tmp_path, "s0", "mig-job-s0-1_"):
            runtime.started[0].ended.set()
            await until(lambda: on_record(tmp_path)[0].state == "lent")
            assert len(runtime.started) == 2
        await until(lambda: on_record(tmp_path)[0].state == "ready")
    assert on_record(tmp_path)[0].restarts == 0
    assert len(runtime.started) == 3


async def test_a_launcher_that_comes_up_while_a_job_runs_waits_for_its_end(tmp_path, runtime):
    with reservation.hold(tmp_path, "s1", "mig-job-s1-1_"):
        made = build(tmp_path, runtime)
        heard = Heard()
        await made.start(heard)
        assert heard.ready_names == ["s0"]
        task = asyncio.ensure_future(made.supervise())
        await until(lambda: on_record(tmp_path)[1].state == "lent")
    await until(lambda: on_record(tmp_path)[1].state == "ready")
    task.cancel()


async def test_what_a_killed_job_left_is_removed_and_its_slice_enabled(
    made, runtime, tmp_path, monkeypatch
):
    swept, enabled = [], []

    class Gateway:
        def __init__(self, address, token_file):
            """Of any address."""

        async def answers(self):
            return True

        async def enable(self, name):
            enabled.append(name)

    class Containers:
        def sweep(self, markers):
            swept.extend(markers)

    monkeypatch.setattr(fleet, "GatewayAdmin", Gateway)
    monkeypatch.setattr(fleet, "JobRuntimes", lambda config: Containers())
    path = reservation.path_of(tmp_path, "s1")
    path.parent.mkdir()
    path.write_text("mig-job-s1-1_")
    await made.start(Heard())
    async with supervised(made):
        await until(lambda: not path.read_text())
    assert (swept, enabled) == (["mig-job-s1-1_"], ["s1"])


async def test_one_that_the_gpu_has_hit_is_ended_at_once_and_says_why(made, runtime, tmp_path):
    await made.start(Heard())
    async with supervised(made):
        assert made.restart(frozenset(("s1", "s7")), "XID 31 (memory page fault)") == {"s1"}
        assert made.restart(frozenset(("s1",)), "XID 43 (of the same fault)") == set()
        await until(lambda: on_record(tmp_path)[1].restarts == 1)
        await until(lambda: on_record(tmp_path)[1].state == "ready")
    assert runtime.started[1].told == ["kill"]  # it would answer those who wait with errors
    assert "ended by the launcher, XID 31 (memory page" in on_record(tmp_path)[1].reason
    assert on_record(tmp_path)[0].restarts == 0


async def test_one_that_starts_is_not_ended_for_what_ended_the_one_before(
    made, runtime, readiness, tmp_path
):
    await made.start(Heard())
    async with supervised(made):
        readiness.discard(8010)
        made.restart(frozenset(("s1",)), "XID 31")
        await until(lambda: len(runtime.started) == 3)
        assert made.restart(frozenset(("s1",)), "XID 31") == set()
        readiness.add(8010)
        await until(lambda: on_record(tmp_path)[1].state == "ready")
    assert len(runtime.started) == 3


async def test_a_warning_stays_with_the_slice(tmp_path, runtime):
    made = build(tmp_path, runtime)
    await made.start(Heard())
    made.warn(frozenset(("s0",)), "XID 48: the GPU must be reset")
    assert [record.warning for record in on_record(tmp_path)] == [
        "XID 48: the GPU must be reset", "",
    ]  # fmt: skip
    later = build(tmp_path, runtime, on_record(tmp_path))
    await later.start(Heard())
    assert on_record(tmp_path)[0].warning == "XID 48: the GPU must be reset"


async def test_stopping_asks_all_at_once_and_sweeps(made, runtime, tmp_path):
    await made.start(Heard())
    await stopping.stop(handles_on_record(tmp_path), runtime, 10, asyncio.Event())
    assert [server.told for server in runtime.started] == [["terminate"], ["terminate"]]
    assert runtime.swept == [record.handle.marker for record in on_record(tmp_path)]


async def test_one_that_does_not_stop_is_killed_after_the_limit(tmp_path, runtime):
    runtime.stubborn = True
    await build(tmp_path, runtime).start(Heard())
    await stopping.stop(handles_on_record(tmp_path), runtime, 0.01, asyncio.Event())
    assert [server.told for server in runtime.started] == [["terminate", "kill"]] * 2


async def test_in_a_hurry_they_are_killed_at_once(tmp_path, runtime):
    runtime.stubborn = True
    await build(tmp_path, runtime).start(Heard())
    hurry = asyncio.Event()
    hurry.set()
    await stopping.stop(handles_on_record(tmp_path), runtime, 1000, hurry)
    assert [server.told for server in runtime.started] == [["terminate", "kill"]] * 2


async def test_what_no_launcher_knows_is_removed_and_what_is_just_beginning_is_not(made, runtime):
    """A marker is on record before anything carries it, so the record is asked after looking."""
    runtime.forgotten = ["mig-s0-1_", "mig-s1-2_"]
    on_record = {"mig-s0-1_"}
    await stopping.sweep_unknown(runtime, lambda: on_record)
    assert runtime.swept == ["mig-s1-2_"]


async def test_a_supervisor_goes_on_removing_what_nobody_knows(made, runtime):
    await made.start(Heard())
    async with supervised(made):
        runtime.forgotten = ["mig-s0-late_", *(m.handle.marker for m in made.members)]
        await until(lambda: "mig-s0-late_" in runtime.swept)
    assert set(runtime.swept) == {"mig-s0-late_"}


async def test_what_a_server_left_is_removed_when_the_engine_is_back(made, runtime):
    await made.start(Heard())
    away = [StartError("no engine")] * 3

    def sweep(markers):
        if away:
            raise away.pop()

    runtime.sweep = sweep
    async with supervised(made):
        runtime.started[0].kill()
        await until(lambda: len(runtime.started) == 3)
