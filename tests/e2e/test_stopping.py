"""SIGTERM: the gateway stops accepting, finishes what is in flight, and exits with 0."""

import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from tests.e2e.stack import Stack, wait_until
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.mark.parametrize("module", [http_client, grpc_client], ids=["http", "grpc"])
def test_what_is_in_flight_is_answered(stack: Stack, module: Any) -> None:
    got: list[Any] = []

    def infer() -> None:
        sent = tensor(module, np.arange(4, dtype=np.uint8))
        with module.InferenceServerClient(stack.address) as client:
            result = client.infer("slow", [sent], parameters={"delay_ms": 1500})
            got.append(result.as_numpy("OUTPUT0"))

    thread = threading.Thread(target=infer)
    thread.start()
    wait_until(lambda: any(v["in_flight"] for v in stack.slices().values()), "it is in flight")
    try:
        assert stack.stop_gateway(signal.SIGTERM) == 0
        thread.join(30)
        assert len(got) == 1
        assert got[0].tolist() == [0, 1, 2, 3]
    finally:
        stack.start_gateway()


def test_an_idle_gateway_stops_at_once_and_leaves_no_socket(stack: Stack) -> None:
    host, port = stack.address.split(":")
    idle = socket.create_connection((host, int(port)))
    try:
        begun_s = time.monotonic()
        assert stack.stop_gateway(signal.SIGINT) == 0
        assert time.monotonic() - begun_s < 5
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
    finally:
        idle.close()
        stack.start_gateway()


def test_a_taken_port_is_one_clear_sentence_and_exit_code_2(stack: Stack, tmp_path: Path) -> None:
    second = Stack(tmp_path)
    second.config["listen"] = stack.address
    assert second.spawn_gateway().wait(30) == 2
    assert f"cannot listen on {stack.address}" in second.log("gateway")
