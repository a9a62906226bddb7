"""The flower client behind the page at /flowers: its process, its orders, its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from contract.slice_spec import Endpoint
from gateway.control import flowers
from gateway.control.auth import Caller
from gateway.control.flowers import FlowerCalls, Front
from gateway.flowers.pictures import RGB_BYTES, TENSOR_BYTES
from tests.gateway.control.scripted import until
from tests.support.flower_model import Model

ANYBODY = Caller("anybody", "address", "127.0.0.1", may_write=True)


class Stage:
    def __init__(self, front: Front) -> None:
        self.calls = FlowerCalls(front, lambda request: ANYBODY)
        app = web.Application()
        app.add_routes(self.calls.routes())
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Page"]:
        async with self.client.post("/v1/flowers") as answer:
            assert answer.status == 200
            page = Page(self.client, answer)
            page.hello = await page.next()
            yield page


class Page:
    def __init__(
        self, client: TestClient[web.Request, web.Application], answer: ClientResponse
    ) -> None:
        self._client = client
        self._answer = answer
        self.hello: dict[str, Any] = {}

    async def next(self, event: str = "") -> dict[str, Any]:
        """Return what is said next, or next of that kind."""
        async with asyncio.timeout(20):
            while True:
                line = (await self._answer.content.readline()).decode()
                if line.startswith("data: "):
                    data: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    if event in ("", data.get("event")):
                        return data

    async def call(self, method: str, path: str = "", **more: Any) -> tuple[int, Any]:
        path = f"/v1/flowers/{self.hello['session']}{path}"
        async with self._client.request(method, path, **more) as answer:
            return answer.status, await answer.json() if answer.status < 400 else None


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = Model()
    await model.server.start_server()
    yield model
    model.let_go.set()
    await model.server.close()


@pytest.fixture
async def stage(model: Model) -> AsyncIterator[Stage]:
    stage = Stage(Front(Endpoint("127.0.0.1", model.server.port or 0)))
    async with stage.client:
        yield stage
        await stage.calls.stop()


async def test_a_picture_is_asked_for_through_the_port_and_its_classes_come(
    stage: Stage, model: Model
) -> None:
    async with stage.open() as page:
        assert page.hello["side"] == 224
        assert await page.call("POST", "/pictures/3") == (202, {"picture": 3})
        answer = await page.next("answer")
        assert (answer["picture"], answer["slice"]) == (3, "s3")
        assert answer["classes"] == [[0.75, "rose"], [0.2, "lily"], [0.05, "class 5"]]
        assert answer["took_ms"] > 0
    assert [len(tensor) for tensor in model.asked] == [TENSOR_BYTES]
    assert model.fields == ["?"]


async def test_as_many_are_outstanding_as_are_wanted(stage: Stage, model: Model) -> None:
    model.let_go.clear()
    async with stage.open() as page:
        assert await page.call("PUT", json={"outstanding": 5}) == (200, {"outstanding": 5})
        await until(lambda: model.at_once == 5, 20)
        model.let_go.set()
        report = await page.next("report")
        while not report["answered"]:
            report = await page.next("report")
        assert set(report["slices"]) <= {"s3"}
        assert (report["outstanding"], report["failed"]) == (5, 0)
        await page.call("PUT", json={"outstanding": 0})
        await until(lambda: model.at_once == 0, 20)
    assert model.most_at_once == 5


async def test_a_picture_of_the_users_own_takes_a_tiles_place(stage: Stage, model: Model) -> None:
    async with stage.open() as page:
        white = b"\xff" * RGB_BYTES
        assert (await page.call("PUT", "/pictures/7", data=white))[0] == 200
        assert (await page.call("PUT", "/pictures/7", data=white[1:]))[0] == 400
        await page.call("POST", "/pictures/7")
        await page.next("answer")
    assert len(set(memoryview(model.asked[0]).cast("f"))) == 3, "one value a channel"


async def test_a_failure_is_told_in_the_gateways_words(stage: Stage, model: Model) -> None:
    model.error = "no slice can serve"
    async with stage.open() as page:
        await page.call("POST", "/pictures/0")
        assert (await page.next("answer"))["error"] == "no slice can serve"
        report = await page.next("report")
        while not report["failed"]:
            report = await page.next("report")


@pytest.mark.parametrize("body", [{"outstanding": 101}, {"outstanding": True}, {}, [1]])
async def test_what_is_not_a_number_that_is_allowed_is_400(stage: Stage, body: Any) -> None:
    async with stage.open() as page:
        assert (await page.call("PUT", json=body))[0] == 400
        for picture in ("40", "-1", "x", "9" * 30):
            assert (await page.call("POST", f"/pictures/{picture}"))[0] == 404


async def test_the_process_ends_with_the_page(stage: Stage) -> None:
    async with stage.open() as page:
        session = page.hello["session"]
        pid = stage.calls._sessions[session].pid
        assert psutil.pid_exists(pid)
    await until(lambda: not psutil.pid_exists(pid), 20)
    assert (await page.call("PUT", json={"outstanding": 1}))[0] == 404


async def test_as_many_are_open_as_may(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowers, "SESSIONS_MAX", 1)
    async with stage.open(), stage.client.post("/v1/flowers") as answer:
        assert answer.status == 503


async def test_a_port_that_wants_a_certificate_is_not_asked() -> None:
    stage = Stage(Front(Endpoint("127.0.0.1", 1), asks_clients=True))
    async with stage.client, stage.client.post("/v1/flowers") as answer:
        assert answer.status == 409
        assert "client_ca" in (await answer.json())["error"]
