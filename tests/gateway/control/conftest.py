"""What the control plane's tests share."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from tests.gateway.control.scripted import ScriptedTriton

StartTriton = Callable[[], Awaitable[ScriptedTriton]]


@pytest_asyncio.fixture
async def start_triton() -> AsyncIterator[StartTriton]:
    """A function that starts a scripted server; all are stopped after the test."""
    started: list[ScriptedTriton] = []

    async def start() -> ScriptedTriton:
        triton = await ScriptedTriton().start()
        started.append(triton)
        return triton

    yield start
    for triton in started:
        await triton.stop()
