"""A second gateway in front of the Tritons of the system that runs already."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.stack import HEALTH_INTERVAL_S, REPOSITORY, Stack, free_ports, wait_until


class Beside(Stack):
    """
    The gateway only, with other ports and keys of its own; it may be upgraded.

    Attributes:
        gateway: A process that lives as long as any that came of the gateway; see family.
    """

    def __init__(self, stack: Stack, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.address, self.admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.config = {
            **stack.config,
            "listen": self.address,
            "admin": {"listen": self.admin},
            "state_file": str(folder / "gateway-state.json"),
            "health": {"interval": HEALTH_INTERVAL_S, "down_interval": HEALTH_INTERVAL_S},
            **config,
        }
        self.launcher = stack.launcher
        self.gateway: subprocess.Popen[bytes] | None = None
        (folder / "launcher.log").touch()

    def start(self) -> None:
        self.start_gateway()
        self.wait_ready()
        wait_until(self._all_serve, "all workers serve")

    def spawn_gateway(self) -> "subprocess.Popen[bytes]":
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path)]
        with (self.folder / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "tests.support.family", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
                start_new_session=True,
            )  # fmt: skip
        return self.gateway

    def stop(self) -> None:
        assert self.gateway is not None
        if self.gateway.poll() is None:
            self.gateway.terminate()
        self.gateway.wait(60)

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/v1/workers")[1]["workers"]
        return found

    @property
    def main_pid(self) -> int:
        """The process that answers the admin API."""
        return int(self.ask("GET", "/v1/workers")[1]["pid"])

    def _all_serve(self) -> bool:
        return all(worker["state"] == "serving" for worker in self.workers())
