"""Three slices are asked for more than they can do: what is admitted is served in time."""

import asyncio
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_messages
import tritonclient.grpc.aio as grpc_client
import tritonclient.http as http_messages
import tritonclient.http.aio as http_client
import yaml
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import SLICES, Stack, wait_until
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SERVICE_S = 0.1
QUEUE_S = 0.4
CLIENTS = 60
UNQUEUED_S = CLIENTS * SERVICE_S / 3
"""What each answer would take if all clients were let in; it is the slices' time, not the machine's."""
REFUSALS = {"503", "StatusCode.RESOURCE_EXHAUSTED", "StatusCode.UNAVAILABLE"}


class Overload:
    """
    Clients of both protocols that ask as fast as they are answered.

    Attributes:
        took_s: How long each request took that was answered.
        refusals: Those that were not, by status.
    """

    def __init__(self, served: int) -> None:
        self.took_s: list[float] = []
        self.refusals: Counter[str] = Counter()
        self._served = served
        self._enough = asyncio.Event()

    async def run(self, address: str) -> None:
        """Ask until so many have been served, and some refused over both protocols."""
        tasks = [
            asyncio.ensure_future(self._ask(modules, address))
            for modules in ((http_client, http_messages), (grpc_client, grpc_messages))
            for _ in range(CLIENTS // 2)
        ]
        try:
            async with asyncio.timeout(90):
                await self._enough.wait()
        finally:
            self._enough.set()
            await asyncio.gather(*tasks)

    async def _ask(self, modules: tuple[Any, Any], address: str) -> None:
        client, messages = modules
        sent = [tensor(messages, np.zeros(4, np.uint8))]
        parameters = {"delay_ms": str(int(SERVICE_S * 1e3))}
        async with client.InferenceServerClient(address) as triton:
            while not self._enough.is_set():
                begun_s = time.monotonic()
                try:
                    await triton.infer("slow", sent, parameters=parameters)
                    self.took_s.append(time.monotonic() - begun_s)
                except InferenceServerException as error:
                    self.refusals[str(error.status())] += 1
                    await asyncio.sleep(SERVICE_S)
                if len(self.took_s) >= self._served and len(self.refusals) > 1:
                    self._enough.set()


def reconfigured(stack: Stack, **keys: Any) -> None:
    """Let the gateway read its configuration again, with these keys."""
    (stack.folder / "gateway.yaml").write_text(yaml.safe_dump({**stack.config, **keys}))
    status, told = stack.ask("POST", "/v1/reload")
    assert status == 200, told


def queue_of(stack: Stack, model: str) -> dict[str, Any]:
    queues = stack.ask("GET", "/v1/queues")[1]["queues"]
    found: dict[str, Any] = next(queue for queue in queues if queue["model"] == model)
    return found


async def test_beyond_capacity_what_is_admitted_is_served_in_time(stack: Stack) -> None:
    three, others = SLICES[:3], SLICES[3:]
    for name in others:
        assert stack.ask("POST", f"/v1/slices/{name}/drain?wait=10s")[0] == 200
    reconfigured(stack, queue={"timeout": QUEUE_S})
    try:
        limits = {s["name"]: s["max_in_flight"] for s in queue_of(stack, "slow")["slices"]}
        assert {limits[name] for name in three} == {1}, "it is not batched and has one instance"
        overload = Overload(served=150)
        running = asyncio.ensure_future(overload.run(stack.address))
        most = 0
        while not running.done():
            slices = (await asyncio.to_thread(queue_of, stack, "slow"))["slices"]
            most = max(most, *(each["in_flight"] for each in slices))
            await asyncio.sleep(0.05)
        await running
    finally:
        reconfigured(stack)
    assert most == 1, "no slice was given what it cannot work on"
    assert set(overload.refusals) <= REFUSALS
    assert overload.refusals["503"], "HTTP clients were refused"
    took_s = sorted(overload.took_s)
    assert took_s[len(took_s) // 2] < UNQUEUED_S / 2
    assert took_s[int(0.95 * len(took_s))] < UNQUEUED_S
    waits_ms = stack.ask("GET", "/v1/queues")[1]["wait_ms"]
    assert waits_ms["p99"] < (QUEUE_S + 0.25) * 1e3, "the line's limit, the timer, and a little"
    wait_until(lambda: not queue_of(stack, "slow")["waiting"], "nobody waits any more")
    views = stack.slices()
    assert {views[name]["in_flight"] for name in three} == {0}
    ejections = [one for name in three for one in views[name]["ejections"]]
    assert ejections == [], "a refusal is no slice's failure"
