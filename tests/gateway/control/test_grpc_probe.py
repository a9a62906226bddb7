"""What a check over gRPC makes of every way a server can behave."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint, SliceSpec
from gateway.config_health import HealthSection
from gateway.control.grpc_probe import BothProbes, GrpcProbe, ready_models
from gateway.control.probes import PROBES, CheckNotMadeError, TritonProbe, make_probe
from gateway.fleet.health import CheckResult
from tests.gateway.control.conftest import StartTriton
from tests.gateway.control.scripted import free_port, until
from tests.gateway.making import make_spec

SERVICE = "inference.GRPCInferenceService"


def index_entry(name: str, version: str, state: str) -> bytes:
    parts = b"".join(
        bytes([number << 3 | 2, len(text)]) + text.encode()
        for number, text in ((1, name), (2, version), (3, state))
    )
    return b"\x0a" + bytes([len(parts)]) + parts


class GrpcServer:
    """A grpc.aio server that answers the two calls of a check."""

    def __init__(self) -> None:
        self.port = free_port()
        self.live = b"\x08\x01"
        self.index = index_entry("m", "1", "READY") + index_entry("n", "1", "LOADING")
        self.index_code: grpc.StatusCode | None = None
        self.hangs = False
        self.asked: list[bytes] = []
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "ServerLive": grpc.unary_unary_rpc_method_handler(self._live),
                        "RepositoryIndex": grpc.unary_unary_rpc_method_handler(self._index),
                    },
                )
            ]
        )

    async def start(self) -> None:
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    @property
    def spec(self) -> SliceSpec:
        return SliceSpec("a", Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", self.port))

    async def _live(self, request: bytes, context: object) -> bytes:
        if self.hangs:
            await asyncio.Event().wait()
        return self.live

    async def _index(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.asked.append(request)
        if self.index_code is not None:
            await context.abort(self.index_code, "no")
        return self.index


@pytest_asyncio.fixture
async def server() -> AsyncIterator[GrpcServer]:
    made = GrpcServer()
    await made.start()
    yield made
    await made.stop()


async def test_a_live_server_passes_with_its_ready_models(server: GrpcServer) -> None:
    result = await GrpcProbe().check(server.spec, 2.0)
    assert (result.passed, result.models) == (True, {"m": ("1",)})
    assert server.asked == [b"\x10\x01"]


async def test_nobody_listening_is_conclusive(server: GrpcServer) -> None:
    await server.stop()
    result = await GrpcProbe().check(server.spec, 2.0)
    assert (result.passed, result.conclusive) == (False, True)
    assert "UNAVAILABLE" in result.reason


async def test_no_answer_in_time_may_be_load(server: GrpcServer) -> None:
    server.hangs = True
    result = await GrpcProbe().check(server.spec, 0.2)
    assert (result.passed, result.conclusive) == (False, False)
    assert "not answered within 0.2 s" in result.reason


async def test_a_server_that_says_it_is_not_live_is_believed(server: GrpcServer) -> None:
    server.live = b""
    result = await GrpcProbe().check(server.spec, 2.0)
    assert (result.passed, result.conclusive) == (False, True)


@pytest.mark.parametrize("index", [b"\x0a\xff", b"\x08\x01", b"\x0a\x02\x0a\x05"])
async def test_an_index_that_cannot_be_read_leaves_the_models_unknown(
    server: GrpcServer, index: bytes
) -> None:
    server.index = index
    result = await GrpcProbe().check(server.spec, 2.0)
    assert (result.passed, result.models) == (True, None)


async def test_a_server_without_an_index_is_live_all_the_same(server: GrpcServer) -> None:
    server.index_code = grpc.StatusCode.UNIMPLEMENTED
    result = await GrpcProbe().check(server.spec, 2.0)
    assert (result.passed, result.models) == (True, None)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_index_or_a_value_error(data: bytes) -> None:
    try:
        assert isinstance(ready_models(data), dict)
    except ValueError:
        pass


# --- both -------------------------------------------------------------------------------------


class Says:
    """A probe that says one thing."""

    def __init__(self, result: CheckResult | Exception) -> None:
        self.result = result
        self.closed = False

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def close(self) -> None:
        self.closed = True


GOOD = CheckResult(True, "live", models={"m": ("1",)}, took_s=0.1)
SLOW = CheckResult(False, "late", took_s=0.3)
GONE = CheckResult(False, "refused", conclusive=True)


@pytest.mark.parametrize(
    ("one", "other", "passed", "conclusive"),
    [
        (GOOD, GOOD, True, False),
        (GOOD, SLOW, False, False),
        (SLOW, GOOD, False, False),
        (SLOW, GONE, False, True),
        (GOOD, GONE, False, True),
    ],
)
async def test_both_have_to_pass(
    one: CheckResult, other: CheckResult, passed: bool, conclusive: bool
) -> None:
    result = await BothProbes(Says(one), Says(other)).check(make_spec(), 1.0)
    assert (result.passed, result.conclusive) == (passed, conclusive)
    assert result.took_s == max(one.took_s, other.took_s)


async def test_a_check_that_one_of_both_could_not_make_was_not_made() -> None:
    both = BothProbes(Says(GOOD), Says(CheckNotMadeError("no descriptors")))
    with pytest.raises(CheckNotMadeError):
        await both.check(make_spec(), 1.0)
    await both.close()


@pytest.mark.parametrize("name", PROBES)
async def test_every_probe_of_the_table_can_be_configured(name: str) -> None:
    probe = make_probe(HealthSection(probe=name))
    await probe.close()


# --- models asked one by one ------------------------------------------------------------------


async def test_a_model_that_does_not_say_it_is_ready_is_not_counted(
    start_triton: StartTriton,
) -> None:
    triton = await start_triton()
    triton.index_body = b"""[{"name": "m", "version": "1", "state": "READY"},
                             {"name": "n", "version": "1", "state": "READY"}]"""
    triton.unready = {"n"}
    probe = TritonProbe(["m", "n", "not there"])
    result = await probe.check(triton.spec(), 2.0)
    await probe.close()
    assert (result.passed, result.models) == (True, {"m": ("1",)})
    assert not any(b"not%20there" in head for head in triton.requests)


async def test_a_gateway_that_stood_still_blames_no_slice(start_triton: StartTriton) -> None:
    """Its timers come before its sockets: every check would seem late at once."""
    triton = await start_triton()
    triton.mode = "hang"
    probe = TritonProbe()
    check = asyncio.ensure_future(probe.check(triton.spec(), 0.5))
    await until(lambda: bool(triton.requests))
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 0.8
    while loop.time() < until_s:
        pass  # as a loop that is stopped or overrun
    with pytest.raises(CheckNotMadeError, match="stood still"):
        await check
    await probe.close()
