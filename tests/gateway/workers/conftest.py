"""Gateways of real processes for these tests; every process of theirs is gone after the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.workers.running import Running
from tests.gateway.workers.slices import StandIns

Start = Callable[..., Running]


@pytest.fixture
def slices() -> Iterator[StandIns]:
    made = StandIns(3)
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path, slices: StandIns) -> Iterator[Start]:
    """Start a gateway, with these keys of the configuration."""
    made: list[Running] = []

    def start_one(wait: bool = True, **config: Any) -> Running:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        running = Running(folder, slices, **config)
        made.append(running)
        if wait:
            running.wait_ready()
        return running

    yield start_one
    for running in made:
        running.end()
