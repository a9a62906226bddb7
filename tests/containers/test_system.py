"""
Seven containers, each given its own device by a request to a real engine, behind the gateway; then
`kill -9` of anything, and it is whole again.
"""

import os
import signal

import pytest

from tests.containers.marks import CONTAINERS
from tests.containers.system import System
from tests.e2e.stack import wait_until

pytestmark = CONTAINERS


@pytest.fixture
def seven(system: System) -> System:
    """The system on seven devices that the stand-in for NVIDIA's tools knows."""
    system.settings["layout"] = ["all-1g"]
    # On paper a device has the same UUID each time it is cut: learnt in a first run without it.
    system.settings["docker"]["binding"] = "none"
    system.up()
    system.engine.nvidia.set_devices(entry["mig_uuid"] for entry in system.slices().values())
    system.vanish()
    (system.folder / "launcher.log").unlink()
    system.settings["docker"]["binding"] = "gpus"
    return system


def test_seven_containers_on_seven_devices_survive_any_kill(seven: System):
    before = len(seven.engine.nvidia.grants())
    seven.start_gateway()  # either may come first
    seven.up()
    seven.wait_whole(7)
    granted = {grant.uuids for grant in seven.engine.nvidia.grants()[before:]}
    assert granted == {(entry["mig_uuid"],) for entry in seven.slices().values()}
    assert len(granted) == 7

    os.kill(seven.slices()["s3"]["pid"], signal.SIGKILL)
    wait_until(lambda: seven.slices()["s3"]["restarts"] == 1, "s3 is started again")
    seven.wait_whole_again(7)

    seven.kill_gateway()
    seven.start_gateway()
    seven.wait_whole_again(7)

    made = seven.containers()
    seven.kill_launcher()
    assert seven.infer() == [7, 8, 9]
    seven.up()
    seven.wait_whole_again(7)
    assert seven.containers() == made

    os.kill(seven.slices()["s6"]["pid"], signal.SIGKILL)
    seven.kill_launcher()
    seven.kill_gateway()
    seven.start_gateway()
    seven.up()
    seven.wait_whole_again(7)

    assert seven.call("down").returncode == 0
