"""The admin API lets in who may call, over every kind of address it can listen on."""

import asyncio
import os
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from gateway.cli import main
from gateway.config import parse
from gateway.config_health import HealthSection
from gateway.control import site
from gateway.control.admin import AdminServer
from gateway.control.choices import ChoiceKeeper
from gateway.control.health import HealthChecker
from gateway.control.probes import make_probe
from gateway.control.security import Security
from gateway.fleet.health import Order
from gateway.metrics import Counters
from tests.gateway.control.scripted import free_port
from tests.gateway.making import Fleet
from tests.support.certificates import Authority

WRITE, READ = "w" * 20, "r" * 20
HEADERS = {"Authorization": f"Bearer {WRITE}"}


class Served:
    """A fleet behind an admin API that listens as `admin` in the configuration says."""

    def __init__(self, folder: Path, admin: str) -> None:
        self.config = parse(f"inventory: x\nadmin: {admin}", "test")
        self.security = Security(self.config)
        self.fleet = Fleet("a", "b")
        self.counters = Counters()
        registry = self.fleet.registry
        self.server = AdminServer(
            self.config.admin.listen,
            registry,
            self.counters,
            HealthChecker(registry, make_probe(HealthSection()), HealthSection()),
            ChoiceKeeper(folder / "state.json", registry, "least_load"),
            lambda: "",
            self.security,
        )

    async def ask(
        self, method: str, path: str, tls: ssl.SSLContext | None = None, **headers: str
    ) -> tuple[int, Any]:
        connector = aiohttp.TCPConnector(ssl=tls or True)
        scheme = "https" if tls else "http"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, f"{scheme}://{self.config.admin.listen}{path}", headers=headers
            ) as answer,
        ):
            return answer.status, await answer.json()


Serve = Callable[[str], Awaitable[Served]]


@pytest_asyncio.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start an admin API; it is stopped after the test."""
    (tmp_path / "write").write_text(WRITE)
    (tmp_path / "read").write_text(READ)
    running: list[Served] = []

    async def start(admin: str) -> Served:
        served = Served(tmp_path, admin)
        await served.server.start()
        running.append(served)
        return served

    yield start
    for served in running:
        await served.server.stop()


@pytest.fixture
def guarded(tmp_path: Path) -> str:
    return (
        f'{{listen: "127.0.0.1:{free_port()}", tokens: ['
        f"{{name: ops, file: {tmp_path}/write, role: write}}, "
        f"{{name: eyes, file: {tmp_path}/read, role: read}}]}}"
    )


# --- tokens -----------------------------------------------------------------------------------


async def test_without_a_token_nothing_is_told_and_nothing_is_changed(
    serve: Serve, guarded: str
) -> None:
    served = await serve(guarded)
    with capture_logs() as logs:
        for method, path in (("GET", "/v1/slices"), ("GET", "/metrics"), ("GET", "/nowhere"),
                             ("POST", "/v1/slices/a/disable"), ("POST", "/v1/reload"),
                             ("GET", "/openapi.json"), ("GET", "/v1/events")):  # fmt: skip
            status, body = await served.ask(method, path, Authorization=f"Bearer {WRITE}x")
            assert (status, body) == (401, {"error": "this needs a token: Authorization: Bearer …"})
    assert served.fleet["a"].order is Order.ENABLED
    assert served.counters.limits == {"admin_refused": 7}
    assert [line["event"] for line in logs] == ["admin.refused"]


async def test_the_answer_says_that_a_token_is_asked_for(serve: Serve, guarded: str) -> None:
    served = await serve(guarded)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{served.config.admin.listen}/v1/slices") as answer,
    ):
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mig-gateway admin"'


async def test_a_token_may_what_its_role_says(serve: Serve, guarded: str) -> None:
    served = await serve(guarded)
    eyes = {"Authorization": f"Bearer {READ}"}
    assert (await served.ask("GET", "/v1/slices", **eyes))[0] == 200
    for method, path in (("POST", "/v1/slices/a/disable"), ("PUT", "/v1/balancing"),
                         ("POST", "/v1/reload")):  # fmt: skip
        status, body = await served.ask(method, path, **eyes)
        assert (status, body) == (403, {"error": "the token eyes may only read"})
    assert served.fleet["a"].order is Order.ENABLED
    assert (await served.ask("POST", "/v1/slices/a/disable", **HEADERS))[0] == 200
    assert served.fleet["a"].order is Order.DISABLED


async def test_what_starts_and_stops_programs_needs_no_token_and_is_told_one_bit(
    serve: Serve, guarded: str
) -> None:
    served = await serve(guarded)
    assert await served.ask("GET", "/livez") == (200, {"live": True})
    assert await served.ask("GET", "/readyz") == (200, {"ready": True})
    assert "reason" in (await served.ask("GET", "/readyz", **HEADERS))[1]


async def test_every_change_is_in_the_audit_log_with_who_made_it(
    serve: Serve, guarded: str
) -> None:
    served = await serve(guarded)
    with capture_logs() as logs:
        for _ in range(2):
            await served.ask("POST", "/v1/slices/a/drain", **HEADERS)
        await served.ask("POST", "/v1/slices/b/disable", **HEADERS)  # refused: the last one
    changes = [line for line in logs if line["event"] == "admin.changed"]
    assert changes == [
        {
            "event": "admin.changed", "log_level": "info", "who": "ops", "how": "token",
            "address": "127.0.0.1", "what": "slices.a.order", "before": "enabled",
            "after": "drained",
        }
    ]  # fmt: skip


async def test_every_answer_has_the_headers_that_keep_browsers_careful(
    serve: Serve, guarded: str
) -> None:
    served = await serve(guarded)
    for path in ("/livez", "/v1/slices"):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{served.config.admin.listen}{path}") as answer,
        ):
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Server"] == "mig-gateway"


# --- addresses --------------------------------------------------------------------------------


async def test_a_client_without_the_right_certificate_gets_no_further_than_tls(
    serve: Serve, tmp_path: Path
) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "theirs")
    pair = ours.server()
    served = await serve(
        f'{{listen: "127.0.0.1:{free_port()}", '
        f"tls: {{cert: {pair.cert}, key: {pair.key}, client_ca: {ours.pem}}}}}"
    )
    tls = ssl.create_default_context(cafile=ours.pem)
    for stranger in (None, theirs.client("ops")):
        if stranger is not None:
            tls.load_cert_chain(stranger.cert, stranger.key)
        with pytest.raises(aiohttp.ClientError):
            await served.ask("POST", "/v1/slices/a/disable", tls)
    known = ours.client("ops-laptop")
    tls.load_cert_chain(known.cert, known.key)
    with capture_logs() as logs:
        assert (await served.ask("POST", "/v1/slices/a/disable", tls))[0] == 200
    [change] = [line for line in logs if line["event"] == "admin.changed"]
    assert (change["who"], change["how"]) == ("ops-laptop", "certificate")


async def test_a_socket_in_the_file_system_is_its_owners_and_goes_with_the_gateway(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "admin.sock"
    served = await serve(f'{{listen: "unix:{path}"}}')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with capture_logs() as logs:
        words = ["slices", "disable", "a", "--admin", f"unix:{path}"]
        assert await asyncio.to_thread(main, words) == 0
    assert "a is disabled" in capsys.readouterr().out
    [change] = [line for line in logs if line["event"] == "admin.changed"]
    assert change["address"] == f"uid {os.getuid()}"
    await served.server.stop()
    assert not path.exists()


async def test_a_socket_that_nobody_listens_on_any_more_is_replaced(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    first = await serve(f'{{listen: "unix:{path}"}}')
    with pytest.raises(OSError, match="Address already in use"):
        await serve(f'{{listen: "unix:{path}"}}')
    left_over = tmp_path / "moved"
    path.rename(left_over)  # as after SIGKILL: the file is there, and nobody listens
    await first.server.stop()
    left_over.rename(path)
    await serve(f'{{listen: "unix:{path}"}}')


async def test_a_file_that_is_no_socket_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match=r"admin\.listen unix:.*precious cannot be had: File exists"):
        await serve(f'{{listen: "unix:{path}"}}')
    assert path.read_text() == "data"


async def test_the_command_line_shows_its_token_over_tls(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    served = await serve(
        f'{{listen: "127.0.0.1:{free_port()}", '
        f"tokens: [{{name: ops, file: {tmp_path}/write, role: write}}], "
        f"tls: {{cert: {pair.cert}, key: {pair.key}}}}}"
    )
    url = f"https://{served.config.admin.listen}"

    async def run(*words: str) -> int:
        return await asyncio.to_thread(main, ["slices", "--json", "--admin", url, *words])

    assert await run("--ca", str(authority.pem), "--token-file", str(tmp_path / "write")) == 0
    assert await run("--ca", str(authority.pem)) == 1
    assert "this needs a token" in capsys.readouterr().err
    monkeypatch.setenv("MIG_GATEWAY_TOKEN", WRITE)
    assert await run("--ca", str(authority.pem)) == 0
    assert await run() == 1
    assert "its certificate is not trusted" in capsys.readouterr().err
    assert await run("--ca", str(tmp_path / "missing")) == 1
    assert "--ca: " in capsys.readouterr().err
    assert await run("--token-file", str(tmp_path / "missing")) == 1
    assert "missing cannot be read" in capsys.readouterr().err


# --- strangers --------------------------------------------------------------------------------


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection is closed, in whatever way."""
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""


async def test_who_sends_no_whole_head_in_time_is_closed(
    serve: Serve, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "HEAD_S", 0.05)
    served = await serve(guarded)
    listen = served.config.admin.listen
    slow, writer = await asyncio.open_connection(listen.host, listen.port)
    writer.write(b"GET /v1/slices HTTP/1.1\r\nHo")
    assert await ended(slow) == b""
    assert served.counters.limits == {"admin_connections": 1}
    writer.close()


async def test_who_has_asked_is_kept(
    serve: Serve, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "HEAD_S", 0.05)
    served = await serve(guarded)
    listen = served.config.admin.listen
    reader, writer = await asyncio.open_connection(listen.host, listen.port)

    async def asks() -> bytes:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        return await reader.readuntil(b'{"live": true}')

    assert b" 200 OK" in await asks()
    late, other = await asyncio.open_connection(listen.host, listen.port)
    assert await ended(late) == b"", "so the time of the first is over as well"
    assert b" 200 OK" in await asks()
    for each in (writer, other):
        each.close()


async def test_connections_are_bounded_and_a_stranger_keeps_none(
    serve: Serve, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "CONNECTIONS_MAX", 3)
    served = await serve(guarded)
    listen = served.config.admin.listen
    held = [await asyncio.open_connection(listen.host, listen.port) for _ in range(3)]
    one_more, writer = await asyncio.open_connection(listen.host, listen.port)
    assert await ended(one_more) == b""
    writer.close()
    held[0][1].write(b"GET /v1/slices HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 401 " in await ended(held[0][0]), "it is told, and closed"
    assert (await served.ask("GET", "/livez"))[0] == 200, "there is room again"
    for _, each in held:
        each.close()
