"""Every change once in the log, once in the counters, once on the stream, and none twice."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio
from aiohttp import web
from structlog.testing import capture_logs

from gateway.control import openapi
from gateway.control.event_stream import READERS_MAX, EventStream
from gateway.control.events import RING, EventLog
from gateway.fleet.health import Order
from gateway.fleet.outcomes import LOST, OK, SERVER_ERROR
from gateway.fleet.registry import EVENTS
from tests.gateway.control.scripted import free_port
from tests.gateway.making import REFUSED, Fleet, live, make_spec


def recorded(*names: str) -> tuple[Fleet, EventLog]:
    fleet, events = Fleet(*names), EventLog()
    fleet.registry.recorders.append(events.record)
    return fleet, events


def told(events: EventLog, last_id: str = "0") -> list[dict[str, Any]]:
    return [json.loads(data) for _, _, data in events.since(last_id)]


def everything(fleet: Fleet) -> None:
    """Bring about a change of every kind."""
    registry = fleet.registry
    registry.replace([*fleet.specs, make_spec("c", 19000)])
    registry.replace([make_spec("a", weight=2), fleet.specs[1]])
    registry.record(fleet["a"], live("m", "n"))
    for _ in range(5):
        registry.attempt_ended(fleet["a"], "infer/m", SERVER_ERROR)
    fleet.clock.now_s += 6.1
    registry.tick(0.5)
    assert registry.pool("infer/m").pick() is fleet["a"]
    registry.attempt_ended(fleet["a"], "infer/m", OK)
    for _ in range(5):
        registry.attempt_ended(fleet["a"], "", LOST)
    fleet["b"].begin()
    registry.order(fleet["b"], Order.DRAINED, "test")
    fleet["b"].end()
    registry.order(fleet["b"], Order.ENABLED, "test")
    registry.record(fleet["b"], REFUSED)


def test_every_kind_of_change_is_told_with_from_to_and_reason() -> None:
    fleet, events = recorded("a", "b")
    with capture_logs() as logs:
        everything(fleet)
    found = told(events)
    assert {event["event"] for event in found} == set(EVENTS)
    assert len(logs) == len(found) == sum(events.counts.values())
    for event in found:
        assert list(event) == list(openapi.SCHEMAS["Event"]["properties"])
        assert event["reason"]
        assert event["time"].endswith("+00:00")
        if event["event"] not in ("added", "removed", "changed"):
            assert event["from"] != event["to"]
    ejected = [event for event in found if event["event"] == "ejected"]
    assert [(e["name"], e["model"], e["state"]) for e in ejected] == [
        ("a", "m", "ready"),
        ("a", "", "ejected"),
    ]
    assert events.counts["a", "ejected"] == 2


def test_changes_that_changes_bring_about_are_told_after_them() -> None:
    fleet, events = recorded("a", "b")

    class Follows:
        def slice_changed(self, member: object, event: str, reason: str) -> None:
            if event == "health":
                fleet.registry.order(fleet["b"], Order.DRAINED, "follows")

    seen: list[str] = []
    fleet.registry.listeners.insert(0, Follows())
    fleet.registry.recorders.append(lambda change: seen.append(change.event))
    fleet.registry.record(fleet["a"], REFUSED)
    assert seen == ["health", "order"]
    assert [event["event"] for event in told(events)] == seen


def test_the_ring_is_bounded_and_a_reader_resumes_where_it_was() -> None:
    fleet, events = recorded("a", "b")
    for _ in range(RING):
        fleet.registry.order(fleet["a"], Order.DRAINED, "test")
        fleet.registry.order(fleet["a"], Order.ENABLED, "test")
    assert len(told(events)) == RING
    place = events.last_id
    assert told(events, place) == []
    fleet.registry.order(fleet["a"], Order.DRAINED, "test")
    assert [event["to"] for event in told(events, place)] == ["drained"]


def test_an_identifier_of_another_process_is_answered_with_all_that_is_kept() -> None:
    fleet, events = recorded("a")
    fleet.registry.order(fleet["a"], Order.DRAINED, "test")
    for foreign in (f"{'0' * 8}-1", "0", "", "-", "x-y-z", "٣"):
        assert len(told(events, foreign)) == 1


# --- over HTTP --------------------------------------------------------------------------------


class Served:
    """An event log behind a server on a real socket."""

    def __init__(self) -> None:
        self.fleet, self.events = recorded("a", "b")
        self.url = ""
        self.session = aiohttp.ClientSession()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/v1/events", EventStream(self.events).get)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
        await self._runner.setup()
        port = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}/v1/events"

    async def stop(self) -> None:
        self.events.close()
        await self.session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def connect(self, last_id: str | None = None) -> aiohttp.ClientResponse:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        answer = await self.session.get(self.url, headers=headers)
        if answer.status == 200:
            assert await answer.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
        return answer


async def next_event(answer: aiohttp.ClientResponse) -> dict[str, str]:
    async with asyncio.timeout(5):
        text = (await answer.content.readuntil(b"\n\n")).decode()
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    server = Served()
    await server.start()
    yield server
    await server.stop()


async def test_a_reader_gets_what_happens_from_now_on(served: Served) -> None:
    served.fleet.registry.order(served.fleet["a"], Order.DRAINED, "before")
    async with await served.connect() as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        served.fleet.registry.order(served.fleet["b"], Order.DISABLED, "after")
        event = await next_event(answer)
    assert event["event"] == "order"
    data = json.loads(event["data"])
    assert (data["name"], data["from"], data["to"]) == ("b", "enabled", "disabled")
    assert event["id"] == served.events.last_id


async def test_a_reader_that_was_away_gets_what_it_missed_once(served: Served) -> None:
    async with await served.connect() as answer:
        served.fleet.registry.order(served.fleet["a"], Order.DRAINED, "seen")
        seen = await next_event(answer)
    served.fleet.registry.order(served.fleet["a"], Order.ENABLED, "missed")
    async with await served.connect(seen["id"]) as answer:
        assert json.loads((await next_event(answer))["data"])["reason"] == "missed"
        served.fleet.registry.order(served.fleet["a"], Order.DRAINED, "new")
        assert json.loads((await next_event(answer))["data"])["reason"] == "new"


async def test_readers_are_bounded(served: Served) -> None:
    readers = [await served.connect() for _ in range(READERS_MAX)]
    refused = await served.connect()
    assert refused.status == 503
    refused.close()
    for reader in readers:
        reader.close()


async def test_a_stop_ends_the_streams_at_once(served: Served) -> None:
    async with await served.connect() as answer:
        served.events.close()
        async with asyncio.timeout(2):
            assert await answer.content.read() == b""
