"""`GET /v1/live`: everything once, then what changes, and nothing while nobody looks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from gateway.control import live, live_stream
from gateway.control.auth import Caller
from gateway.control.events import EventLog
from gateway.control.live import LiveFeed
from gateway.control.live_stream import LiveStream
from gateway.fleet.health import Order
from gateway.fleet.queue_report import report
from tests.gateway.control.scripted import until
from tests.gateway.making import REFUSED, Fleet, make_spec

READER = Caller("ops", "token", "10.0.0.1", may_write=False)


class Stage:
    """A fleet, its feed, and a server that sends it on."""

    def __init__(self) -> None:
        self.fleet = Fleet("a", "b")
        self.events = EventLog()
        self.fleet.registry.recorders.append(self.events.record)
        self.about = {"policy": "least_load", "connections": 0}
        self.looks = 0
        self.feed = LiveFeed(
            self.fleet.registry, self.events, lambda: dict(self.about), self._sync,
            lambda: report(self.fleet.registry.queues),
        )  # fmt: skip
        app = web.Application()
        app.add_routes([web.get("/v1/live", LiveStream(self.feed, lambda request: READER).get)])
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    async def _sync(self) -> None:
        self.looks += 1

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["Reading"]:
        async with self.client.get("/v1/live") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            yield Reading(answer)


class Reading:
    def __init__(self, answer: ClientResponse) -> None:
        self._answer = answer

    async def next(self, wanted: str = "") -> tuple[str, Any]:
        """Return (event, data) of the next message, or of the next `wanted`."""
        while True:
            async with asyncio.timeout(10):
                event = (await self._answer.content.readline()).decode()
                data = (await self._answer.content.readline()).decode()
                await self._answer.content.readline()
            assert event.startswith("event: "), event
            name = event.removeprefix("event: ").strip()
            if wanted in ("", name):
                return name, json.loads(data.removeprefix("data: "))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with stage.client:
        yield stage
        await stage.feed.stop()


async def test_a_reader_is_given_everything_and_who_it_is(stage: Stage) -> None:
    stage.fleet.registry.record(stage.fleet["b"], REFUSED)
    async with stage.reading() as reading:
        event, told = await reading.next()
    assert event == "snapshot"
    assert told["you"] == {"name": "ops", "how": "token", "may_write": False}
    assert [(s["name"], s["state"]) for s in told["slices"]] == [("a", "ready"), ("b", "unready")]
    assert told["gateway"] == {"policy": "least_load", "connections": 0}
    assert [(e["name"], e["event"]) for e in told["events"]] == [("b", "health")]


async def test_what_happens_is_told_at_once_with_its_reason(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SAMPLE_S", 3600.0)
    async with stage.reading() as reading:
        await reading.next("snapshot")
        stage.fleet.registry.record(stage.fleet["a"], REFUSED)
        _, change = await reading.next("change")
        assert (change["name"], change["to"], change["reason"]) == ("a", "down", "refused")
        _, tick = await reading.next("tick")
    assert tick["slices"]["a"]["state"] == "unready"
    assert "sample" not in tick


async def test_each_second_only_what_has_changed_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SAMPLE_S", 0.05)
    async with stage.reading() as reading:
        await reading.next("snapshot")
        await reading.next("tick")
        stage.fleet["a"].http_requests += 3
        stage.about["connections"] = 7
        while True:
            _, tick = await reading.next("tick")
            if tick["gateway"]:
                break
    assert tick["gateway"] == {"connections": 7}
    tick["slices"]["a"].pop("last_check", None)  # how long ago it was changes by itself
    assert tick["slices"]["a"] == {"requests": 3, "http_requests": 3}
    assert set(tick["sample"]["slices"]) == {"a", "b"}


async def test_a_slice_that_comes_is_told_whole_and_one_that_goes_is_missed(stage: Stage) -> None:
    async with stage.reading() as reading:
        await reading.next("snapshot")
        stage.fleet.registry.replace([stage.fleet.specs[0], make_spec("c", 19000)])
        while True:
            _, tick = await reading.next("tick")
            if "order" in tick:
                break
    assert tick["order"] == ["a", "c"]
    assert tick["slices"]["c"]["state"] == "starting"


async def test_nothing_is_looked_at_while_nobody_reads(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SAMPLE_S", 0.02)
    async with stage.reading() as reading:
        await reading.next("snapshot")
    await until(lambda: stage.feed.readers == 0)
    await until(lambda: stage.feed._running is not None and stage.feed._running.done())
    looks = stage.looks
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert stage.looks == looks
    async with stage.reading() as reading:  # and goes on for the next
        _, told = await reading.next("snapshot")
        await reading.next("tick")
    assert stage.looks > looks
    assert len(told["history"]) >= 1


async def test_two_readers_are_told_the_same_and_looked_for_once(stage: Stage) -> None:
    async with stage.reading() as one, stage.reading() as other:
        await one.next("snapshot")
        await other.next("snapshot")
        stage.fleet.registry.order(stage.fleet["a"], Order.DISABLED, "for a test")
        assert await one.next("change") == await other.next("change")
        assert await one.next("tick") == await other.next("tick")


async def test_a_reader_that_is_too_far_behind_is_given_everything_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = await stage.feed.join()
    number, _ = stage.feed.snapshot({})
    assert stage.feed.since(number) == (number, b"")
    for _ in range(live.KEPT + 1):
        await stage.feed._refresh(sample=False)
    assert stage.feed.since(number) is None
    stage.feed.leave(woken)


async def test_as_many_read_as_may(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "READERS_MAX", 1)
    async with stage.reading() as reading:
        await reading.next("snapshot")
        async with stage.client.get("/v1/live") as answer:
            assert answer.status == 503


async def test_streams_end_when_the_gateway_stops_or_hands_over(stage: Stage) -> None:
    async with stage.client.get("/v1/live") as answer:
        await Reading(answer).next("snapshot")
        stage.feed.close()
        async with asyncio.timeout(10):
            await answer.content.read()
    await until(lambda: stage.feed.readers == 0)
