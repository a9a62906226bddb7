"""The two programs as a user starts them, with servers in containers."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from launcher import owner, status
from launcher.docker import spec
from tests.e2e.stack import REPOSITORY, free_block, free_ports, wait_until
from tests.launcher.helpers import write_model
from tests.support.children import ending_with_us
from tests.support.docker import images
from tests.support.docker.engine import Engine

INFER = json.dumps(
    {"inputs": [{"name": "INPUT", "datatype": "INT32", "shape": [3], "data": [7, 8, 9]}]}
).encode()


class System:
    """
    A launcher with a simulated A100, and a gateway.

    Attributes:
        settings: The launcher's configuration.
        launcher, gateway: Their processes.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.models = write_model(folder / "models", "echo")
        self.address, self.admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.settings: dict[str, Any] = {
            "gpu": "simulated:a100-40gb",
            "layout": ["2g", "1g"],
            "port_base": free_block(),
            "model_repository": str(self.models),
            "state_dir": str(folder / "run"),
            "runtime": "docker",
            "docker": {"image": images.TRITON, "pull": "never"},
        }
        self.launcher: subprocess.Popen[bytes] | None = None
        self.gateway: subprocess.Popen[bytes] | None = None

    # --- the launcher -------------------------------------------------------------------------

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return a command line of the launcher with this configuration."""
        path = self.folder / "launcher.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        return [sys.executable, "-m", "launcher", name, "--config", str(path), *arguments]

    def call(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the launcher to its end."""
        return subprocess.run(
            self.command(name, *arguments), capture_output=True, text=True, cwd=REPOSITORY,
            timeout=120, check=False,
        )  # fmt: skip

    def begin_up(self) -> None:
        """Start `up`, without waiting for it."""
        self.launcher = self.spawn("launcher", self.command("up"))

    def up(self) -> None:
        """Start `up` and wait until everything is."""
        self.begin_up()
        self.wait_up()

    def wait_up(self) -> None:
        def is_up() -> bool:
            assert self.launcher is not None
            assert self.launcher.poll() is None, self.log("launcher")
            return "up until Ctrl-C" in self.log("launcher")

        wait_until(is_up, "the launcher is up", 120)

    def slices(self) -> dict[str, dict[str, Any]]:
        """Return what `status --json` says of each slice, without a process for it."""
        shown = status.as_dict(status.read(Path(self.settings["state_dir"])))
        return {entry["name"]: entry for entry in shown["slices"]}

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return what `status --json` says of each job of the configuration."""
        shown = status.as_dict(status.read(Path(self.settings["state_dir"])))
        return {entry["name"]: entry for entry in shown["jobs"]}

    def wait_ready(self) -> dict[str, dict[str, Any]]:
        """Wait until the launcher says that each slice is ready."""

        def all_ready() -> dict[str, dict[str, Any]] | None:
            found = self.slices()
            return found if {entry["state"] for entry in found.values()} == {"ready"} else None

        ready: dict[str, dict[str, Any]] = wait_until(all_ready, "all slices are ready", 120)
        return ready

    def kill_launcher(self) -> None:
        """`kill -9`; what it was about to say is forgotten."""
        assert self.launcher is not None
        self.launcher.kill()
        self.launcher.wait()
        (self.folder / "launcher.log").unlink()

    # --- the gateway --------------------------------------------------------------------------

    def start_gateway(self) -> None:
        path = self.folder / "gateway.yaml"
        config = {
            "listen": self.address,
            "admin": {"listen": self.admin},
            "inventory": str(self.folder / "run" / "slices.json"),
            "state_file": str(self.folder / "gateway-state.json"),
            "health": {"interval": 0.5, "down_interval": 0.5},
            "timeouts": {"leave": 0},
        }
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
        self.gateway = self.spawn("gateway", command)

    def kill_gateway(self) -> None:
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.wait()

    def states(self) -> dict[str, str]:
        """Return each slice's state at the gateway; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}/v1/slices", timeout=10) as answer:
                return {view["name"]: view["state"] for view in json.load(answer)["slices"]}
        except OSError:
            return {}

    def wait_whole(self, slices: int) -> None:
        """Wait until the gateway has so many slices, all ready, and answers through each."""

        def whole() -> bool:
            states = self.states()
            return len(states) == slices and set(states.values()) == {"ready"}

        wait_until(whole, "the gateway has all slices ready", 120)
        # The admin API answers before the clients' port is opened.
        wait_until(lambda: self.answers(self.address), "the gateway listens")
        for _ in range(2 * slices):
            assert self.infer() == [7, 8, 9]

    def answers(self, address: str) -> bool:
        """Whether somebody listens there."""
        host, _, port = address.partition(":")
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) == 0

    def wait_whole_again(self, slices: int) -> None:
        """The same, with just as many containers, all known to the launcher."""

        def settled() -> bool:
            known = self.wait_ready()
            return sorted(entry["container"] for entry in known.values()) == self.containers()

        wait_until(settled, "the launcher knows all containers", 120)
        self.wait_whole(slices)

    def infer(self) -> list[int]:
        """Send one request through the gateway."""
        url = f"http://{self.address}/v2/models/echo/infer"
        with urllib.request.urlopen(url, data=INFER, timeout=30) as answer:
            data: list[int] = json.load(answer)["outputs"][0]["data"]
            return data

    # --- both ---------------------------------------------------------------------------------

    def log(self, program: str) -> str:
        path = self.folder / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def containers(self) -> list[str]:
        """Return the names of all containers of the engine."""
        return sorted(
            found.name
            for found in self.engine.client.containers.list(all=True, ignore_removed=True)
        )

    def own_containers(self) -> list[str]:
        """Return the names of those that this launcher, or one before it, has made."""
        sign = owner.sign_of(Path(self.settings["state_dir"]))
        found = self.engine.client.containers.list(
            all=True, filters={"label": f"{spec.OWNER}={sign}"}, ignore_removed=True
        )
        return sorted(str(container.name) for container in found)

    def vanish(self) -> None:
        """Take away whatever there is, quicker than `down` would."""
        if self.gateway is not None:
            self.gateway.kill()
            self.gateway.wait()
        if self.launcher is not None:
            # The second signal makes haste. One that was killed would leave what it is just making.
            self.launcher.terminate()
            self.launcher.send_signal(signal.SIGINT)
            self.launcher.wait(60)
        for name in self.own_containers():
            self.engine.client.api.remove_container(name, force=True)

    def spawn(self, program: str, command: list[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                ending_with_us(command, signal.SIGTERM), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd=REPOSITORY, start_new_session=True,
            )  # fmt: skip
