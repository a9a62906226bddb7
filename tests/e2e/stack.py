"""A whole system as a user runs it: mig-launcher, seven real Tritons, mig-gateway, on free ports."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.support.children import ending_with_us
from tests.support.waiting import free_ports, wait_until

__all__ = ["HEALTH_INTERVAL_S", "REPOSITORY", "SLICES", "Stack", "free_ports", "wait_until"]

REPOSITORY = Path(__file__).parents[2]
SLICES = [f"s{i}" for i in range(7)]
HEALTH_INTERVAL_S = 0.5
READY_WITHIN_S = 90.0


class Stack:
    """
    The running system.

    Attributes:
        address: The gateway's `host:port` for clients.
        admin: The admin API's `host:port`.
        folder: Logs, state, inventory and configuration.
        gateway: The gateway's process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port_base = free_block()
        self.address, self.admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.models = _all_models(folder / "models")
        self.config: dict[str, Any] = {
            "listen": self.address,
            "admin": {"listen": self.admin},
            "inventory": str(folder / "slices.json"),
            "state_file": str(folder / "gateway-state.json"),
            "health": {"interval": HEALTH_INTERVAL_S, "down_interval": HEALTH_INTERVAL_S},
        }
        self.launcher: subprocess.Popen[bytes] | None = None
        self.gateway: subprocess.Popen[bytes] | None = None

    # --- the two programs ---------------------------------------------------------------------

    def start(self) -> None:
        self.launcher = self._spawn(
            "launcher", "up", "--gpu", "simulated:a100-40gb", "--port-base", str(self.port_base),
            "--state-dir", str(self.folder), "--inventory", self.config["inventory"],
            "--model-repository", str(self.models),
        )  # fmt: skip
        self.start_gateway()
        self.wait_ready()

    def start_gateway(self) -> None:
        self.spawn_gateway()
        wait_until(self._admin_answers, "the admin API answers")

    def spawn_gateway(self) -> "subprocess.Popen[bytes]":
        """Start the gateway's process, whatever becomes of it."""
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(self.config))
        self.gateway = self._spawn("gateway", "serve", "--config", str(path))
        return self.gateway

    def stop_gateway(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self.gateway is not None
        self.gateway.send_signal(number)
        return self.gateway.wait(60)

    def stop(self) -> None:
        for process in (self.gateway, self.launcher):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (self.gateway, self.launcher):
            if process is not None:
                process.wait(60)

    def log(self, program: str) -> str:
        return (self.folder / f"{program}.log").read_text(errors="replace")

    # --- the admin API ------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return (status, JSON) of a call of the admin API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.admin}{path}", data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def slices(self) -> dict[str, dict[str, Any]]:
        """Return the view of each slice by name."""
        return {view["name"]: view for view in self.ask("GET", "/v1/slices")[1]["slices"]}

    def served(self) -> dict[str, int]:
        """Return how many requests each slice has been given."""
        return {name: view["requests"] for name, view in self.slices().items()}

    def policy(self, name: str) -> None:
        assert self.ask("PUT", "/v1/balancing", {"policy": name})[0] == 200

    def states(self) -> dict[str, str]:
        return {name: view["state"] for name, view in self.slices().items()}

    def wait_ready(self) -> None:
        """Wait until every slice takes traffic."""

        def all_ready() -> bool:
            for program, process in (("launcher", self.launcher), ("gateway", self.gateway)):
                assert process is not None
                assert process.poll() is None, f"{program} ended:\n{self.log(program)}"
            states = self.states()
            if "ejected" in states.values():
                self._try_one()
            return len(states) == len(SLICES) and set(states.values()) == {"ready"}

        wait_until(all_ready, "all slices are ready", READY_WITHIN_S)

    def _try_one(self) -> None:
        """Ask once: what was ejected returns when it has answered a request that tried it."""
        body = {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": "UINT8", "data": [1]}]}
        request = urllib.request.Request(
            f"http://{self.address}/v2/models/identity/infer",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with contextlib.suppress(OSError):  # it was tried; whether it went well, its state says
            urllib.request.urlopen(request, timeout=10).close()

    def triton_pid(self, name: str) -> int:
        """Return the process id of a slice's Triton, as the launcher tells it."""
        return self.triton_pids()[name]

    def triton_pids(self) -> dict[str, int]:
        """Return the process ids of the Tritons by slice, of those that run."""
        shown = subprocess.run(
            [sys.executable, "-m", "launcher", "status", "--json", "--state-dir", str(self.folder)],
            capture_output=True, text=True, cwd=REPOSITORY, check=True,
        )  # fmt: skip
        slices = json.loads(shown.stdout)["slices"]
        return {s["name"]: int(s["pid"]) for s in slices if s["pid"]}

    # --- inside -------------------------------------------------------------------------------

    def _spawn(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                # They stop what they started when SIGTERM tells them that the tests are gone.
                ending_with_us([sys.executable, "-m", program, *arguments], signal.SIGTERM),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
                start_new_session=True,
            )  # fmt: skip

    def _admin_answers(self) -> bool:
        assert self.gateway is not None
        assert self.gateway.poll() is None, self.log("gateway")
        try:
            return self.ask("GET", "/livez")[0] == 200
        except OSError:
            return False


def _all_models(folder: Path) -> Path:
    """Return one repository with the models users get and those that only tests need."""
    folder.mkdir()
    for repository in (REPOSITORY / "configs" / "models", REPOSITORY / "tests" / "models"):
        for model in repository.iterdir():
            if (model / "config.pbtxt").exists():
                (folder / model.name).symlink_to(model)
    return folder


def free_block() -> int:
    """Return a base whose ports are free for seven slices."""
    for _ in range(100):
        base = random.SystemRandom().randrange(10_000, 30_000, 10)
        if all(_is_free(base + 10 * i + k) for i in range(len(SLICES)) for k in range(3)):
            return base
    raise AssertionError("no free block of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
