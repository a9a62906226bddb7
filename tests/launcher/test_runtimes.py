"""Runtimes by name."""

from launcher.config import LauncherConfig
from launcher.docker.runtime import DockerRuntime
from launcher.processes import ProcessRuntime
from launcher.runtimes import RUNTIMES, open_runtime


def test_each_name_opens_its_runtime_without_asking_anything():
    assert isinstance(open_runtime("process"), ProcessRuntime)
    assert isinstance(open_runtime("docker"), DockerRuntime)


def test_what_can_be_configured_can_be_opened():
    names = LauncherConfig.model_fields["runtime"].annotation
    assert set(names.__args__) == set(RUNTIMES)
