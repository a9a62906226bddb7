"""What the tests of composed calls share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from tests.gateway.triton.scripted import Fleet, ScriptedSlice, fleet_of

StartFleet = Callable[..., Awaitable[Fleet]]


@pytest_asyncio.fixture
async def start_fleet(tmp_path: Path) -> AsyncIterator[StartFleet]:
    """A function that starts scripted slices by name; all are stopped after the test."""
    fleets: list[Fleet] = []

    async def start(*names: str) -> Fleet:
        slices = [await ScriptedSlice(name).start() for name in names]
        fleet = await fleet_of(slices, tmp_path / "journal.json")
        fleets.append(fleet)
        return fleet

    yield start
    for fleet in fleets:
        await fleet.composer.close()
        for one in fleet.slices.values():
            await one.stop()
