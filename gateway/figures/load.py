"""The built-in load: so many requests outstanding at any time, for so long, over HTTP or gRPC."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from math import prod
from time import monotonic
from typing import Any, Final

import grpc

from contract.slice_spec import Endpoint
from gateway.figures.points import Point
from gateway.flowers import messages
from gateway.flowers.asking import ANSWER_S, AskError, HttpLink, infer_head

BYTES: Final = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4,
    "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
RAMP: Final = 0.2
"""Share of the time that is let pass before answers count: the queues fill first."""
ROUNDS_MIN: Final = 3
"""Answers each outstanding request is waited for at least, however long that takes, …"""
WINDOW_MAX_S: Final = 60.0
"""… within this."""
_STAGES: Final = ("queue", "compute_input", "compute_infer", "compute_output")


class Load:
    """
    Requests to one model with random content, as perf_analyzer sends them.

    Raises:
        AskError: The model is not there, or has inputs that cannot be made up.
    """

    def __init__(self, endpoint: Endpoint, model: str, *, over_grpc: bool) -> None:
        self._endpoint = endpoint
        self._model = model
        self._over_grpc = over_grpc
        self._link = HttpLink(endpoint)
        self._channel: Any = None
        self._send: Callable[[], Awaitable[float]]

    async def open(self) -> None:
        """Learn what the model takes."""
        metadata = await self._get(f"/v2/models/{self._model}")
        inputs = [_input(entry) for entry in metadata["inputs"]]
        tensors = [os.urandom(BYTES[kind] * prod(shape)) for _, kind, shape in inputs]
        if self._over_grpc:
            self._channel = grpc.aio.insecure_channel(str(self._endpoint))
            call = self._channel.unary_unary(messages.METHOD)
            message = messages.plain_request(self._model, inputs, tensors)
            self._send = lambda: _by_grpc(call, message)
            return
        question = {
            "inputs": [
                {"name": name, "shape": shape, "datatype": kind,
                 "parameters": {"binary_data_size": len(tensor)}}
                for (name, kind, shape), tensor in zip(inputs, tensors, strict=True)
            ],
            "parameters": {"binary_data_output": True},
        }  # fmt: skip
        size = sum(map(len, tensors))
        pieces = [infer_head(self._endpoint, self._model, question, size), *tensors]
        self._send = lambda: self._by_http(pieces)

    async def close(self) -> None:
        self._link.close()
        if self._channel is not None:
            await self._channel.close()

    async def measure(self, slices: int, concurrency: int, seconds: float) -> Point:
        """Keep `concurrency` requests outstanding and return what came of them."""
        begins_s = monotonic() + RAMP * seconds
        ends_s = begins_s + seconds
        took_s: list[float] = []
        failed = 0
        last_s = begins_s

        async def work() -> None:
            nonlocal failed, last_s
            while (now_s := monotonic()) < ends_s or (
                len(took_s) < ROUNDS_MIN * concurrency and now_s < begins_s + WINDOW_MAX_S
            ):
                try:
                    one_s = await self._send()
                except AskError:
                    failed += 1
                    await asyncio.sleep(0.05)
                    continue
                done_s = monotonic()
                if done_s >= begins_s:
                    took_s.append(one_s)
                    last_s = done_s

        before = await self._statistics()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
        after = await self._statistics()
        took_s.sort()
        stages = _stages(before, after)
        mean_us = 1e6 * sum(took_s) / len(took_s) if took_s else 0.0
        return Point(
            slices=slices,
            concurrency=concurrency,
            throughput=len(took_s) / (last_s - begins_s) if took_s else 0.0,
            failed=failed,
            p50_us=_percentile_us(took_s, 0.50),
            p90_us=_percentile_us(took_s, 0.90),
            p95_us=_percentile_us(took_s, 0.95),
            p99_us=_percentile_us(took_s, 0.99),
            network_us=max(0.0, mean_us - sum(stages)),
            queue_us=stages[0],
            input_us=stages[1],
            infer_us=stages[2],
            output_us=stages[3],
        )

    async def _by_http(self, pieces: list[bytes]) -> float:
        _, _, took_s = await self._link.send(pieces)
        return took_s

    async def _get(self, path: str) -> Any:
        head = f"GET {path} HTTP/1.1\r\nHost: {self._endpoint}\r\n\r\n".encode()
        _, body, _ = await self._link.send([head])
        return json.loads(body)

    async def _statistics(self) -> dict[str, tuple[int, int]]:
        """Return (count, ns) of each stage, all slices' together: the gateway adds them up."""
        document = await self._get(f"/v2/models/{self._model}/stats")
        totals = dict.fromkeys(_STAGES, (0, 0))
        for entry in document["model_stats"]:
            for stage in _STAGES:
                found = entry["inference_stats"][stage]
                count, ns = totals[stage]
                totals[stage] = count + found["count"], ns + found["ns"]
        return totals


async def _by_grpc(call: Any, message: bytes) -> float:
    began_s = monotonic()
    try:
        await call(message, timeout=ANSWER_S)
    except grpc.aio.AioRpcError as error:
        raise AskError(f"{error.code().name}: {error.details()}") from None
    return monotonic() - began_s


def _input(entry: dict[str, Any]) -> tuple[str, str, list[int]]:
    name, kind = entry["name"], entry["datatype"]
    if kind not in BYTES:
        raise AskError(f"input {name} is {kind}, which cannot be made up")
    # As with perf_analyzer one picture at a time: an open batch is one, nothing else may be open.
    shape = [1 if at == 0 and extent < 0 else extent for at, extent in enumerate(entry["shape"])]
    if min(shape, default=1) < 0:
        raise AskError(f"input {name} has the shape {entry['shape']}, which leaves its size open")
    return name, kind, shape


def _stages(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> tuple[float, ...]:
    """Return the mean of each stage in microseconds."""
    means = []
    for stage in _STAGES:
        count = after[stage][0] - before[stage][0]
        means.append((after[stage][1] - before[stage][1]) / count / 1e3 if count > 0 else 0.0)
    return tuple(means)


def _percentile_us(ascending: list[float], share: float) -> float:
    if not ascending:
        return 0.0
    return 1e6 * ascending[min(len(ascending) - 1, int(share * len(ascending)))]
