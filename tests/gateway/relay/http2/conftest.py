"""A stage for each test, which must be at rest once its clients have gone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.h2_stage import Stage


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    """Make stages; afterwards their clients hang up, and nothing may be left counted or held."""
    stages: list[Stage] = []

    def make(*names: str, **options: Any) -> Stage:
        stages.append(Stage(*names, **options))
        return stages[-1]

    yield make
    for stage in stages:
        for client in list(stage.core.clients):
            client.transport.cut()  # type: ignore[attr-defined]
        stage.settle()
        stage.assert_at_rest()


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    """Two slices, `a` and `b`; the first call goes to `a`."""
    return make_stage("a", "b")
