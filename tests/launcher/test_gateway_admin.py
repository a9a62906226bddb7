"""The gateway is asked by its admin API; what it does not do is told with the cure."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from launcher import gateway_admin
from launcher.errors import GatewayError
from launcher.gateway_admin import GatewayAdmin


class Gateway:
    """Answers as the admin API does."""

    def __init__(self) -> None:
        self.slices = {"s0": {"name": "s0", "enabled": True, "in_flight": 0, "state": "ready"}}
        self.asked: list[str] = []
        self.answer: tuple[int, str] | None = None

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(
            f"{request.method} {request.path_qs} {request.headers.get('Authorization')}"
        )
        if self.answer is not None:
            return web.json_response({"error": self.answer[1]}, status=self.answer[0])
        if request.path == "/v1/slices":
            return web.json_response({"slices": list(self.slices.values())})
        name = request.path.split("/")[3]
        if name not in self.slices:
            return web.json_response({"error": "no such slice"}, status=404)
        return web.json_response(self.slices[name])


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def admin(gateway: Gateway) -> AsyncIterator[GatewayAdmin]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", gateway.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0]
    yield GatewayAdmin(f"127.0.0.1:{port}")
    await runner.cleanup()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(gateway_admin, "APPEARS_S", 0.2)
    monkeypatch.setattr(gateway_admin, "POLL_S", 0.01)


async def test_slices_are_drained_and_enabled_by_name(gateway, admin):
    assert await admin.answers()
    await admin.drain("s0", force=False)
    await admin.drain("s0", force=True)
    await admin.enable("s0")
    assert gateway.asked[1:] == [
        "POST /v1/slices/s0/drain None",
        "POST /v1/slices/s0/drain?force=true None",
        "POST /v1/slices/s0/enable None",
    ]


async def test_a_token_is_sent(gateway, admin, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    await GatewayAdmin(admin.address, token).slices()
    assert gateway.asked == ["GET /v1/slices Bearer secret"]
    with pytest.raises(GatewayError, match="none: cannot be read"):
        await GatewayAdmin(admin.address, tmp_path / "none").slices()


async def test_the_last_slice_is_told(gateway, admin):
    gateway.answer = (409, "s0 is the last ready slice")
    with pytest.raises(GatewayError, match=r"s0 is the last slice that serves .*--force"):
        await admin.drain("s0", force=False)


async def test_requests_that_do_not_end_are_told_unless_forced(gateway, admin):
    gateway.slices["s0"]["in_flight"] = 3
    names = frozenset(("s0", "s9"))
    with pytest.raises(GatewayError, match=r"s0 still has 3 requests in flight after 0\.05 s"):
        await admin.wait_idle(names, 0.05, force=False)
    await admin.wait_idle(names, 0.05, force=True)
    gateway.slices["s0"]["in_flight"] = 0
    await admin.wait_idle(names, 10, force=False)


async def test_what_does_not_happen_in_the_gateway_is_told(gateway, admin):
    with pytest.raises(GatewayError, match="does it read this launcher's inventory"):
        await admin.wait_gone(frozenset(["s0"]))
    await admin.wait_gone(frozenset(["s1"]))
    await admin.wait_serving(frozenset(["s0"]))
    gateway.slices["s0"]["state"] = "draining"
    with pytest.raises(GatewayError, match=r"\['s0'\] serve"):
        await admin.wait_serving(frozenset(["s0"]))
    with pytest.raises(GatewayError, match="does not know s7: no such slice"):
        await admin.enable("s7")


async def test_a_refusal_has_the_gateways_words(gateway, admin):
    gateway.answer = (401, "a token is needed")
    with pytest.raises(GatewayError, match="401 a token is needed"):
        await admin.slices()


async def test_no_gateway_is_told_with_what_to_do():
    nobody = GatewayAdmin("127.0.0.1:9")
    assert not await nobody.answers()
    with pytest.raises(GatewayError, match=r"127\.0\.0\.1:9 does not answer .*--no-drain"):
        await nobody.slices()
