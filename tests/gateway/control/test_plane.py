"""The control plane as a whole: files in, routable slices, journal and admin API out."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from contract import inventory
from gateway.balance.policies import POLICIES
from gateway.config import Config, parse
from gateway.control.plane import ControlPlane
from gateway.fleet.registry import SliceRegistry
from gateway.metrics import Counters
from tests.gateway.control.conftest import StartTriton
from tests.gateway.control.scripted import ScriptedTriton, free_port, until
from tests.gateway.making import make_spec


def configured(folder: Path, slices: str = "[]", **more: str) -> Config:
    text = f"""
        admin: {{listen: "127.0.0.1:{free_port()}"}}
        slices: {slices}
        inventory: {folder}/slices.json
        state_file: {folder}/state.json
        health: {{interval: 0.2, timeout: 0.5, down_interval: 0.1, fast_interval: 0.1}}
    """
    for key, value in more.items():
        text += f"\n        {key}: {value}"
    return parse(text, "test")


class Running:
    """A control plane that was started."""

    def __init__(self, config: Config) -> None:
        clock = asyncio.get_running_loop().time
        policy = POLICIES[config.balancing.policy]
        self.config = config
        self.registry = SliceRegistry(policy, config.health.thresholds(), clock)
        self.plane = ControlPlane(config, self.registry, Counters(), lambda: "")

    async def call(self, method: str, path: str) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self.config.admin.listen}{path}") as answer,
        ):
            return answer.status, await answer.json()

    def routable(self) -> list[str]:
        return [member.name for member in self.registry.everywhere.members]


@pytest_asyncio.fixture
async def planes() -> AsyncIterator[list[Running]]:
    """What a test puts here is stopped after it."""
    running: list[Running] = []
    yield running
    for one in running:
        await one.plane.stop()


async def start(planes: list[Running], config: Config) -> Running:
    running = Running(config)
    planes.append(running)
    await running.plane.start()
    return running


def entry(triton: ScriptedTriton, name: str) -> str:
    address = f'"127.0.0.1:{triton.port}"'
    return f"{{name: {name}, http: {address}, grpc: {address}}}"


async def test_when_start_returns_there_is_something_to_serve_with(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    triton = await start_triton()
    running = await start(planes, configured(tmp_path, f"[{entry(triton, 'a')}]"))
    assert running.routable() == ["a"]
    assert (await running.call("GET", "/readyz"))[0] == 200


async def test_a_slice_that_hangs_holds_the_start_up_for_one_check_only(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    hung, lives = await start_triton(), await start_triton()
    hung.mode = "hang"
    slices = f"[{entry(hung, 'hung')}, {entry(lives, 'lives')}]"
    async with asyncio.timeout(3):
        running = await start(planes, configured(tmp_path, slices))
    assert running.routable() == ["lives"]


async def test_slices_come_with_the_inventory_and_go_with_it(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    triton = await start_triton()
    running = await start(planes, configured(tmp_path))
    assert (await running.call("GET", "/v1/slices"))[1] == {"slices": []}
    with capture_logs() as logs:
        inventory.save(tmp_path / "slices.json", [triton.spec("s0")])
        await until(lambda: running.routable() == ["s0"])
        inventory.save(tmp_path / "slices.json", [])
        await until(lambda: running.routable() == [])
    told = [line["event"] for line in logs if line["event"].startswith("slice.")]
    assert told == ["slice.added", "slice.health_changed", "slice.removed"]


async def test_the_operators_choice_survives_a_restart_and_is_never_routed_around(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    a, b = await start_triton(), await start_triton()
    config = configured(tmp_path, f"[{entry(a, 'a')}, {entry(b, 'b')}]")
    first = await start(planes, config)
    assert (await first.call("POST", "/v1/slices/a/disable"))[0] == 200
    await first.plane.stop()
    checked = a.connections
    second = await start(planes, config)
    assert second.routable() == ["b"]
    assert (await second.call("GET", "/v1/slices/a"))[1]["state"] == "disabled"
    assert a.connections == checked
    assert (await second.call("POST", "/v1/slices/a/enable"))[0] == 200
    await until(lambda: second.routable() == ["a", "b"])


async def test_every_flip_is_logged_once_with_its_reason(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    a, b = await start_triton(), await start_triton()
    running = await start(planes, configured(tmp_path, f"[{entry(a, 'a')}, {entry(b, 'b')}]"))
    with capture_logs() as logs:
        await a.stop()
        await until(lambda: running.routable() == ["b"])
        await a.start()
        await until(lambda: running.routable() == ["a", "b"])
        await running.call("POST", "/v1/slices/a/drain")
    found = [
        (line["event"], line["slice"], line["before"], line["after"], line["simulated"])
        for line in logs
        if line["event"].startswith("slice.")
    ]
    assert found == [
        ("slice.health_changed", "a", "up", "down", False),
        ("slice.health_changed", "a", "down", "up", False),
        ("slice.order_changed", "a", "enabled", "drained", False),
    ]
    assert "refused" in logs[0]["reason"]
    [order] = [line for line in logs if line["event"] == "slice.order_changed"]
    assert "127.0.0.1" in order["reason"]


async def test_a_server_that_moved_is_logged_and_checked_anew(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    old, new = await start_triton(), await start_triton()
    inventory.save(tmp_path / "slices.json", [old.spec("a")])
    running = await start(planes, configured(tmp_path))
    with capture_logs() as logs:
        inventory.save(tmp_path / "slices.json", [new.spec("a")])
        await until(lambda: new.connections > 0)
        await until(lambda: running.routable() == ["a"])
    changed = next(line for line in logs if line["event"] == "slice.changed")
    assert (changed["state"], changed["http"]) == ("starting", f"127.0.0.1:{new.port}")


async def test_the_relay_may_ask_for_a_check(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    triton = await start_triton()
    config = configured(tmp_path, f"[{entry(triton, 'a')}]")
    slow = config.model_copy(update={"health": config.health.model_copy(update={"interval": 60})})
    running = await start(planes, slow)
    await triton.stop()
    running.plane.check_soon(running.registry.slices["a"])
    await until(lambda: running.routable() == [])


async def test_an_admin_address_that_is_taken_is_an_error_and_leaves_nothing_running(
    planes: list[Running], tmp_path: Path
) -> None:
    config = configured(tmp_path, '[{name: a, http: "127.0.0.1:1", grpc: "127.0.0.1:2"}]')
    before = asyncio.all_tasks()
    with socket.socket() as taken:
        taken.bind((config.admin.listen.host, config.admin.listen.port))
        taken.listen()
        with pytest.raises(
            OSError, match=r"admin\.listen .* cannot be had: Address already in use"
        ):
            await start(planes, config)
    assert asyncio.all_tasks() == before


async def test_stopping_ends_every_task_and_every_listener(
    planes: list[Running], tmp_path: Path
) -> None:
    before = asyncio.all_tasks()
    inventory.save(tmp_path / "slices.json", [make_spec("a", port=1), make_spec("b", port=1)])
    running = Running(configured(tmp_path))
    planes.append(running)
    registry = running.registry
    listening = list(registry.listeners), list(registry.recorders)
    await running.plane.start()
    assert (registry.listeners, registry.recorders) != listening
    await running.plane.stop()
    await running.plane.stop()
    assert asyncio.all_tasks() == before
    assert (registry.listeners, registry.recorders) == listening


async def test_a_call_that_waits_does_not_hold_up_the_stop(
    planes: list[Running], start_triton: StartTriton, tmp_path: Path
) -> None:
    a, b = await start_triton(), await start_triton()
    running = await start(planes, configured(tmp_path, f"[{entry(a, 'a')}, {entry(b, 'b')}]"))
    member = running.registry.slices["a"]
    member.begin()
    waiting = asyncio.ensure_future(running.call("POST", "/v1/slices/a/drain?wait=60s"))
    await until(lambda: bool(member.on_idle))
    async with asyncio.timeout(5):
        await running.plane.stop()
    with pytest.raises(aiohttp.ClientError):
        await waiting
    member.end()
