"""The pages' files: there for everybody, with nothing from elsewhere."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contract.slice_spec import Endpoint
from gateway.control import pages
from gateway.control.auth import Access, Token
from gateway.control.gate import Gate, add_headers
from gateway.metrics import Counters

LOCKED = Access((Token("ops", b"\0" * 32, True),))
FILES = sorted(path for path in pages.FOLDER.rglob("*") if path.suffix in (".html", ".css", ".js"))
LINES_MAX = 500


@pytest.fixture
async def client() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """The pages behind a gate that lets nobody in without a token."""
    gate = Gate(Endpoint("127.0.0.1", 1), lambda: LOCKED, Counters())
    app = web.Application(middlewares=[gate.guarded])
    app.on_response_prepare.append(add_headers)
    app.add_routes(pages.routes())
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/flowers", "/static/live.js", "/static/style.css"])
async def test_pages_need_no_token_and_may_load_from_here_only(
    client: TestClient[web.Request, web.Application], path: str
) -> None:
    async with client.get(path) as answer:
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert await answer.read()


@pytest.mark.parametrize(
    "path", ["/static/", "/static/../gate.py", "/static/%2e%2e/admin.py", "/static//etc/passwd"]
)
async def test_nothing_else_is_sent(
    client: TestClient[web.Request, web.Application], path: str
) -> None:
    async with client.get(path) as answer:
        assert answer.status in (401, 404)


def linked(file: Path) -> list[str]:
    return re.findall(r"""(?:src|href)="(/[^"]*)"|from "\./([^"]+)";""", file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_page_names_only_files_that_are_there_and_nobody_elses(file: Path) -> None:
    known = {route.path for route in pages.routes()} | {"/openapi.json", "/metrics"}
    for path, module in linked(file):
        assert (path or pages.STATIC + module) in known
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]+/", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert len(text.splitlines()) <= LINES_MAX
