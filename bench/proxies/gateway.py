"""The gateway of this checkout, or of another one."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.proxies.base import Launch, Setup
from bench.standins import ROOT


@dataclass(frozen=True, slots=True)
class Gateway:
    """
    `python -m gateway serve` with nothing but addresses and slices set.

    Attributes:
        name: As tables show it.
        root: The checkout whose `gateway` package runs; the interpreter is always ours.
        policy: The gateway's `balancing.policy`.
        queue: The gateway's `queue`, where it is not at its defaults.
        hedging: The same for `hedging`.
    """

    name: str = "gateway"
    root: Path = ROOT
    policy: str = "least_load"
    queue: Mapping[str, object] | None = None
    hedging: Mapping[str, object] | None = None

    def missing(self) -> str | None:
        if not (self.root / "gateway" / "__main__.py").is_file():
            return f"{self.name}: there is no gateway/__main__.py in {self.root}"
        return None

    def version(self) -> str:
        command = ["git", "-C", str(self.root), "describe", "--always", "--dirty"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "gateway, commit unknown"
        return f"gateway {done.stdout.strip()}"

    def prepare(self, setup: Setup) -> Launch:
        port, admin_port = setup.take_port(), setup.take_port()
        config: dict[str, object] = {
            "listen": f"127.0.0.1:{port}",
            "admin": {"listen": f"127.0.0.1:{admin_port}"},
            "balancing": {"policy": self.policy},
            "slices": [
                {
                    "name": one.name,
                    "http": str(one.http),
                    "grpc": str(one.grpc),
                    "weight": one.weight,
                }
                for one in setup.slices
            ],
        }
        if self.queue is not None:
            config["queue"] = dict(self.queue)
        if self.hedging is not None:
            config["hedging"] = dict(self.hedging)
        file = setup.folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
        # PYTHONPATH goes before an installed package, so `root` is what runs. The program runs in
        # its own folder: what it keeps between restarts must not reach the next benchmark.
        return Launch(command, port, port, env={"PYTHONPATH": str(self.root)})
