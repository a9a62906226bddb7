"""A gateway of real processes in front of stand-in slices, and clients that keep it busy."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from tests.gateway.workers.slices import StandIns

REPOSITORY = Path(__file__).parents[3]
TARGET = "/v2/models/m/infer"


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Wait for a condition and return its value; fail by name when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Running:
    """`python -m gateway serve` in front of `slices`, with whatever comes of it."""

    def __init__(self, folder: Path, slices: StandIns, **config: Any) -> None:
        self.port, self.admin = free_ports(2)
        self.path = folder / "gateway.yaml"
        self._log = folder / "gateway.log"
        self.config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "state_file": str(folder / "state.json"),
            "health": {"interval": 0.2},
            "slices": [
                {"name": f"s{i}", "http": f"127.0.0.1:{port}", "grpc": f"127.0.0.1:{port}"}
                for i, port in enumerate(slices.ports)
            ],
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

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.config))

    def wait_ready(self) -> None:
        count = len(self.config["slices"])

        def ready() -> bool:
            assert self.family.poll() is None, self.log
            try:
                views = self.ask("GET", "/v1/slices")[1]["slices"]
            except OSError:
                return False
            return [view["state"] for view in views] == ["ready"] * count and self.is_serving()

        wait_until(ready, "all slices are ready")

    def is_serving(self) -> bool:
        return all(worker["state"] == "serving" for worker in self.workers())

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    # --- calls ------------------------------------------------------------------------------

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=70)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
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
        return {view["name"]: view for view in self.ask("GET", "/v1/slices")[1]["slices"]}

    def infer(self, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
        ours = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            ours.request("POST", TARGET, b"{}")
            answer = ours.getresponse()
            return answer.status, answer.read()
        finally:
            if connection is None:
                ours.close()

    # --- signals ----------------------------------------------------------------------------

    @property
    def main_pid(self) -> int:
        return int(self.ask("GET", "/v1/workers")[1]["pid"])

    def pids(self) -> list[int]:
        """Return every process there is of it."""
        return [each.pid for each in psutil.Process(self.family.pid).children(recursive=True)]

    def end(self) -> None:
        if self.family.poll() is None:
            self.family.send_signal(signal.SIGTERM)
        self.family.wait(20)


class Clients:
    """
    Clients over HTTP/1.1, each on a connection that it keeps, until the block ends.

    Attributes:
        answered: Requests answered rightly.
        errors: What went wrong with the others.
    """

    def __init__(self, running: Running, count: int = 6) -> None:
        self.answered = 0
        self.errors: list[str] = []
        self._running = running
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, more: int) -> None:
        wanted = self.answered + more
        wait_until(lambda: self.answered >= wanted, f"{more} answers")

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=20)
        while not self._stop.is_set():
            try:
                told = self._running.infer(connection)
                problem = None if told == (200, b"ok") else f"{told}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
                connection.close()
            with self._lock:
                if problem:
                    self.errors.append(problem)
                else:
                    self.answered += 1
        connection.close()
