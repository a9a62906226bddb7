"""The built-in load: so many requests outstanding at any time, for so long, over HTTP or gRPC."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import prod
from time import monotonic
from typing import Any, Final

import grpc

from contract.slice_spec import Endpoint
from gateway.flowers import messages
from gateway.flowers.asking import ANSWER_S, AskError, HttpLink, infer_head

BYTES: Final = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4,
    "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
ROUNDS_MIN: Final = 3
"""Answers each outstanding request is waited for at least, however long that takes, …"""
WINDOW_MAX_S: Final = 60.0
"""… within this."""
_FAILED_PAUSE_S: Final = 0.05

Send = Callable[[], Awaitable[float]]
"""Sends one request; returns the seconds its answer took. Raises AskError."""


@dataclass(frozen=True, slots=True)
class Taken:
    """
    What came of a part of the load.

    Attributes:
        took_s: Of each answer within the window.
        failed: Requests that failed.
        last_s: When the last answer came, by `monotonic`; the window's begin when none did.
        cpu: Share of one processor's time that sending and receiving took.
    """

    took_s: list[float]
    failed: int
    last_s: float
    cpu: float


class Load:
    """
    Requests to one model with random content, as perf_analyzer sends them.

    Raises:
        AskError: The model is not there, or has inputs that cannot be made up.
    """

    def __init__(self, model: str, *, over_grpc: bool) -> None:
        self._model = model
        self._over_grpc = over_grpc
        self._links: dict[Endpoint, HttpLink] = {}
        self._channels: dict[Endpoint, Any] = {}
        self._tensors: list[tuple[tuple[str, str, list[int]], bytes]] = []

    async def open(self, metadata_at: Endpoint) -> None:
        """Learn what the model takes from whoever speaks HTTP there."""
        link = HttpLink(metadata_at)
        try:
            metadata = await get(link, f"/v2/models/{self._model}")
        finally:
            link.close()
        inputs = [_input(entry) for entry in metadata["inputs"]]
        self._tensors = [(one, os.urandom(BYTES[one[1]] * prod(one[2]))) for one in inputs]

    async def close(self) -> None:
        for link in self._links.values():
            link.close()
        for channel in self._channels.values():
            await channel.close()

    async def run(self, targets: Sequence[Endpoint], begins_s: float, seconds: float) -> Taken:
        """
        Keep one request outstanding at each of `targets`, which may name one several times.

        Args:
            begins_s: From then on answers count, by `monotonic`; requests are sent from now on.
            seconds: So long, and until there are ROUNDS_MIN answers for each that is outstanding.
        """
        ends_s = begins_s + seconds
        took_s: list[float] = []
        failed = 0
        last_s = begins_s
        began_s, began_cpu_s = monotonic(), time.process_time()

        async def work(send: Send) -> None:
            nonlocal failed, last_s
            while (now_s := monotonic()) < ends_s or (
                len(took_s) < ROUNDS_MIN * len(targets) and now_s < begins_s + WINDOW_MAX_S
            ):
                try:
                    one_s = await send()
                except AskError:
                    failed += 1
                    await asyncio.sleep(_FAILED_PAUSE_S)
                    continue
                done_s = monotonic()
                if done_s >= begins_s:
                    took_s.append(one_s)
                    last_s = done_s

        sends = {target: self._send(target) for target in dict.fromkeys(targets)}
        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(work(sends[target]))
        cpu = (time.process_time() - began_cpu_s) / max(monotonic() - began_s, 1e-9)
        return Taken(took_s, failed, last_s, cpu)

    def _send(self, target: Endpoint) -> Send:
        inputs = [one for one, _ in self._tensors]
        tensors = [tensor for _, tensor in self._tensors]
        if self._over_grpc:
            if target not in self._channels:
                self._channels[target] = grpc.aio.insecure_channel(str(target))
            call = self._channels[target].unary_unary(messages.METHOD)
            message = messages.plain_request(self._model, inputs, tensors)
            return lambda: _by_grpc(call, message)
        question = {
            "inputs": [
                {"name": name, "shape": shape, "datatype": kind,
                 "parameters": {"binary_data_size": len(tensor)}}
                for (name, kind, shape), tensor in zip(inputs, tensors, strict=True)
            ],
            "parameters": {"binary_data_output": True},
        }  # fmt: skip
        size = sum(map(len, tensors))
        pieces = [infer_head(target, self._model, question, size), *tensors]
        link = self._links.setdefault(target, HttpLink(target))
        return lambda: _by_http(link, pieces)


async def get(link: HttpLink, path: str) -> Any:
    """Return the JSON that is answered to `path`. Raises AskError."""
    head = f"GET {path} HTTP/1.1\r\nHost: {link.endpoint}\r\n\r\n".encode()
    _, body, _ = await link.send([head])
    return json.loads(body)


async def _by_http(link: HttpLink, pieces: list[bytes]) -> float:
    _, _, took_s = await link.send(pieces)
    return took_s


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
