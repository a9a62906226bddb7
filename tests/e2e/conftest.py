"""One system for all end-to-end tests; each test leaves it as it found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.chaos import SLICES as CHAOS_SLICES
from tests.e2e.chaos import Chaos, ChaosSlice
from tests.e2e.stack import SLICES, Stack


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def stack(running_stack: Stack) -> Iterator[Stack]:
    """The system with all slices ready and enabled, before the test and after it."""
    running_stack.wait_ready()
    yield running_stack
    for name in SLICES:
        running_stack.ask("POST", f"/v1/slices/{name}/enable")
    running_stack.policy("least_load")
    running_stack.wait_ready()


@pytest.fixture(scope="session")
def chaos_slices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ChaosSlice]]:
    folder = tmp_path_factory.mktemp("chaos")
    slices = [ChaosSlice(f"s{i}", folder) for i in range(CHAOS_SLICES)]
    try:
        for each in slices:
            each.triton.start()
        yield slices
    finally:
        for each in slices:
            each.close()


@pytest.fixture
def chaos(chaos_slices: list[ChaosSlice], tmp_path: Path) -> Iterator[Chaos]:
    """Real Tritons that are all well, before the test and after it."""
    for each in chaos_slices:
        each.well()
        each.triton.wait_live()
    made = Chaos(tmp_path, chaos_slices)
    yield made
    made.end()
