"""`docker compose`: what starts when, with which rights, and that it is whole again after a kill."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.marks import CONTAINERS
from tests.e2e.stack import REPOSITORY, free_block, free_ports, wait_until
from tests.launcher.helpers import write_model
from tests.support.docker import debian, images
from tests.support.docker.engine import Engine

pytestmark = CONTAINERS
INFER = json.dumps(
    {"inputs": [{"name": "INPUT", "datatype": "INT32", "shape": [2], "data": [4, 2]}]}
).encode()
SERVICES = ("gateway", "launcher")


class Compose:
    """The project's docker-compose.yml under a name and on ports of the test's own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.address, self.admin, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        write_model(folder / "models", "echo")
        for name, changes in (
            ("gateway", {"listen": self.address, "admin": {"listen": self.admin}}),
            ("launcher", {"port_base": free_block(), "metrics": metrics}),
        ):
            settings = yaml.safe_load((REPOSITORY / f"configs/compose/{name}.yaml").read_text())
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**settings, **changes}))
        probe = "import urllib.request as u; u.urlopen('http://{}/livez', timeout=3)"
        own = f"import os; os.stat('/mig/run/slices.json'); {probe.format(metrics)}"
        (folder / "ports.yml").write_text(
            f"""
services:
  launcher-simulated:
    volumes: ["{folder}/launcher.yaml:/etc/mig-gateway/launcher.yaml:ro"]
    healthcheck: {{test: [CMD, python, -c, "{own}"], interval: 1s}}
  gateway:
    volumes: ["{folder}/gateway.yaml:/etc/mig-gateway/gateway.yaml:ro"]
    healthcheck: {{test: [CMD, python, -c, "{probe.format(self.admin)}"], interval: 1s}}
"""
        )

    def __call__(self, *arguments: str, profiles: tuple[str, ...] = ("simulated",)) -> str:
        command = ["docker", "compose", "--project-name=tests"]
        command += [
            f"--file={REPOSITORY / 'docker-compose.yml'}",
            f"--file={self.folder}/ports.yml",
        ]
        command += [f"--env-file={REPOSITORY / '.env'}"]
        command += [f"--profile={profile}" for profile in profiles]
        environment = {
            "TRITON_IMAGE": images.TRITON,
            "MODELS": str(self.folder / "models"),
            "DOCKER_SOCKET": self.engine.environment["DOCKER_HOST"].removeprefix("unix://"),
        }
        return debian.run([*command, *arguments], environment)

    def config(self, *profiles: str) -> dict[str, Any]:
        """Return what compose makes of the file for these profiles."""
        shown = self("config", "--format=json", profiles=profiles)
        services: dict[str, Any] = json.loads(shown)["services"]
        return services

    def container(self, service: str) -> Any:
        """Return the container of a service, as it is now."""
        return self.engine.client.containers.get(f"tests-{service}-1")

    def tritons(self) -> list[Any]:
        wanted = {"label": "mig-gateway.slice"}
        return list(
            self.engine.client.containers.list(all=True, filters=wanted, ignore_removed=True)
        )

    def names(self) -> set[str]:
        return {str(found.name) for found in self.tritons()}

    def states(self) -> dict[str, str]:
        try:
            with urllib.request.urlopen(f"http://{self.admin}/v1/slices", timeout=10) as answer:
                return {view["name"]: view["state"] for view in json.load(answer)["slices"]}
        except OSError:
            return {}

    def wait_whole(self) -> None:
        def whole() -> bool:
            states = self.states()
            running = [found for found in self.tritons() if found.status == "running"]
            healthy = all(
                self.container(service).attrs["State"]["Health"]["Status"] == "healthy"
                for service in ("gateway", "launcher-simulated")
            )
            return (
                len(states) == 7 == len(running) and set(states.values()) == {"ready"} and healthy
            )

        wait_until(whole, "all services are healthy and all slices ready", 180)
        # The admin API answers before the clients' port is opened.
        assert wait_until(self.infer, "the gateway answers") == [4, 2]
        assert len(self.tritons()) == 7

    def infer(self) -> list[int] | None:
        """Send one request through the gateway; None while nobody listens there."""
        try:
            url = f"http://{self.address}/v2/models/echo/infer"
            with urllib.request.urlopen(url, data=INFER, timeout=30) as answer:
                data: list[int] = json.load(answer)["outputs"][0]["data"]
        except urllib.error.HTTPError:
            raise
        except OSError:
            return None
        return data

    def kill(self, container: Any) -> None:
        """`kill -9` from outside: for the engine no wish of ours, so its policy applies."""
        container.reload()
        os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)


@pytest.fixture
def compose(engine: Engine, tmp_path: Path) -> Compose:
    return Compose(engine, tmp_path)


@pytest.fixture
def built(compose: Compose) -> Iterator[Compose]:
    """With the project's own images; what it starts is removed."""
    engine = compose.engine
    images.python(engine)
    for target in SERVICES:
        debian.run(
            ["docker", "build", "--quiet", "--network=host", f"--target={target}",
             "--build-arg=COMPILE=0", f"--tag=mig-gateway/{target}", str(REPOSITORY)],
            engine.environment,
        )  # fmt: skip
    yield compose
    compose("down", "--volumes", "--timeout=60")


def test_the_simulated_profile_is_whole_again_after_any_kill(built: Compose):
    compose = built
    user = compose.engine.client.images.get("mig-gateway/gateway").attrs["Config"]["User"]
    assert user == "10001:10001"
    compose("up", "--detach", "--wait", "--wait-timeout=300")
    compose.wait_whole()
    for service in ("launcher-simulated", "gateway"):
        before = compose.names()
        compose.kill(compose.container(service))
        wait_until(lambda s=service: compose.container(s).attrs["RestartCount"], "a restart")
        compose.wait_whole()
        assert compose.names() == before
    before = compose.names()
    killed = compose.tritons()[0]
    compose.kill(killed)
    wait_until(lambda: killed.name not in compose.names(), "another in its place", 60)
    compose.wait_whole()
    assert before - compose.names() == {killed.name}
    assert "mig-s0-" in compose("exec", "-T", "launcher-simulated", "mig-launcher", "status")
    compose("down", "--timeout=60")
    assert compose.tritons() == []


def test_each_profile_starts_what_it_is_for(compose: Compose):
    default = yaml.safe_load(
        f"{{{(REPOSITORY / '.env').read_text().splitlines()[2]}}}".replace("=", ": ")
    )
    assert default == {"COMPOSE_PROFILES": "gpu"}
    assert set(compose.config()) == {"launcher", "gateway"}
    assert set(compose.config("simulated")) == {"launcher-simulated", "gateway"}
    watched = compose.config("gpu", "observability")
    assert set(watched) == {"launcher", "gateway", "prometheus", "grafana"}


def test_each_service_may_do_what_it_needs_and_no_more(compose: Compose):
    services = compose.config("gpu", "simulated", "observability")
    with_socket = {
        name
        for name, service in services.items()
        if any("docker.sock" in volume["target"] for volume in service["volumes"])
    }
    assert with_socket == {"launcher", "launcher-simulated"}
    assert {name for name, service in services.items() if service.get("privileged")} == {"launcher"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["healthcheck"]["test"], name
