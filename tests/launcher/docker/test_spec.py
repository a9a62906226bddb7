"""What is asked of the engine for one server."""

from pathlib import Path

import pytest

from launcher.docker.settings import DockerSettings
from launcher.docker.spec import Device, Source, container, container_name, fingerprint
from tests.launcher.docker.specs import MARKER, UUID, server

FOLDER = Source("bind", "/m")
LOG = Path("/run/logs/s0.log")


def made(wanted=None, way="none", source=FOLDER, **settings):
    return container(
        wanted or server(), MARKER, LOG, DockerSettings(**settings), Device(way, UUID), source,
        "127.0.0.1", "0123456789abcdef",
    )  # fmt: skip


def test_triton_listens_inside_and_the_engine_publishes_on_the_slices_ports():
    found = made(server(port=8010))
    assert found["host_config"]["port_bindings"] == {
        8000: ("127.0.0.1", 8010), 8001: ("127.0.0.1", 8011), 8002: ("127.0.0.1", 8012),
    }  # fmt: skip
    assert "--http-port=8000" in found["command"]
    assert "--http-address=0.0.0.0" in found["command"]
    assert found["ports"] == [8000, 8001, 8002]


def test_on_the_hosts_network_triton_itself_has_the_slices_ports():
    found = made(server(port=8010), network="host")
    assert found["host_config"]["port_bindings"] is None
    assert "--grpc-port=8011" in found["command"]
    assert "--grpc-address=127.0.0.1" in found["command"]
    assert found["healthcheck"]["test"][-1] == "http://127.0.0.1:8010/v2/health/ready"


def test_models_are_mounted_for_reading_only():
    (mount,) = made()["host_config"]["mounts"]
    assert mount == {"Type": "bind", "Source": "/m", "Target": "/models", "ReadOnly": True}
    assert "--model-repository=/models" in made()["command"]


def test_a_url_of_models_is_left_to_triton():
    found = made(server(models="s3://bucket/models"), source=None)
    assert found["host_config"]["mounts"] == []
    assert "--model-repository=s3://bucket/models" in found["command"]


def test_it_is_found_by_its_marker():
    found = made()
    assert found["name"] == container_name(MARKER) == "mig-s0-0123456789ab"
    assert found["labels"]["mig-gateway.marker"] == MARKER
    assert found["labels"]["mig-gateway.owner"] == "0123456789abcdef"
    assert found["labels"]["mig-gateway.log"] == str(LOG)
    assert found["labels"]["mig-gateway.mig-uuid"] == UUID


@pytest.mark.parametrize(
    ("way", "requests", "runtime", "visible"),
    [
        (
            "gpus",
            [{"Driver": "nvidia", "DeviceIDs": [UUID], "Capabilities": [["gpu"]]}],
            None,
            None,
        ),
        ("cdi", [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={UUID}"]}], None, None),
        ("runtime", None, "nvidia", UUID),
        ("none", None, None, "void"),
    ],
)
def test_each_way_to_bind_it_to_its_device(way, requests, runtime, visible):
    found = made(way=way)
    assert found["host_config"].get("device_requests") == requests
    assert found["host_config"].get("runtime") == runtime
    assert found["environment"].get("NVIDIA_VISIBLE_DEVICES") == visible


def test_it_may_do_no_more_than_it_needs():
    host = made(user="1000", memory="8g")["host_config"]
    assert host["cap_drop"] == ["ALL"]
    assert host["security_opt"] == ["no-new-privileges"]
    assert host["read_only"] is True
    assert host["mem_limit"] == "8g"
    assert made(user="1000")["user"] == "1000"


def test_shared_memory_is_its_own_or_the_hosts():
    assert made(shm_size="2g")["host_config"]["shm_size"] == "2g"
    host = made(ipc="host")["host_config"]
    assert (host["ipc_mode"], host["shm_size"]) == ("host", None)


def test_its_cores_are_those_of_the_server():
    assert made(server(cpus="0-7"))["host_config"]["cpuset_cpus"] == "0-7"
    assert made()["host_config"]["cpuset_cpus"] is None


def test_the_engines_health_check_can_be_left_out():
    assert made(health_interval_s=0)["healthcheck"] == {"test": ["NONE"]}
    assert made(health_interval_s=1.5)["healthcheck"]["interval"] == 1_500_000_000


def test_other_settings_and_another_image_make_other_containers():
    one = fingerprint(DockerSettings(), "sha256:1")
    assert one == fingerprint(DockerSettings(), "sha256:1")
    assert one != fingerprint(DockerSettings(), "sha256:2")
    assert one != fingerprint(DockerSettings(memory="1g"), "sha256:1")
