"""What one check makes of every way a server can behave."""

import asyncio
import errno
import json
import resource
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint, SliceSpec
from gateway.control.probes import (
    ANSWER_BYTES_MAX,
    MODELS_MAX,
    CheckNotMadeError,
    TritonProbe,
    _failure,
    ready_models,
)
from tests.gateway.control.conftest import StartTriton
from tests.gateway.control.scripted import until

TIMEOUT_S = 0.2


@pytest_asyncio.fixture
async def probe() -> AsyncIterator[TritonProbe]:
    probe = TritonProbe()
    yield probe
    await probe.close()


async def test_a_live_server_passes_with_its_ready_models(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    index = [
        {"name": "b", "version": "10", "state": "READY"},
        {"name": "b", "version": "9", "state": "READY"},
        {"name": "a", "version": "1", "state": "READY"},
        {"name": "a", "version": "2", "state": "LOADING"},
        {"name": "c", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "d"},
    ]
    triton.index_body = json.dumps(index).encode()
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.models) == (True, {"a": ("1",), "b": ("9", "10")})
    assert 0 < result.took_s < 1


async def test_each_request_comes_on_a_connection_of_its_own(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    """On a kept connection a Triton that is told to stop says it is ready to the last."""
    triton = await start_triton()
    for _ in range(2):
        await probe.check(triton.spec(), 1.0)
    assert triton.connections == len(triton.requests) == 4


async def test_nothing_is_asked_for_compressed(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    await probe.check(triton.spec(), 1.0)
    assert not any(b"accept-encoding" in head.lower() for head in triton.requests)


async def test_a_server_without_models_is_live_with_none(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    """Triton in explicit mode starts so, and takes repository calls."""
    triton = await start_triton()
    triton.index_body = b"[]"
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.models) == (True, {})


async def test_a_refused_connection_is_conclusive(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    await triton.stop()
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.conclusive) == (False, True)
    assert "refused" in result.reason


@pytest.mark.parametrize("mode", ["reset", "close"])
async def test_a_connection_broken_before_the_answer_is_conclusive(
    probe: TritonProbe, start_triton: StartTriton, mode: str
) -> None:
    """So does a Triton that was told to stop treat new connections."""
    triton = await start_triton()
    triton.mode = mode
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.conclusive) == (False, True)


@pytest.mark.parametrize("status", [400, 500, 503, 302])
async def test_a_server_that_says_it_is_not_live_is_believed(
    probe: TritonProbe, start_triton: StartTriton, status: int
) -> None:
    triton = await start_triton()
    triton.live_status = status
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.conclusive) == (False, True)
    assert str(status) in result.reason


async def test_no_answer_in_time_is_a_failure_that_may_be_load(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    triton.mode = "hang"
    result = await probe.check(triton.spec(), TIMEOUT_S)
    assert (result.passed, result.conclusive) == (False, False)
    assert "not answered within 0.2 s" in result.reason


@pytest.mark.parametrize("mode", ["garbage", "dies"])
async def test_an_answer_that_makes_no_sense_is_a_failure(
    probe: TritonProbe, start_triton: StartTriton, mode: str
) -> None:
    triton = await start_triton()
    triton.mode = mode
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.conclusive) == (False, False)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b"[" * 100_000, b"x" * 10])
async def test_a_live_server_with_an_index_that_cannot_be_read_is_still_live(
    probe: TritonProbe, start_triton: StartTriton, body: bytes
) -> None:
    triton = await start_triton()
    triton.index_body = body
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.models) == (True, None)
    assert "models are not known" in result.reason


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_live_server_that_gives_no_index_is_still_live(
    probe: TritonProbe, start_triton: StartTriton, status: int
) -> None:
    triton = await start_triton()
    triton.index_status = status
    result = await probe.check(triton.spec(), 1.0)
    assert (result.passed, result.models) == (True, None)
    assert str(status) in result.reason


async def test_a_live_server_with_a_slow_index_is_still_live(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    triton.index_hangs = True
    result = await probe.check(triton.spec(), TIMEOUT_S)
    assert (result.passed, result.models) == (True, None)
    assert "not answered in time" in result.reason


async def test_an_endless_answer_is_not_read_to_its_end(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    triton.index_body = b" " * (ANSWER_BYTES_MAX + 1)
    result = await probe.check(triton.spec(), 5.0)
    assert (result.passed, result.models) == (True, None)
    assert "larger than" in result.reason


async def test_a_host_name_that_nobody_knows_is_a_failure(probe: TritonProbe) -> None:
    nowhere = Endpoint("slice.invalid", 8000)  # RFC 6761: .invalid is never resolved
    result = await probe.check(SliceSpec("s0", nowhere, nowhere), 5.0)
    assert (result.passed, result.conclusive) == (False, False)


async def test_a_gateway_out_of_descriptors_does_not_blame_the_slice(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    """Else a flood of clients would take every slice out at once."""
    triton = await start_triton()
    await probe.check(triton.spec(), 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(CheckNotMadeError):
            await probe.check(triton.spec(), 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await probe.check(triton.spec(), 1.0)).passed


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT])
def test_an_unreachable_host_gets_a_second_look(number: int) -> None:
    result = _failure("GET", OSError(number, "unreachable"), 1.0)
    assert (result.passed, result.conclusive) == (False, False)


def test_an_index_with_too_many_models_is_refused() -> None:
    index = [{"name": f"m{i}", "state": "READY"} for i in range(MODELS_MAX + 1)]
    with pytest.raises(ValueError, match="more than"):
        ready_models(json.dumps(index).encode())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
    lambda document: json.dumps(document).encode()
))  # fmt: skip
def test_any_bytes_are_an_index_or_a_value_error(body: bytes) -> None:
    try:
        models = ready_models(body)
    except ValueError:
        return
    assert isinstance(models, dict)


async def test_a_cancelled_check_leaves_nothing_open(
    probe: TritonProbe, start_triton: StartTriton
) -> None:
    triton = await start_triton()
    triton.mode = "hang"
    check = asyncio.ensure_future(probe.check(triton.spec(), 30.0))
    await until(lambda: bool(triton.requests))
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
