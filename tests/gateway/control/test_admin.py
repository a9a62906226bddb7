"""The admin API as its clients meet it."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contract.slice_spec import Endpoint
from gateway.config import HealthSection
from gateway.control import pages
from gateway.control.admin import BODY_BYTES_MAX, AdminServer
from gateway.control.choices import ChoiceKeeper
from gateway.control.flowers import Front
from gateway.control.health import HealthChecker
from gateway.control.probes import TritonProbe
from gateway.control.processes import ProcessCalls
from gateway.fleet.health import Order
from gateway.fleet.sequences import SequenceFields, SequenceTable
from gateway.metrics import Counters
from tests.gateway.control.played import Played
from tests.gateway.control.scripted import until
from tests.gateway.making import REFUSED, Fleet, live

NOBODY = Endpoint("127.0.0.1", 1)


class Admin:
    """A fleet with the admin API in front."""

    def __init__(self, state_file: Path) -> None:
        self.fleet = Fleet("a", "b")
        self.not_serving = ""
        registry = self.fleet.registry
        self.keeper = ChoiceKeeper(state_file, registry, "least_load")
        checker = HealthChecker(registry, TritonProbe(), HealthSection())
        self.server = AdminServer(
            NOBODY, registry, Counters(), checker, self.keeper, lambda: self.not_serving
        )
        self.server.front = Front(NOBODY)
        self.processes = Played()
        self.server.processes = ProcessCalls(self.processes, self.processes.upgrade)
        self.client: TestClient[web.Request, web.Application] = TestClient(
            TestServer(self.server.application())
        )

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        async with self.client.request(method, path, **more) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json()

    async def post(self, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        return await self.call("POST", path, **more)


@pytest_asyncio.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    admin = Admin(tmp_path / "state.json")
    async with admin.client:
        yield admin


# --- slices -----------------------------------------------------------------------------------


async def test_all_slices_and_one(admin: Admin) -> None:
    status, body = await admin.call("GET", "/v1/slices")
    assert (status, [entry["name"] for entry in body["slices"]]) == (200, ["a", "b"])
    status, one = await admin.call("GET", "/v1/slices/b")
    assert (status, one["name"], one["state"]) == (200, "b", "ready")


async def test_unknown_slices_are_404_and_the_answer_names_the_known(admin: Admin) -> None:
    for method, path in (
        ("GET", "/v1/slices/c"),
        ("POST", "/v1/slices/c/enable"),
        ("POST", "/v1/slices/c/drain"),
        ("POST", "/v1/slices/c/disable?force=true"),
    ):
        status, body = await admin.call(method, path)
        assert status == 404
        assert body == {"error": "there is no slice 'c'; slices: a, b"}


@pytest.mark.parametrize(
    ("verb", "order", "state"),
    [("drain", "drained", "draining"), ("disable", "disabled", "disabled")],
)
async def test_taking_a_slice_out_answers_at_once_with_its_view(
    admin: Admin, verb: str, order: str, state: str
) -> None:
    for _ in range(2):  # idempotent
        status, body = await admin.post(f"/v1/slices/a/{verb}")
        assert (status, body["name"], body["state"]) == (200, "a", state)
        assert (body["order"], body["enabled"], body["in_flight"]) == (order, False, 0)
    assert admin.fleet.members() == ["b"]


async def test_without_wait_the_answer_tells_what_is_in_flight(admin: Admin) -> None:
    admin.fleet["a"].begin()
    status, body = await admin.post("/v1/slices/a/disable")
    assert (status, body["state"], body["in_flight"]) == (200, "draining", 1)
    admin.fleet["a"].end()
    assert (await admin.call("GET", "/v1/slices/a"))[1]["state"] == "disabled"


async def test_wait_answers_200_as_soon_as_nothing_is_in_flight(admin: Admin) -> None:
    member = admin.fleet["a"]
    member.begin()
    waiting = asyncio.ensure_future(admin.post("/v1/slices/a/drain?wait=30s"))
    await until(lambda: bool(member.on_idle))
    assert not waiting.done()
    member.end()
    status, body = await waiting
    assert (status, body["in_flight"], body["state"]) == (200, 0, "draining")


async def test_wait_answers_202_when_time_is_up(admin: Admin) -> None:
    member = admin.fleet["a"]
    member.begin()
    began_s = time.monotonic()
    status, body = await admin.post("/v1/slices/a/disable?wait=100ms")
    assert time.monotonic() - began_s >= 0.1
    assert (status, body["in_flight"], body["state"]) == (202, 1, "draining")
    assert len(member.on_idle) == 1, "that it has drained will be told; nobody waits any more"
    member.end()


async def test_wait_is_also_for_sequences_between_two_requests(admin: Admin) -> None:
    """Whoever restarts the slice when the call returns must not end them."""
    member = admin.fleet["a"]
    table = SequenceTable(idle_s=5.0)
    fields = partial(SequenceFields, 7)
    begun = table.begin(fields(starts=True), (member,), 0.0)
    assert begun is not None
    table.finish(begun, 0.1)
    status, body = await admin.post("/v1/slices/a/drain?wait=100ms")
    assert (status, body["in_flight"], body["sequences"]) == (202, 0, 1)
    waiting = asyncio.ensure_future(admin.post("/v1/slices/a/drain?wait=30s"))
    last = table.begin(fields(ends=True), (), 0.2)
    assert last is not None
    table.finish(last, 0.3)
    status, body = await waiting
    assert (status, body["in_flight"], body["sequences"]) == (200, 0, 0)


async def test_a_slice_is_judged_out_while_another_call_waits(admin: Admin) -> None:
    """The wait holds nothing that another operator needs."""
    admin.fleet["a"].begin()
    waiting = asyncio.ensure_future(admin.post("/v1/slices/a/drain?wait=30s"))
    await until(lambda: bool(admin.fleet["a"].on_idle))
    assert (await admin.post("/v1/slices/a/enable"))[0] == 200
    admin.fleet["a"].end()
    assert (await waiting)[0] == 200


@pytest.mark.parametrize("verb", ["drain", "disable"])
async def test_the_last_slice_that_can_serve_goes_only_by_force(admin: Admin, verb: str) -> None:
    admin.fleet.registry.record(admin.fleet["b"], REFUSED)
    status, body = await admin.post(f"/v1/slices/a/{verb}")
    assert status == 409
    assert "last slice" in body["error"]
    assert admin.fleet["a"].order is Order.ENABLED
    status, body = await admin.post(f"/v1/slices/a/{verb}?force=true")
    assert (status, body["enabled"]) == (200, False)
    assert admin.fleet.members() == []


async def test_two_calls_at_once_do_not_each_take_out_what_the_other_leaves(admin: Admin) -> None:
    answers = await asyncio.gather(
        admin.post("/v1/slices/a/disable"), admin.post("/v1/slices/b/disable")
    )
    assert sorted(status for status, _ in answers) == [200, 409]
    assert len(admin.fleet.members()) == 1


async def test_a_slice_that_is_not_ready_may_always_be_taken_out(admin: Admin) -> None:
    admin.fleet.registry.record(admin.fleet["b"], REFUSED)
    assert (await admin.post("/v1/slices/b/disable"))[0] == 200


async def test_an_enabled_slice_takes_work_after_a_check(admin: Admin) -> None:
    await admin.post("/v1/slices/a/disable")
    status, body = await admin.post("/v1/slices/a/enable")
    assert (status, body["state"], body["enabled"]) == (200, "starting", True)
    admin.fleet.registry.record(admin.fleet["a"], live("m"))
    assert admin.fleet.members() == ["a", "b"]


@pytest.mark.parametrize(
    "query", ["wait=soon", "wait=-1", "wait=2h", "force=maybe", "forced=true", "wait="]
)
async def test_a_parameter_that_cannot_be_read_is_400_and_nothing_happens(
    admin: Admin, query: str
) -> None:
    status, body = await admin.post(f"/v1/slices/a/disable?{query}")
    assert status == 400
    assert query.partition("=")[0] in body["error"]
    assert admin.fleet["a"].order is Order.ENABLED


async def test_a_choice_that_cannot_be_saved_is_500_and_nothing_happens(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateway.control.choices.write_atomically", full)
    for method, path, more in (
        ("POST", "/v1/slices/a/disable", {}),
        ("PUT", "/v1/balancing", {"json": {"policy": "round_robin"}}),
    ):
        status, body = await admin.call(method, path, **more)
        assert status == 500
        assert "nothing was changed" in body["error"]
        assert "No space left on device" in body["error"]
    assert admin.fleet.members() == ["a", "b"]


# --- balancing --------------------------------------------------------------------------------


async def test_the_policy_changes_live(admin: Admin) -> None:
    assert (await admin.call("GET", "/v1/balancing"))[1]["policy"] == "least_load"
    status, body = await admin.call("PUT", "/v1/balancing", json={"policy": "round_robin"})
    assert (status, body["policy"]) == (200, "round_robin")
    assert (await admin.call("GET", "/v1/balancing"))[1]["policy"] == "round_robin"
    picked = [admin.fleet.registry.pool("infer/m").pick() for _ in range(4)]
    assert [member.name for member in picked if member] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"policy": "leastconn"}', b'{"policy": 1}', b"[" * 50_000,
     b'{"policy": "round_robin", "weights": 1}'],
)  # fmt: skip
async def test_a_policy_that_is_not_known_is_400(admin: Admin, body: bytes) -> None:
    status, answer = await admin.call("PUT", "/v1/balancing", data=body)
    assert status == 400
    assert admin.keeper.policy == "least_load"
    if b"leastconn" in body:
        assert answer["error"] == ("policy is 'leastconn'; known policies: least_load, round_robin")


async def test_a_body_over_the_limit_is_413(admin: Admin) -> None:
    status, body = await admin.call("PUT", "/v1/balancing", data=b" " * (BODY_BYTES_MAX + 1))
    assert (status, "larger" in body["error"]) == (413, True)


# --- the gateway itself -----------------------------------------------------------------------


async def test_alive_is_alive_whatever_the_slices_do(admin: Admin) -> None:
    admin.fleet.registry.replace([])
    assert await admin.call("GET", "/livez") == (200, {"live": True})


async def test_ready_while_one_slice_can_serve_and_the_gateway_stays(admin: Admin) -> None:
    admin.fleet.registry.record(admin.fleet["a"], REFUSED)
    assert (await admin.call("GET", "/readyz"))[0] == 200
    admin.not_serving = "the gateway is shutting down"
    status, body = await admin.call("GET", "/readyz")
    assert (status, body["reason"]) == (503, "the gateway is shutting down")
    admin.not_serving = ""
    admin.fleet.registry.record(admin.fleet["b"], REFUSED)
    status, body = await admin.call("GET", "/readyz")
    assert (status, body["ready"]) == (503, False)


async def test_metrics_are_prometheus_text(admin: Admin) -> None:
    async with admin.client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await answer.text()
    assert 'mig_gateway_slice_state{slice="a",state="ready"} 1\n' in text
    assert "mig_gateway_process_resident_memory_bytes" in text


async def test_the_description_has_exactly_the_routes_there_are(admin: Admin) -> None:
    _, document = await admin.call("GET", "/openapi.json")
    described = {
        (method.upper(), path) for path, calls in document["paths"].items() for method in calls
    }
    routes = {
        (route.method, route.resource.canonical)
        for route in admin.server.application().router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    routes = {(method, path) for method, path in routes if not pages.is_open(path)}
    assert described == routes


async def test_every_reference_of_the_description_leads_somewhere(admin: Admin) -> None:
    _, document = await admin.call("GET", "/openapi.json")
    references: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            references.extend([node["$ref"]] if "$ref" in node else [])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    schemas = document["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references} == set(
        schemas
    )


# --- errors and strangers ---------------------------------------------------------------------


async def test_what_is_not_there_and_what_is_not_allowed_are_json_too(admin: Admin) -> None:
    status, body = await admin.call("GET", "/v1/slicez")
    assert (status, "/openapi.json" in body["error"]) == (404, True)
    async with admin.client.get("/v1/slices/a/enable") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert (await answer.json())["error"] == "GET is not allowed here; allowed: POST"


async def test_another_sites_page_may_not_change_anything(admin: Admin) -> None:
    """A browser would send the call for any page the operator has open."""
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        status, body = await admin.post("/v1/slices/a/disable", headers={"Origin": origin})
        assert (status, "may not change" in body["error"]) == (403, True)
    assert admin.fleet["a"].order is Order.ENABLED


async def test_a_name_that_was_pointed_at_this_machine_may_not_change_anything(
    admin: Admin,
) -> None:
    """DNS rebinding: to the browser the page and the API are one site."""
    headers = {"Origin": "http://evil.example:9001", "Host": "evil.example:9001"}
    status, _ = await admin.post("/v1/slices/a/disable", headers=headers)
    assert (status, admin.fleet["a"].order) == (403, Order.ENABLED)


async def test_our_own_page_may(admin: Admin) -> None:
    own = str(admin.client.make_url("/")).rstrip("/")
    assert (await admin.post("/v1/slices/a/disable", headers={"Origin": own}))[0] == 200


async def test_a_mistake_of_ours_is_a_500_in_json(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.control.views.slices", broken)
    status, body = await admin.call("GET", "/v1/slices")
    assert (status, list(body)) == (500, ["error"])
