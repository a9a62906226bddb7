"""One system for all end-to-end tests; each test leaves it as it found it."""

from collections.abc import Iterator

import pytest

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
