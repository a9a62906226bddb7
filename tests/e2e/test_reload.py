"""Reloads and TLS in front of real Tritons: clients notice nothing, and nobody else gets in."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
import yaml

from contract.files import write_atomically
from tests.e2e.stack import REPOSITORY, SLICES, Stack, wait_until
from tests.support.certificates import Authority
from tests.support.load import Load, plain
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


class Own(Stack):
    """A gateway of the test's own in front of the shared Tritons, which it knows by their names."""

    def __init__(self, folder: Path, shared: Stack) -> None:
        super().__init__(folder)
        del self.config["inventory"]
        self.entries = [
            {"name": name, "http": view["http"], "grpc": view["grpc"], "weight": 1}
            for name, view in shared.slices().items()
        ]
        self.config["slices"] = self.entries
        self.path = folder / "gateway.yaml"

    def write(self, **keys: Any) -> None:
        """Replace the configuration file in one go, as editors and config maps do."""
        write_atomically(self.path, yaml.safe_dump(self.config | keys))

    def hang_up(self) -> None:
        """Send SIGHUP and wait until the log says what came of it."""
        assert self.gateway is not None
        before = self.reloads()
        self.gateway.send_signal(signal.SIGHUP)
        wait_until(lambda: self.reloads() > before, "the signal was obeyed")

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log("gateway").splitlines() if line[:1] == "{"]
        return [line for line in lines if line.get("event") in names]

    def reloads(self) -> int:
        return len(self.events("config.reloaded", "config.refused"))

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith(f"mig_gateway_{name}")
        )

    def serve(self) -> None:
        """Start the gateway, and wait until it listens and every slice takes traffic."""
        before = len(self.events("gateway.started")) if self.gateway else 0
        self.start_gateway()
        wait_until(lambda: len(self.events("gateway.started")) > before, "the gateway listens")
        wait_until(self.all_ready, "all slices are ready")

    def all_ready(self) -> bool:
        return set(self.states().values()) == {"ready"}


@pytest.fixture
def own(stack: Stack, tmp_path: Path) -> Iterator[Own]:
    one = Own(tmp_path, stack)
    one.serve()
    yield one
    one.stop()


def test_a_signal_every_moment_under_load_drops_no_connection_and_fails_nothing(own: Own) -> None:
    """Slices go and come, weights, policy, limits and timeouts change, and every third is broken."""
    with Load(plain(own.address)) as load:
        load.wait_for(50)
        closed = own.metric("connections_closed_total")
        for turn in range(15):
            match turn % 3:
                case 0:
                    own.write(slices=own.entries[turn % 2 :], limits={"streams": 100 + turn})
                case 1:
                    policy = ("round_robin", "least_load")[turn % 2]
                    slower = [entry | {"weight": 1 + turn} for entry in own.entries]
                    own.write(slices=slower, balancing={"policy": policy},
                              timeouts={"connect": f"{500 + turn}ms"})  # fmt: skip
                case 2:
                    own.write(slices=[], nonsense=turn)
            own.hang_up()
            load.wait_for(20)
        own.write()
        own.hang_up()
        load.wait_for(50)
        assert own.metric("connections_closed_total") == closed
    assert load.errors == []
    assert list(own.slices()) == SLICES
    assert len(own.events("config.refused")) == 5
    assert len(own.events("config.reloaded")) == 11
    assert own.ask("GET", "/v1/balancing")[1]["policy"] == "least_load"


def test_a_slice_that_a_reload_removes_finishes_what_it_has(own: Own) -> None:
    sent = tensor(grpc_client, np.zeros(4, np.uint8))
    done: list[Any] = []
    with grpc_client.InferenceServerClient(own.address) as client:
        client.async_infer(
            "slow", [sent], parameters={"delay_ms": 1500},
            callback=lambda result, error: done.append((result, error)),
        )  # fmt: skip
        busy = wait_until(
            lambda: [n for n, v in own.slices().items() if v["in_flight"]], "one slice is busy"
        )[0]
        own.write(slices=[entry for entry in own.entries if entry["name"] != busy])
        status, body = own.ask("POST", "/v1/reload")
        assert (status, [change["key"] for change in body["changed"]]) == (200, [f"slices.{busy}"])
        assert not done
        assert busy not in own.slices()
        wait_until(lambda: done, "the answer")
    assert done[0][1] is None


def test_the_command_line_reloads_and_tells_what_came_of_it(own: Own) -> None:
    command = [sys.executable, "-m", "gateway", "reload", "--admin", own.admin]

    def reload() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
        )

    own.write(timeouts={"idle": "5m"}, listen="127.0.0.1:1")
    done = reload()
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "read again: 1 changed",
        "  timeouts.idle: 75.0 -> 300.0",
        "1 in force only after a restart",
        f'  listen: ["{own.address}"] -> ["127.0.0.1:1"]',
    ]
    own.write(limits={"stream": 1}, health={"fall": 0})
    done = reload()
    assert done.returncode == 1
    assert "nothing was changed: the configuration has 2 mistakes" in done.stderr
    assert "health.fall is 0" in done.stderr
    assert "did you mean streams?" in done.stderr
    assert own.all_ready()


def infer_over_tls(address: str, authority: Authority) -> None:
    """Infer with both of Triton's own clients, small and large."""
    # gevent, which the HTTP client is made of, knows a name by its certificate only with these.
    http = {"ca_certs": str(authority.pem), "keyfile": None, "certfile": None}
    options = {key: value for key, value in http.items() if value is not None}
    for size in (16, 1_000_000):
        data = np.arange(size, dtype=np.uint32).astype(np.uint8)
        with http_client.InferenceServerClient(address, ssl=True, ssl_options=options) as client:
            back = client.infer("identity", [tensor(http_client, data)]).as_numpy("OUTPUT0")
            assert np.array_equal(back, data)
        with grpc_client.InferenceServerClient(
            address, ssl=True, root_certificates=str(authority.pem)
        ) as client:
            back = client.infer("identity", [tensor(grpc_client, data)]).as_numpy("OUTPUT0")
            assert np.array_equal(back, data)


def test_tritons_clients_and_curl_speak_tls_to_the_one_port(own: Own, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    own.stop_gateway()
    own.config["tls"] = {"cert": str(pair.cert), "key": str(pair.key)}
    own.serve()
    infer_over_tls(own.address, authority)
    url = f"https://{own.address}/v2/health/ready"
    shown = ["-s", "-o", os.devnull, "-w", "%{http_version} %{http_code}", "--cacert"]
    for version in ("--http1.1", "--http2"):  # which offers both
        done = subprocess.run(
            ["curl", version, *shown, str(authority.pem), url],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.stdout == "1.1 200", done
    # A new authority in the same files: who trusted only the old one is out with his next connection.
    newer = Authority(tmp_path, "newer")
    renewed = newer.server()
    for name in ("cert", "key"):
        write_atomically(getattr(pair, name), getattr(renewed, name).read_text())
    status, body = own.ask("POST", "/v1/reload")
    assert (status, [change["key"] for change in body["changed"]]) == (200, ["tls (content)"])
    infer_over_tls(own.address, newer)
    with pytest.raises(Exception, match=r"(?i)certificate|handshake|ssl"):
        infer_over_tls(own.address, authority)
