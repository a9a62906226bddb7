"""A reload changes what it can, says what it cannot, and changes nothing when the file is wrong."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import structlog
import yaml
from structlog.testing import capture_logs

from contract import inventory
from gateway.balance.policies import POLICIES, RoundRobin
from gateway.config import Config, ConfigError, load, parse
from gateway.control.auth import Caller
from gateway.control.differences import AT_START, LIVE, Change, differences
from gateway.control.plane import ControlPlane
from gateway.control.reload import Apply, Reloader, Step
from gateway.control.security import Security
from gateway.fleet.registry import SliceRegistry
from gateway.metrics import Counters
from tests.gateway.control.conftest import StartTriton
from tests.gateway.control.scripted import ScriptedTriton, free_port, until
from tests.support.certificates import Authority

OPS = Caller("ops", "token", "10.0.0.1", may_write=True)
GOOD = 'slices: [{name: a, http: "h:1", grpc: "h:2"}]\n'


def keys(changes: tuple[Change, ...] | list[Change]) -> list[str]:
    return [change.key for change in changes]


# --- what is different ------------------------------------------------------------------------


def test_what_is_different_is_named_key_by_key() -> None:
    before = parse(GOOD + "limits: {streams: 10}", "g")
    after = parse(
        'slices: [{name: a, http: "h:1", grpc: "h:3"}, {name: b, http: "h:5", grpc: "h:6"}]\n'
        "limits: {streams: 11}\ntls: {cert: c, key: k}\nlisten: 127.0.0.1:1\ntimeouts: {idle: 2m}",
        "g",
    )
    found = {change.key: (change.before, change.after) for change in differences(before, after)}
    assert set(found) == {
        "listen",
        "tls",
        "slices.a",
        "slices.b",
        "limits.streams",
        "timeouts.idle",
    }
    assert found["limits.streams"] == (10, 11)
    assert found["timeouts.idle"] == (75.0, 120.0)
    assert found["listen"] == (["0.0.0.0:50050"], ["127.0.0.1:1"])
    assert found["slices.b"][0] is None
    assert found["slices.b"][1]["http"] == "h:5"
    assert found["tls"] == (
        None,
        {"cert": "c", "key": "k", "client_ca": None, "min_version": "1.2"},
    )
    json.dumps([change.view() for change in differences(before, after)])
    assert differences(after, after) == []


def test_for_every_key_it_is_settled_whether_a_reload_changes_it() -> None:
    """Whoever adds a section decides; what nobody has thought of is named as needing a restart."""
    needs_restart = {"listen", "tls", "admin", "workers", "forwarding", "state_file", "triton"}
    live = {key.rstrip(".").partition(".")[0] for key in LIVE}
    assert set(Config.model_fields) <= live | needs_restart
    assert Change("tls.cert", "a", "b").is_live
    assert Change("triton.ready", "any", "all").is_live
    for key in (
        "tls", "admin.tls", "admin.listen", "listen", "state_file", "triton.call_timeout", *AT_START
    ):  # fmt: skip
        assert not Change(key, "a", "b").is_live


# --- the order of things ----------------------------------------------------------------------


class File:
    """A configuration file, and targets that write down what they are told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.write("")
        self.reloader = Reloader(path, load(path), [Apply(self.apply), self], settle=[self.settled])
        self.wrong: list[str] = []

    def write(self, more: str) -> None:
        self.path.write_text(GOOD + more)

    def prepare(self, config: Config) -> Step:
        if self.wrong:
            raise ConfigError(self.wrong)
        return Step(lambda: self.told.append("committed"), (Change("cert", "old", "new"),))

    def apply(self, config: Config) -> None:
        self.told.append(f"streams {config.limits.values().streams}")

    async def settled(self) -> None:
        self.told.append("settled")


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.yaml")


async def test_all_targets_are_told_and_then_what_takes_time_is_awaited(file: File) -> None:
    file.write("limits: {streams: 7}\nlisten: 127.0.0.1:1")
    outcome = await file.reloader.reload(OPS)
    assert file.told == ["streams 7", "committed", "settled"]
    assert keys(outcome.changed) == ["limits.streams", "cert"]
    assert keys(outcome.needs_restart) == ["listen"]


async def test_what_waits_for_a_restart_is_named_until_then(file: File) -> None:
    file.write("listen: 127.0.0.1:1\nlimits: {streams: 7}")
    await file.reloader.reload(OPS)
    again = await file.reloader.reload(OPS)
    assert (keys(again.changed), keys(again.needs_restart)) == (["cert"], ["listen"])
    file.write("")
    back = await file.reloader.reload(OPS)
    assert (keys(back.changed), keys(back.needs_restart)) == (["limits.streams", "cert"], [])


async def test_a_wrong_file_changes_nothing_and_every_mistake_is_told(file: File) -> None:
    file.write("limits: {stream: 7}\nlisten: x")
    with capture_logs() as logs, pytest.raises(ConfigError) as raised:
        await file.reloader.reload(OPS)
    assert len(raised.value.errors) == 2
    assert file.told == []
    [line] = [line for line in logs if line["event"] == "config.refused"]
    assert (line["log_level"], line["errors"]) == ("error", raised.value.errors)


async def test_a_mistake_that_only_one_part_can_find_stops_all_of_them(file: File) -> None:
    file.write("limits: {streams: 7}")
    file.wrong = ["tls.cert: missing"]
    with pytest.raises(ConfigError, match=r"gateway\.yaml: tls\.cert: missing"):
        await file.reloader.reload(OPS)
    assert file.told == []


async def test_a_file_that_has_gone_is_a_mistake_like_others(file: File) -> None:
    file.path.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        await file.reloader.reload(OPS)


async def test_each_change_is_in_the_audit_log(file: File) -> None:
    file.write("limits: {streams: 7}")
    with capture_logs() as logs:
        await file.reloader.reload(OPS)
    changes = [(line["who"], line["what"]) for line in logs if line["event"] == "admin.changed"]
    assert changes == [("ops", "limits.streams"), ("ops", "cert")]


async def test_a_signal_reloads_and_a_storm_of_them_is_not_a_storm_of_reloads(file: File) -> None:
    with capture_logs() as logs:
        for _ in range(100):
            file.reloader.soon()
        await until(lambda: "settled" in file.told)
        file.write("nonsense: 1")
        file.reloader.soon()
        await until(lambda: any(line["event"] == "config.refused" for line in logs))
    assert file.told.count("settled") == 1
    assert [line["who"] for line in logs if line["event"] == "admin.changed"] == ["SIGHUP"]
    await file.reloader.stop()


async def test_reloads_take_turns_and_the_last_one_sees_the_last_file(file: File) -> None:
    file.write("limits: {streams: 7}")
    first = asyncio.ensure_future(file.reloader.reload(OPS))
    file.write("limits: {streams: 8}")
    second = asyncio.ensure_future(file.reloader.reload(OPS))
    await asyncio.gather(first, second)
    assert file.told[-3:] == ["streams 8", "committed", "settled"]


# --- tokens and certificates ------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Callable[..., Config]:
    """Return a function that makes a configuration with TLS on both ports and a token."""
    pair = Authority(tmp_path).server()
    for part in ("cert", "key"):
        (tmp_path / part).write_bytes(getattr(pair, part).read_bytes())
    (tmp_path / "token").write_text("t" * 20)

    def made(**admin: Any) -> Config:
        tls = {"cert": str(tmp_path / "cert"), "key": str(tmp_path / "key")}
        token = {"name": "ops", "file": str(tmp_path / "token"), "role": "write"}
        given = {"listen": "0.0.0.0:9001", "tls": tls, "tokens": [token], **admin}
        given = {key: value for key, value in given.items() if value is not None}
        return parse(yaml.safe_dump({"inventory": "x", "tls": tls, "admin": given}), "g")

    return made


def test_a_new_certificate_and_token_in_the_same_files_are_changes(
    secure: Callable[..., Config], tmp_path: Path
) -> None:
    security = Security(secure())
    assert security.prepare(secure()).changes == ()
    assert security.data_tls is not None
    old = security.data_tls.loaded
    pair = Authority(tmp_path, "next").server()
    for part in ("cert", "key"):
        (tmp_path / part).write_bytes(getattr(pair, part).read_bytes())
    (tmp_path / "token").write_text("u" * 20)
    step = security.prepare(secure())
    assert keys(step.changes) == ["admin.tls (content)", "tls (content)", "admin.tokens (content)"]
    assert security.data_tls.loaded is old
    assert security.access.caller("Bearer " + "t" * 20, None, "x") is not None
    step.commit()
    assert security.data_tls.loaded.fingerprint == step.changes[1].after != old.fingerprint
    assert security.access.caller("Bearer " + "t" * 20, None, "x") is None
    assert security.access.caller("Bearer " + "u" * 20, None, "x") is not None


def test_all_files_that_cannot_be_used_are_named_at_once(
    secure: Callable[..., Config], tmp_path: Path
) -> None:
    security = Security(secure())
    for name in ("cert", "token"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError) as raised:
        security.prepare(secure())
    places = [error.partition(": ")[0] for error in raised.value.errors]
    assert places == ["admin.tokens[0].file", "admin.tls.cert", "tls.cert"]


def test_an_open_address_is_not_left_unguarded_by_a_file_that_would_be_fine_after_a_restart(
    secure: Callable[..., Config],
) -> None:
    security = Security(secure())
    with pytest.raises(ConfigError, match=r"listens on 0\.0\.0\.0:9001.*restart it"):
        security.prepare(secure(listen="127.0.0.1:9001", tokens=None))
    security.prepare(secure(listen="127.0.0.1:9001"))


# --- the control plane as a whole ---------------------------------------------------------------


class Running:
    """A control plane that was started from a file, and its reloader."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        clock = asyncio.get_running_loop().time
        policy = POLICIES[config.balancing.policy]
        self.registry = SliceRegistry(policy, config.health.thresholds(), clock)
        security = Security(config)
        self.plane = ControlPlane(config, self.registry, Counters(), lambda: "", security)
        targets = [security, *self.plane.reload_targets]
        self.plane.serve_reloads(Reloader(path, config, targets, self.plane.settle))

    def routable(self) -> list[str]:
        return [member.name for member in self.registry.everywhere.members]

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self.config.admin.listen}{path}", **more) as answer,
        ):
            return answer.status, await answer.json()


class Document:
    """A configuration file for a control plane, to be changed key by key."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gateway.yaml"
        self.keys: dict[str, Any] = {
            "admin": {"listen": f"127.0.0.1:{free_port()}"},
            "inventory": str(folder / "slices.json"),
            "state_file": str(folder / "state.json"),
            "slices": [],
            "health": {"interval": 0.1, "timeout": 0.5},
        }

    def write(self, **keys: Any) -> None:
        self.keys |= keys
        self.path.write_text(yaml.safe_dump(self.keys))


@pytest.fixture
def document(tmp_path: Path) -> Document:
    inventory.save(tmp_path / "slices.json", [])
    return Document(tmp_path)


@pytest_asyncio.fixture
async def start(document: Document) -> AsyncIterator[Callable[..., Any]]:
    running: list[Running] = []

    async def started(**keys: Any) -> Running:
        document.write(**keys)
        one = Running(document.path, load(document.path))
        running.append(one)
        await one.plane.start()
        return one

    yield started
    for one in running:
        await one.plane.stop()
    structlog.reset_defaults()  # a reload sets the log up


def entry(name: str, triton: ScriptedTriton) -> dict[str, str]:
    address = f"127.0.0.1:{triton.port}"
    return {"name": name, "http": address, "grpc": address}


async def test_slices_come_and_go_by_reload(
    document: Document, start: Callable[..., Any], start_triton: StartTriton
) -> None:
    a, b = entry("a", await start_triton()), entry("b", await start_triton())
    running = await start(slices=[a])
    document.write(slices=[a, b])
    status, body = await running.call("POST", "/v1/reload")
    assert (status, [change["key"] for change in body["changed"]]) == (200, ["slices.b"])
    assert list(running.registry.slices) == ["a", "b"]
    await until(lambda: running.routable() == ["a", "b"])
    busy = running.registry.slices["a"]
    busy.begin()
    document.write(slices=[b])
    await running.call("POST", "/v1/reload")
    assert (running.routable(), busy.in_flight) == (["b"], 1)
    busy.end()


async def test_a_wrong_file_is_422_with_every_mistake_and_changes_nothing(
    document: Document, start: Callable[..., Any], start_triton: StartTriton
) -> None:
    running = await start(slices=[entry("a", await start_triton())])
    document.write(slices=[], balancing={"policy": "x"}, limits={"stream": 1})
    status, body = await running.call("POST", "/v1/reload")
    assert status == 422
    assert "nothing was changed: the configuration has 2 mistakes; " in body["error"]
    assert len(body["errors"]) == 2
    assert running.routable() == ["a"]


async def test_health_log_and_ejection_follow(
    document: Document, start: Callable[..., Any], start_triton: StartTriton
) -> None:
    triton = await start_triton()
    running = await start(slices=[entry("a", triton)])
    health = {"interval": 3600, "timeout": 0.2, "rise": 5, "fall": 7}
    document.write(health=health, log={"level": "error"}, ejection={"consecutive": 9})
    assert (await running.call("POST", "/v1/reload"))[0] == 200
    assert running.registry.slices["a"].health.thresholds.fall == 7
    assert running.registry.ejector.settings.consecutive == 9
    # A slice that waits for a check an hour away is checked by the new interval at once.
    document.write(health={"interval": 0.05, "timeout": 0.2})
    await running.call("POST", "/v1/reload")
    seen = triton.connections
    await until(lambda: triton.connections > seen + 3)


async def test_a_policy_that_is_edited_replaces_one_that_was_chosen_live(
    document: Document, start: Callable[..., Any], tmp_path: Path
) -> None:
    running = await start(balancing={"policy": "least_load"})
    await running.call("PUT", "/v1/balancing", json={"policy": "round_robin"})
    document.write(limits={"streams": 9})
    await running.call("POST", "/v1/reload")
    assert (await running.call("GET", "/v1/balancing"))[1]["policy"] == "round_robin"
    document.write(balancing={"policy": "round_robin"})
    await running.call("POST", "/v1/reload")
    document.write(balancing={"policy": "least_load"})
    await running.call("POST", "/v1/reload")
    assert (await running.call("GET", "/v1/balancing"))[1]["policy"] == "least_load"
    assert not isinstance(running.registry.everywhere.policy, RoundRobin)
    assert "policy" not in json.loads((tmp_path / "state.json").read_text())


async def test_another_inventory_must_be_there_before_it_replaces_slices(
    document: Document, start: Callable[..., Any], start_triton: StartTriton, tmp_path: Path
) -> None:
    old, new = await start_triton(), await start_triton()
    inventory.save(tmp_path / "slices.json", [old.spec("old")])
    running = await start()
    await until(lambda: running.routable() == ["old"])
    other = tmp_path / "other.json"
    document.write(inventory=str(other))
    for content, said in ((None, "there is no"), ("{", "not JSON")):
        if content is not None:
            other.write_text(content)
        status, body = await running.call("POST", "/v1/reload")
        assert (status, said in body["error"]) == (422, True)
        assert running.routable() == ["old"]
    inventory.save(other, [new.spec("new")])
    assert (await running.call("POST", "/v1/reload"))[0] == 200
    assert list(running.registry.slices) == ["new"]
    await until(lambda: running.routable() == ["new"])


async def test_reloads_back_and_forth_leave_nothing_behind(
    document: Document, start: Callable[..., Any], start_triton: StartTriton
) -> None:
    a, b = entry("a", await start_triton()), entry("b", await start_triton())
    running = await start(slices=[a, b])
    tasks = len(asyncio.all_tasks())
    for slices, _ in zip(itertools.cycle(([a], [a, b])), range(20), strict=False):
        document.write(slices=slices)
        assert (await running.call("POST", "/v1/reload"))[0] == 200
    await until(lambda: running.routable() == ["a", "b"])
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_a_gateway_without_a_file_says_so(start: Callable[..., Any]) -> None:
    running = await start()
    running.plane._admin.reloader = None
    status, body = await running.call("POST", "/v1/reload")
    assert (status, "not started from a file" in body["error"]) == (409, True)
