"""One Docker Engine for all container tests; a test that leaves a container behind has failed."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.system import System
from tests.support.docker import engine as engines
from tests.support.docker import images
from tests.support.docker.engine import Engine, EngineUnavailableError


@pytest.fixture(scope="session")
def running_engine() -> Iterator[Engine]:
    """
    Never skipped: what is not there is a failure that says what to do.
    """
    try:
        with engines.running() as made:
            images.triton(made)
            yield made
    except EngineUnavailableError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def engine(running_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine, which programs that the test starts find too, without a container."""
    for key, value in running_engine.environment.items():
        monkeypatch.setenv(key, value)
    running_engine.nvidia.set_devices(())
    yield running_engine
    with warnings.catch_warnings():
        # What the SDK left open: it must not be found in a test that has nothing to do with it.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    left = [
        container.name
        for container in running_engine.client.containers.list(all=True, ignore_removed=True)
    ]
    engines.remove_containers(running_engine.client)
    assert left == [], "containers are left"


@pytest.fixture
def system(engine: Engine, tmp_path: Path) -> Iterator[System]:
    """A launcher and a gateway of the test's own, on free ports, ended with it."""
    made = System(engine, tmp_path)
    try:
        yield made
    finally:
        made.vanish()
