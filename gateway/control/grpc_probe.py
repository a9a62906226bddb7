"""
GrpcProbe: whether a slice's gRPC port answers, seen over a connection of its own.

grpcio is imported when the probe is made: it is large, and most gateways do not ask over gRPC.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any, Final

from contract.slice_spec import SliceSpec
from gateway.fleet.health import CheckResult

SERVER_LIVE: Final = "/inference.GRPCInferenceService/ServerLive"
INDEX: Final = "/inference.GRPCInferenceService/RepositoryIndex"
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
MODELS_MAX: Final = 4096
_READY_ONLY: Final = b"\x10\x01"
"""RepositoryIndexRequest with `ready` true."""
_LIVE: Final = b"\x08\x01"
"""ServerLiveResponse with `live` true, grpc_predict_v2.proto."""
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),  # else channels of one target share their connection
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
)


class GrpcProbe:
    """
    Triton's ServerLive and RepositoryIndex over gRPC, on a new connection each time.

    A Triton that is told to stop goes on taking calls on the
    connections it has, and refuses new ones.

    Raises:
        RuntimeError: grpcio is not installed.
    """

    def __init__(self) -> None:
        try:
            from grpc import StatusCode, aio
        except ImportError as error:
            raise RuntimeError(
                "health.probe asks over gRPC, and grpcio is not installed; "
                "install it or set health.probe to triton"
            ) from error
        self._aio: Any = aio
        self._codes: Any = StatusCode

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        result = await self._check(spec, timeout_s)
        return CheckResult(
            result.passed, result.reason, result.conclusive, result.models, loop.time() - began_s
        )

    async def close(self) -> None:
        """Nothing is kept between checks."""

    async def _check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        asked = "gRPC ServerLive"
        async with self._aio.insecure_channel(str(spec.grpc), options=_OPTIONS) as channel:
            deadline_s = asyncio.get_running_loop().time() + timeout_s
            try:
                answer = await channel.unary_unary(SERVER_LIVE)(b"", timeout=timeout_s)
            except self._aio.AioRpcError as error:
                return self._failure(asked, error, timeout_s)
            if answer != _LIVE:
                return CheckResult(False, f"{asked} was answered not live", conclusive=True)
            left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
            try:
                index = await channel.unary_unary(INDEX)(_READY_ONLY, timeout=left_s)
                models = ready_models(index)
            except (self._aio.AioRpcError, ValueError) as error:
                why = error if isinstance(error, ValueError) else error.code().name
                return CheckResult(True, f"live over gRPC; its models are not known: {why}")
        return CheckResult(True, f"live over gRPC; {len(models)} models ready", models=models)

    def _failure(self, asked: str, error: Any, timeout_s: float) -> CheckResult:
        code = error.code()
        if code is self._codes.DEADLINE_EXCEEDED:
            return CheckResult(False, f"{asked} was not answered within {timeout_s:g} s")
        why = str(error.details() or "")[:200]
        # UNAVAILABLE: nobody listens, or the server says that it is leaving.
        return CheckResult(
            False, f"{asked}: {code.name}: {why}", conclusive=code is self._codes.UNAVAILABLE
        )


def ready_models(index: bytes) -> dict[str, tuple[str, ...]]:
    """
    Read a RepositoryIndexResponse: for each model with a READY version, those versions.

    Raises:
        ValueError: The bytes are none.

    Source: grpc_predict_v2.proto: models = 1, of which name = 1, version = 2, state = 3.
    """
    found: dict[str, set[str]] = {}
    for number, entry in _texts(index):
        if number == 1:
            fields = dict(_texts(entry))
            if fields.get(3) == b"READY":
                versions = found.setdefault(fields.get(1, b"").decode("utf-8", "replace"), set())
                versions.add(fields.get(2, b"").decode("utf-8", "replace"))
    if len(found) > MODELS_MAX:
        raise ValueError(f"the index has more than {MODELS_MAX} models")
    return {
        name: tuple(sorted(filter(None, found[name]), key=lambda v: (len(v), v)))
        for name in sorted(found)
    }


def _texts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (field number, content) of a message that has only fields with a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if tag & 7 != 2 or at + size > len(data):
            raise ValueError("the index is malformed")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise ValueError("the index is malformed")


async def _outcome(check: Awaitable[CheckResult]) -> CheckResult | Exception:
    """Return the error instead of raising it: the other probe's check goes on."""
    try:
        return await check
    except Exception as error:
        return error


class BothProbes:
    """Two probes side by side: both have to pass; the models are the first one's."""

    def __init__(self, first: Any, second: Any) -> None:
        self._first = first
        self._second = second

    async def check(self, spec: SliceSpec, timeout_s: float) -> CheckResult:
        """Raises CheckNotMadeError when one of the two could not be made."""
        async with asyncio.TaskGroup() as group:
            first = group.create_task(_outcome(self._first.check(spec, timeout_s)))
            second = group.create_task(_outcome(self._second.check(spec, timeout_s)))
        one, other = first.result(), second.result()
        for found in (one, other):
            if isinstance(found, Exception):
                raise found
        assert isinstance(one, CheckResult), "neither a result nor an error"
        assert isinstance(other, CheckResult), "neither a result nor an error"
        took_s = max(one.took_s, other.took_s)
        failed = next((found for found in (one, other) if not found.passed), None)
        if failed is not None:
            conclusive = any(f.conclusive and not f.passed for f in (one, other))
            return CheckResult(False, failed.reason, conclusive, one.models, took_s)
        return CheckResult(True, f"{one.reason}; {other.reason}", models=one.models, took_s=took_s)

    async def close(self) -> None:
        await self._first.close()
        await self._second.close()
