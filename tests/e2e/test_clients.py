"""Triton's own clients see one big Triton behind the gateway's port."""

import asyncio
import queue
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import Stack
from tests.support.tensors import tensor
from tools.flower.draw import UNSEEN_SEEDS, picture
from tools.flower.species import species

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CLIENTS = [pytest.param(http_client, id="http"), pytest.param(grpc_client, id="grpc")]
MIB = 1024 * 1024


@pytest.fixture(params=CLIENTS)
def messages(request: pytest.FixtureRequest) -> Any:
    """The client library of one protocol."""
    return request.param


@pytest.fixture
def client(stack: Stack, messages: Any) -> Any:
    made = messages.InferenceServerClient(
        stack.address, **({"network_timeout": 120.0} if messages is http_client else {})
    )
    yield made
    made.close()


def test_health_and_metadata_calls_answer(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flower")
    assert not client.is_model_ready("nobody")
    metadata = client.get_server_metadata()
    assert "classification" in (
        metadata["extensions"] if isinstance(metadata, dict) else metadata.extensions
    )
    client.get_model_metadata("flower")
    client.get_model_config("flower")
    client.get_model_repository_index()
    client.get_inference_statistics("flower")


def test_a_flower_is_named(client: Any, messages: Any) -> None:
    image = picture(7, UNSEEN_SEEDS + 1)[None]
    wanted = messages.InferRequestedOutput("probabilities", class_count=3)
    result = client.infer("flower", [tensor(messages, image, "input", "FP32")], outputs=[wanted])
    best = result.as_numpy("probabilities").reshape(-1)
    assert len(best) == 3
    assert best[0].decode().split(":")[2] == species()[7].name


@pytest.mark.parametrize("size", [0, 1, 512, 65_536, 602_112, 5 * MIB, 100 * MIB])
def test_bodies_of_any_size_come_back_unchanged(client: Any, messages: Any, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    back = client.infer("identity", [tensor(messages, data)]).as_numpy("OUTPUT0")
    assert np.array_equal(back if size else data, data)


@pytest.mark.parametrize("size", [0, 1, 512, 65_536])
def test_json_bodies_come_back_unchanged(stack: Stack, size: int) -> None:
    """Without the binary tensor extension numbers are text."""
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    sent = http_client.InferInput("INPUT0", [size], "UINT8")
    sent.set_data_from_numpy(data, binary_data=False)
    wanted = http_client.InferRequestedOutput("OUTPUT0", binary_data=False)
    with http_client.InferenceServerClient(stack.address) as client:
        back = client.infer("identity", [sent], outputs=[wanted]).as_numpy("OUTPUT0")
    assert np.array_equal(back if size else data, data)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_pass(stack: Stack, messages: Any, algorithm: str) -> None:
    data = np.zeros(100_000, np.uint8)
    how = (
        {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        if messages is http_client
        else {"compression_algorithm": algorithm}
    )
    with messages.InferenceServerClient(stack.address) as client:
        back = client.infer("identity", [tensor(messages, data)], **how).as_numpy("OUTPUT0")
    assert np.array_equal(back, data)


def test_tritons_own_errors_arrive_unchanged(client: Any, messages: Any) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody' is not found"):
        client.infer("nobody", [tensor(messages, np.zeros(1, np.uint8))])


def test_a_hundred_concurrent_requests_all_come_back(stack: Stack) -> None:
    async def infer(module: Any, messages: Any, i: int, client: Any) -> None:
        data = np.full(300 + i, i, np.uint8)
        back = await client.infer("identity", [tensor(messages, data)])
        assert np.array_equal(back.as_numpy("OUTPUT0"), data)

    async def both() -> None:
        async with (
            http_aio.InferenceServerClient(stack.address, conn_limit=32) as http,
            grpc_aio.InferenceServerClient(stack.address) as grpc,
        ):
            await asyncio.gather(
                *(infer(http_aio, http_client, i, http) for i in range(100)),
                *(infer(grpc_aio, grpc_client, i, grpc) for i in range(100)),
            )

    asyncio.run(both())


def test_a_stream_answers_in_order_and_survives_a_failed_request(stack: Stack) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    data = tensor(grpc_client, np.arange(4, dtype=np.uint8))
    with grpc_client.InferenceServerClient(stack.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for i in range(5):
            client.async_stream_infer("identity", [data], request_id=str(i))
        got = [answers.get(timeout=30) for _ in range(5)]
        assert [r.get_response().id for r, error in got if error is None] == list("01234")
        client.async_stream_infer("nobody", [data])
        assert "unknown model" in str(answers.get(timeout=30)[1])
        client.async_stream_infer("identity", [data], request_id="after")
        assert answers.get(timeout=30)[0].get_response().id == "after"
        client.stop_stream()


def test_a_decoupled_model_streams_many_answers_to_one_request(stack: Stack) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    count = 20
    inputs = [
        tensor(grpc_client, np.arange(count, dtype=np.int32), "IN", "INT32"),
        tensor(grpc_client, np.zeros(count, np.uint32), "DELAY", "UINT32"),
    ]
    with grpc_client.InferenceServerClient(stack.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("repeat", inputs)
        for i in range(count):
            result, error = answers.get(timeout=30)
            assert error is None
            assert result.as_numpy("OUT")[0] == i
        client.stop_stream()


def test_the_gateway_holds_no_more_than_its_limits(stack: Stack, messages: Any) -> None:
    """A body of 100 MB passes through; it is never held as a whole."""
    assert stack.gateway is not None
    gateway = psutil.Process(stack.gateway.pid)
    data = np.zeros(100 * MIB, np.uint8)
    with messages.InferenceServerClient(stack.address) as client:
        client.infer("identity", [tensor(messages, data[:1024])])
        before = gateway.memory_info().rss
        client.infer("identity", [tensor(messages, data)])
    assert gateway.memory_info().rss - before < 64 * MIB
