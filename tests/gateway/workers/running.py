"""A gateway of real processes in front of stand-in slices, and clients that keep it busy."""

import http.client
import signal
from pathlib import Path
from typing import Any

from tests.gateway.workers.slices import StandIns
from tests.support.asking import HttpClient
from tests.support.gateway import REPOSITORY, Gateway
from tests.support.load import SMALL_BYTES, Load
from tests.support.waiting import free_ports, wait_until

__all__ = ["REPOSITORY", "Running", "clients_of", "free_ports", "wait_until"]

TARGET = "/v2/models/m/infer"


class Running(Gateway):
    """A gateway in front of `slices`."""

    def __init__(self, folder: Path, slices: StandIns, **config: Any) -> None:
        entries = [
            {"name": f"s{i}", "http": f"127.0.0.1:{port}", "grpc": f"127.0.0.1:{port}"}
            for i, port in enumerate(slices.ports)
        ]
        super().__init__(folder, entries, **{"health": {"interval": 0.2}, **config})

    def infer(self) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", TARGET, b"{}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def end(self) -> None:
        if self.family.poll() is None:
            self.family.send_signal(signal.SIGTERM)  # kills them all
        self.family.wait(20)


def clients_of(running: Running, count: int = 6) -> Load:
    """Return clients over HTTP/1.1, each on a connection that it keeps."""
    return Load([HttpClient(running.address, SMALL_BYTES, model="m") for _ in range(count)])
