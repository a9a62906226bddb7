"""What the admin API tells of the gateway's processes, and that it asks them first."""

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest_asyncio

from gateway.control.processes import AWAY, SERVING, ProcessCalls, Worker, figures
from tests.gateway.control.played import Played
from tests.gateway.control.test_admin import Admin


@pytest_asyncio.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    made = Admin(tmp_path / "state.json")
    async with made.client:
        yield made


async def test_workers_are_listed(admin: Admin) -> None:
    status, body = await admin.call("GET", "/v1/workers")
    assert status == 200
    assert body["pid"] == psutil.Process().pid
    assert body["workers"][0] == {
        "index": 0, "pid": 4711, "state": "serving", "connections": 3, "in_flight": 2,
        "restarts": 0,
    }  # fmt: skip


async def test_an_answer_is_as_of_now(admin: Admin) -> None:
    def tell() -> None:
        admin.fleet["a"].http_requests += 1

    admin.processes.on_sync = tell
    for expected in (1, 2):
        _, body = await admin.call("GET", "/v1/slices/a")
        assert body["requests"] == expected


async def test_an_order_is_answered_after_all_have_carried_it_out(admin: Admin) -> None:
    orders: list[str] = []
    admin.processes.on_sync = lambda: orders.append(admin.fleet["a"].order.value)
    assert (await admin.post("/v1/slices/a/drain?wait=1s"))[0] == 200
    assert orders[-1] == "drained"


async def test_an_upgrade_is_answered_with_the_new_process(admin: Admin) -> None:
    assert await admin.post("/v1/upgrade") == (200, {"pid": 4712})
    assert "127.0.0.1" in admin.processes.asked_by[0]


async def test_an_upgrade_that_fails_says_why(admin: Admin) -> None:
    admin.processes.why_not = "no memory"
    status, body = await admin.post("/v1/upgrade")
    assert (status, body) == (409, {"error": "this gateway goes on: no memory"})


def test_figures_are_of_all_processes() -> None:
    main, played = psutil.Process(), Played()
    played.found = [Worker(0, main.ppid(), SERVING, 0, 0, 1), Worker(1, 0, AWAY, 0, 0, 2)]
    alone = figures(main, None, 1.0)
    both = figures(main, ProcessCalls(played, played.upgrade), 1.0)
    assert both.rss_bytes > alone.rss_bytes
    assert both.open_fds > alone.open_fds
    assert (both.workers, both.restarts) == (1, 3)


def test_a_process_that_has_just_ended_is_passed_over() -> None:
    played = Played()
    played.found = [Worker(0, 2**22 + 1, SERVING, 0, 0, 0), Worker(1, 0, AWAY, 0, 0, 0)]
    assert figures(psutil.Process(), ProcessCalls(played, played.upgrade), 1.0).rss_bytes > 0


async def test_a_retired_gateway_makes_no_choices(admin: Admin) -> None:
    admin.keeper.retire()
    status, body = await admin.post("/v1/slices/a/drain")
    assert status == 500
    assert "a newer gateway has taken over" in body["error"]
