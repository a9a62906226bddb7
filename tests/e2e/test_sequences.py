"""Sequences in front of seven real Tritons: right sums, whatever happens to the slices."""

import os
import queue
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import Stack, wait_until

MODEL = "sequence"
TURNS = 5

Send = Callable[[int | str, int, bool, bool], int]
"""(sequence id, value, starts, ends) → the sum so far."""


def over_http(client: http_client.InferenceServerClient, **options: Any) -> Send:
    def send(sequence_id: int | str, value: int, starts: bool, ends: bool) -> int:
        tensor = http_client.InferInput("INPUT", [1], "INT32")
        tensor.set_data_from_numpy(np.array([value], np.int32))
        answer = client.infer(
            MODEL, [tensor], sequence_id=sequence_id, sequence_start=starts, sequence_end=ends,
            **options,
        )  # fmt: skip
        return int(answer.as_numpy("OUTPUT")[0])

    return send


def grpc_tensor(value: int) -> grpc_client.InferInput:
    tensor = grpc_client.InferInput("INPUT", [1], "INT32")
    tensor.set_data_from_numpy(np.array([value], np.int32))
    return tensor


def over_grpc(client: grpc_client.InferenceServerClient, **options: Any) -> Send:
    def send(sequence_id: int | str, value: int, starts: bool, ends: bool) -> int:
        answer = client.infer(
            MODEL, [grpc_tensor(value)], sequence_id=sequence_id, sequence_start=starts,
            sequence_end=ends, **options,
        )  # fmt: skip
        return int(answer.as_numpy("OUTPUT")[0])

    return send


class Streams:
    """One stream for each sequence, each on a client of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._clients: dict[int | str, Any] = {}
        self._answers: dict[int | str, queue.Queue[Any]] = {}

    def send(self, sequence_id: int | str, value: int, starts: bool, ends: bool) -> int:
        if sequence_id not in self._clients:
            client = grpc_client.InferenceServerClient(self._address)
            answers: queue.Queue[Any] = queue.Queue()
            client.start_stream(lambda result, error: answers.put((result, error)))
            self._clients[sequence_id], self._answers[sequence_id] = client, answers
        self._clients[sequence_id].async_stream_infer(
            MODEL, [grpc_tensor(value)], sequence_id=sequence_id, sequence_start=starts,
            sequence_end=ends,
        )  # fmt: skip
        result, error = self._answers[sequence_id].get(timeout=30)
        if error is not None:
            raise error
        return int(result.as_numpy("OUTPUT")[0])

    def close(self) -> None:
        for client in self._clients.values():
            client.stop_stream()
            client.close()


@pytest.fixture
def clients(stack: Stack):
    """Return every way of sending, by name."""
    http = http_client.InferenceServerClient(stack.address, concurrency=4)
    grpc = grpc_client.InferenceServerClient(stack.address)
    streams = Streams(stack.address)
    yield {
        "http": over_http(http),
        "http gzip": over_http(http, request_compression_algorithm="gzip"),
        "grpc": over_grpc(grpc),
        "grpc gzip": over_grpc(grpc, compression_algorithm="gzip"),
        "streams": streams.send,
    }
    streams.close()
    grpc.close()
    http.close()


def holders(stack: Stack, before: dict[str, int]) -> set[str]:
    """Return the slices that have been given requests since `before`."""
    return {name for name, count in stack.served().items() if count > before[name]}


@pytest.mark.parametrize("way", ["http", "http gzip", "grpc", "grpc gzip", "streams"])
def test_interleaved_sequences_add_up(stack, clients, way):
    send, ids, before = clients[way], range(1000, 1021), stack.served()
    for turn in range(TURNS):
        for sequence_id in ids:
            total = send(sequence_id, sequence_id + turn, turn == 0, turn == TURNS - 1)
            assert total == sum(sequence_id + t for t in range(turn + 1)), (sequence_id, turn)
    assert len(holders(stack, before)) == 7, "each slice has three of them"


def test_one_sequence_over_every_protocol(stack, clients):
    total = 0
    ways = ["http", "grpc", "http gzip", "grpc gzip"] * 2
    for at, way in enumerate(ways):
        total += at
        assert clients[way](77, at, at == 0, at == len(ways) - 1) == total


def test_a_sequence_that_was_not_started_gets_tritons_own_error(stack, clients):
    for way in ("http", "grpc", "streams"):
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            clients[way](4242, 1, False, False)


def test_running_sequences_end_on_a_disabled_slice_and_new_ones_go_elsewhere(stack, clients):
    send = clients["grpc"]
    running = range(2000, 2014)
    for sequence_id in running:
        send(sequence_id, 1, True, False)
    disabled = "s3"
    assert stack.ask("POST", f"/v1/slices/{disabled}/disable")[0] == 200
    before = stack.served()
    for sequence_id in range(3000, 3014):
        assert send(sequence_id, 5, True, True) == 5
    assert disabled not in holders(stack, before)
    for sequence_id in running:
        assert clients["http"](sequence_id, 2, False, False) == 3
    for sequence_id in running:
        assert send(sequence_id, 3, False, True) == 6
    assert disabled in holders(stack, before), "two of the sequences were its own"


def test_a_killed_slice_fails_only_its_own_sequences_with_a_clear_error(stack, clients):
    send, ids = clients["grpc"], range(5000, 5014)
    killed = stack.triton_pid("s2")  # asked before: all of them end when they are idle for 5 s
    for sequence_id in ids:
        send(sequence_id, 1, True, False)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: stack.states()["s2"] != "ready", "the gateway notices")
    failed = []
    for sequence_id in ids:
        try:
            assert send(sequence_id, 2, False, True) == 3
        except InferenceServerException as error:
            failed.append(str(error))
    assert len(failed) == 2, failed
    assert all("must specify the START flag" in reason for reason in failed)
    stack.wait_ready()
