"""A gateway of real processes, with whatever comes of it: workers, and those that replace it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from contract.files import write_atomically
from tests.support.waiting import free_ports, wait_until

REPOSITORY = Path(__file__).parents[2]
_TOLD = ("event", "slice", "before", "after", "pid", "index", "reason")


class Gateway:
    """
    `python -m gateway serve`.

    Args:
        folder: Takes its files.
        slices: As in the configuration.
        config: Further keys of the configuration.

    Attributes:
        port: For clients.
        admin: Of the admin API.
        config: What `write` writes.
        family: A process that lives as long as any that came of the gateway; see tests.support.family.
    """

    def __init__(self, folder: Path, slices: Sequence[dict[str, Any]], **config: Any) -> None:
        self.port, self.admin = free_ports(2)
        self.path = folder / "gateway.yaml"
        self._log = folder / "gateway.log"
        self.config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "state_file": str(folder / "state.json"),
            "slices": list(slices),
            **config,
        }
        self.write()
        with self._log.open("wb") as log:
            self.family = subprocess.Popen(
                [
                    sys.executable, "-m", "tests.support.family", str(os.getpid()),
                    sys.executable, "-m", "gateway", "serve", "--config", str(self.path),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
            )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def write(self) -> None:
        """Replace the configuration file in one go, as editors and config maps do."""
        write_atomically(self.path, yaml.safe_dump(self.config))

    def wait_ready(self) -> None:
        wait_until(self.is_ready, "all slices are ready", 60)

    def is_ready(self) -> bool:
        """Say whether every slice takes work and every worker serves."""
        assert self.family.poll() is None, self.log
        try:
            states = set(self.states().values())
        except OSError:
            return False
        return states <= {"ready"} and self.is_serving()

    def is_serving(self) -> bool:
        return all(worker["state"] == "serving" for worker in self.workers())

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """Return the lines of the log that tell of one of `events`."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] in events]

    def logged_between(self, began_s: float, ended_s: float) -> list[str]:
        """Return what the log tells of these moments, by time.monotonic(), a line for each event."""
        offset_s = datetime.now().timestamp() - time.monotonic()  # noqa: DTZ005 (only a difference)
        found = []
        for line in (json.loads(line) for line in self.log.splitlines() if line.startswith("{")):
            at_s = datetime.fromisoformat(line["timestamp"]).timestamp() - offset_s
            if began_s <= at_s <= ended_s:
                what = " ".join(str(line[key]) for key in _TOLD if key in line)
                found.append(f"{at_s - began_s:.3f} {what}")
        return found

    # --- calls ------------------------------------------------------------------------------

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Return (status, JSON) of a call of the admin API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=70)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Return the samples of the gateway's own metrics, by name and labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        samples = (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
        return {name.removeprefix("mig_gateway_"): float(value) for name, _, value in samples}

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/v1/workers")[1]["workers"]
        return found

    def slices(self) -> dict[str, dict[str, Any]]:
        """Return the view of each slice by name."""
        return {view["name"]: view for view in self.ask("GET", "/v1/slices")[1]["slices"]}

    def states(self) -> dict[str, str]:
        return {name: view["state"] for name, view in self.slices().items()}

    # --- processes --------------------------------------------------------------------------

    @property
    def main_pid(self) -> int:
        return int(self.ask("GET", "/v1/workers")[1]["pid"])

    def pids(self) -> list[int]:
        """Return every process there is of it."""
        return [each.pid for each in psutil.Process(self.family.pid).children(recursive=True)]

    def end(self) -> None:
        """Stop it as Ctrl-C does; one that does not stop is killed."""
        if self.family.poll() is None:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGINT)
                except ProcessLookupError:
                    pass
            try:
                self.family.wait(20)
            except subprocess.TimeoutExpired:
                self.family.send_signal(signal.SIGTERM)  # kills them all
                self.family.wait(20)
