"""Which way a container is given its device, by what the engine offers."""

import pytest

from launcher.docker.binding import abilities, choose

UUID = "MIG-1"
PLAIN = {"Runtimes": {"runc": {}}}
TOOLKIT = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI_ON = {**TOOLKIT, "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}
CDI_KNOWS = {**CDI_ON, "DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={UUID}"}]}
CDI_IS_OLD = {**CDI_ON, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=MIG-0"}]}


@pytest.mark.parametrize(
    ("info", "way"),
    [
        (PLAIN, "gpus"),
        (TOOLKIT, "runtime"),
        (CDI_ON, "runtime"),
        (CDI_KNOWS, "cdi"),
        (CDI_IS_OLD, "runtime"),
        ({"DiscoveredDevices": None, "Runtimes": None}, "gpus"),
    ],
)
def test_by_itself_it_takes_what_is_sure_to_know_the_device(info, way):
    assert choose("auto", UUID, False, abilities(info)) == way


@pytest.mark.parametrize("forced", ["cdi", "runtime", "gpus", "none"])
def test_what_is_forced_is_done(forced):
    assert choose(forced, UUID, True, abilities(PLAIN)) == forced


def test_a_device_on_paper_is_not_asked_for():
    assert choose("auto", UUID, True, abilities(CDI_KNOWS)) == "none"
    assert choose("auto", "", False, abilities(TOOLKIT)) == "none"
