"""
What the example programs of Triton's Python client do, done against one Triton and through the
gateway in front of three: the client must not be able to tell.

Each program is a function that returns all that its client was told; both runs must return the same.
The names in a program's docstring are those of the examples that make the same calls.
"""

import asyncio
import base64
import gzip
import http.client
import json
import os
import queue
import time
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.auth
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, shared_memory

from gateway.triton.api import SERVICE
from tests.e2e.programs import models
from tests.e2e.programs.client import KINDS, Client, Server
from tests.e2e.stack import REPOSITORY
from tests.e2e.three import Three, started
from tests.support.tritons import RealTriton

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LOADED = [*models.MODELS, "slow", "identity"]
A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.ones((1, 16), np.int32)
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "deflate": zlib.compress, "br": bytes,
}  # fmt: skip
VALUES = [11, 7, 5, 3, 2, 0, 1]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Return one Triton, and the gateway in front of three others."""
    folder = tmp_path_factory.mktemp("programs")
    repositories = [
        models.build(folder / "models"), REPOSITORY / "tests" / "models",
        REPOSITORY / "configs" / "models",
    ]  # fmt: skip
    alone = RealTriton("alone", folder, repositories, LOADED)
    three = Three(folder, repositories, LOADED)
    try:
        started(alone)
        three.start()
        yield (
            Server(str(alone.spec.http), str(alone.spec.grpc)),
            Server(three.address, three.address),
        )
    finally:
        three.stop()
        alone.kill()


def same(servers: tuple[Server, Server], program: Callable[[Server], Any]) -> None:
    """Run the program against both; what it is told must be the same."""
    alone, gateway = servers
    expected = program(alone)
    assert program(gateway) == expected


# --- for every client ---------------------------------------------------------------------------


def infer(client: Client) -> Any:
    """simple_*_infer_client, simple_*_custom_args_client."""
    inputs = [client.tensor("INPUT0", A), client.tensor("INPUT1", B)]
    told = [client.infer("simple", inputs, "OUTPUT0", "OUTPUT1")]
    assert told == [[(A + B).tolist(), (A - B).tolist()]]
    one = [client.wanted("OUTPUT1")]
    result = client.call(
        "infer", "simple", inputs, outputs=one, request_id="9", model_version="1",
        headers={"test": "1", "custom-header": "x"}, priority=1, timeout=1_000_000,
        parameters={"mine": "yes"},
    )  # fmt: skip
    response = result.get_response()
    told += [response["id"] if isinstance(response, dict) else response.id]
    told += [result.as_numpy("OUTPUT0") is None, result.as_numpy("OUTPUT1").tolist()]
    if client.is_http:
        text = [client.tensor("INPUT0", A, binary_data=False), inputs[1]]
        plain = [client.wanted("OUTPUT0", binary_data=False), client.wanted("OUTPUT1")]
        told += client.infer("simple", text, "OUTPUT0", "OUTPUT1", outputs=plain)
        told += client.infer("simple", inputs, "OUTPUT0", query_params={"test_1": 1})
    told += client.fails("infer", "simple", inputs[:1])
    told += client.fails("infer", "simple", inputs, model_version="7")
    told += client.fails("infer", "nobody", inputs)
    wrong = [client.tensor("INPUT0", A[:, :4]), inputs[1]]
    told += client.fails("infer", "simple", wrong)
    told += client.fails("infer", "simple", inputs, outputs=[client.wanted("NOTHING")])
    told += client.fails("infer", "repeat_int32", repeat_inputs(client.made, 2))
    return told


def strings(client: Client) -> Any:
    """simple_*_string_infer_client, grpc_explicit_*."""
    words = [client.tensor(name, np.array(data.astype(str), object), "BYTES")
             for name, data in (("INPUT0", A), ("INPUT1", B))]  # fmt: skip
    told = client.infer("simple_string", words, "OUTPUT0", "OUTPUT1")
    odd = np.array([[b"", b"\0", "é".encode(), b"x" * 70_000] * 4], object)
    told += client.infer("simple_identity", [client.tensor("INPUT0", odd, "BYTES")], "OUTPUT0")
    small = [client.tensor(name, data.astype(np.int8), "INT8")
             for name, data in (("INPUT0", A), ("INPUT1", B))]  # fmt: skip
    told += client.infer("simple_int8", small, "OUTPUT0", "OUTPUT1")
    return told


def health_and_metadata(client: Client) -> Any:
    """simple_*_health_metadata."""
    query = {"query_params": {"test_1": 1, "test_2": 2}} if client.is_http else {}
    told: list[Any] = [
        client.call(method, **query) for method in ("is_server_live", "is_server_ready")
    ]
    told += [client.call("is_model_ready", model, version, headers={"test": "1", "dummy": "2"})
             for model in ("simple", "nobody") for version in ("", "1", "4")]  # fmt: skip
    told += [client.call("get_server_metadata")]
    for method in ("get_model_metadata", "get_model_config"):
        told += [client.call(method, model, **query) for model in models.MODELS]
        told += client.fails(method, "wrong_model_name")
    index = client.call("get_model_repository_index")
    told += [index if client.is_http else index["models"]]
    return told


def model_control(client: Client) -> Any:
    """simple_*_model_control."""
    told: list[Any] = []

    def look() -> None:
        told.append(client.call("is_model_ready", "simple"))

    client.call("load_model", "simple")
    look()
    bad = '"parameters": {"config": {{"max_batch_size": "16"}}}'
    told.extend(client.fails("load_model", "simple", config=bad))
    look()
    for change in ('{"backend":"python","max_batch_size":"16"}', '{"max_batch_size":"16"}'):
        client.call("load_model", "simple", config=change)
        config = client.call("get_model_config", "simple")
        told.append((config if client.is_http else config["config"])["max_batch_size"])
    client.call("unload_model", "simple")
    look()
    inputs = [client.tensor("INPUT0", A), client.tensor("INPUT1", B)]
    told.append(client.fails("infer", "simple", inputs)[0])
    told.extend(client.fails("load_model", "wrong_model_name"))
    told.append(client.call("unload_model", "wrong_model_name"))
    client.call("load_model", "simple")
    look()
    told += client.infer("simple", inputs, "OUTPUT0")
    return told


def sequences(client: Client) -> Any:
    """simple_*_sequence_sync_infer_client, with and without --dyna."""
    told: list[Any] = []
    for model, ids in (
        ("simple_sequence", (1000, 1001)), ("simple_sequence", ("a", "b")),
        ("simple_dyna_sequence", (1002, 1003)),
    ):  # fmt: skip
        for at, value in enumerate([0, *VALUES]):
            for sequence_id, sign in zip(ids, (1, -1), strict=True):
                data = client.tensor("INPUT", np.full((1, 1), sign * value, np.int32))
                told += client.infer(
                    model, [data], "OUTPUT", sequence_id=sequence_id, sequence_start=at == 0,
                    sequence_end=at == len(VALUES),
                )  # fmt: skip
        data = client.tensor("INPUT", np.zeros((1, 1), np.int32))
        told += client.fails("infer", model, [data], sequence_id=ids[0])
        told += client.fails("infer", model, [data])
    return told


def regions(client: Client) -> Any:
    """simple_*_shm_client, simple_*_shm_string_client, reuse_infer_objects_client."""
    client.call("unregister_system_shared_memory")
    client.call("unregister_cuda_shared_memory")
    size = A.nbytes
    handles = {
        name: shared_memory.create_shared_memory_region(name, f"/programs_{os.getpid()}_{name}", 2 * size)
        for name in ("in", "out")
    }  # fmt: skip
    told: list[Any] = []
    try:
        shared_memory.set_shared_memory_region(handles["in"], [A, B])
        for name in handles:
            client.call(
                "register_system_shared_memory", name, f"/programs_{os.getpid()}_{name}", 2 * size
            )
        told += [client.call("get_system_shared_memory_status")]
        told += client.fails(
            "register_system_shared_memory", "in", f"/programs_{os.getpid()}_in", 8
        )
        told += client.fails("register_system_shared_memory", "no", "/no_such_key", 8)
        inputs = [client.made.InferInput(f"INPUT{i}", [1, 16], "INT32") for i in range(2)]
        outputs = [client.wanted(f"OUTPUT{i}") for i in range(2)]
        for _ in range(4):
            for i in range(2):
                inputs[i].set_shared_memory("in", size, offset=i * size)
                outputs[i].set_shared_memory("out", size, offset=i * size)
            shared_memory.set_shared_memory_region(handles["out"], [np.zeros_like(A)] * 2)
            client.call("infer", "simple", inputs, outputs=outputs)
            told += [
                shared_memory.get_contents_as_numpy(
                    handles["out"], np.int32, [1, 16], offset=i * size
                ).tolist()
                for i in range(2)
            ]
            for i in range(2):  # and the same objects with their data in the request
                inputs[i].set_data_from_numpy((A, B * 2)[i])
                outputs[i].unset_shared_memory()
            told += client.infer("simple", inputs, "OUTPUT0", "OUTPUT1", outputs=outputs)
        client.call("unregister_system_shared_memory", "out")
        told += [client.call("get_system_shared_memory_status")]
        told += client.fails("get_system_shared_memory_status", "out")
        inputs[0].set_shared_memory("out", size)
        told += client.fails("infer", "simple", inputs)
        client.call("unregister_system_shared_memory")
        told += [client.call("get_system_shared_memory_status")]
    finally:
        for handle in handles.values():
            shared_memory.destroy_shared_memory_region(handle)
    return told


def cuda_regions(client: Client) -> Any:
    """simple_*_cudashm_client, as far as it comes without a GPU."""
    handle = base64.b64encode(b"\0" * 64)
    told = [client.call("get_cuda_shared_memory_status")]
    told += client.fails("register_cuda_shared_memory", "r", handle, 0, 64)
    told += client.fails("get_cuda_shared_memory_status", "r")
    return [*told, client.call("unregister_cuda_shared_memory")]


def settings(client: Client) -> Any:
    """The rest of what a client can ask of a server."""
    told = [
        client.call("update_log_settings", {"log_verbose_level": 1}),
        client.call("get_log_settings"),
        client.call("update_log_settings", {"log_verbose_level": 0}),
        client.call("update_trace_settings", None, {"trace_rate": "5"}),
        client.call("get_trace_settings", "simple"),
        client.call("update_trace_settings", "simple", {"trace_rate": "6"}),
        client.call("get_trace_settings", "simple"),
        client.call("update_trace_settings", "simple", {"trace_rate": None}),
        client.call("update_trace_settings", None, {"trace_rate": None}),
    ]
    for setting in told:  # named after the server's own log
        (setting.get("settings") or setting).pop("trace_file", None)
    told += client.fails("update_trace_settings", None, {"trace_rate": "x"})
    told += client.fails("get_trace_settings", "nobody")
    told += client.fails("get_inference_statistics", "nobody")
    return told


def compressed(client: Client) -> Any:
    """`-C`, `--request-compression-algorithm` and the like, on balanced and on composed calls."""
    inputs = [client.tensor("INPUT0", A), client.tensor("INPUT1", B)]
    told: list[Any] = []
    for algorithm in ("gzip", "deflate"):
        if client.is_http:
            for sent, got in ((algorithm, None), (None, algorithm), (algorithm, algorithm)):
                how = {"request_compression_algorithm": sent, "response_compression_algorithm": got}
                told += client.infer("simple", inputs, "OUTPUT0", **how)
        else:
            code = getattr(grpc.Compression, algorithm.title())
            told += client.infer("simple", inputs, "OUTPUT0", compression_algorithm=algorithm)
            told += [client.call("is_model_ready", "simple", client_timeout=30.0), code.name]
        one = client.tensor("INPUT", np.ones((1, 1), np.int32))
        how = (
            {"request_compression_algorithm": algorithm}
            if client.is_http
            else {"compression_algorithm": algorithm}
        )
        for start, end in ((True, False), (False, True)):
            told += client.infer(
                "simple_dyna_sequence", [one], "OUTPUT", sequence_id=77, sequence_start=start,
                sequence_end=end, **how,
            )  # fmt: skip
    return told


def many(client: Client) -> Any:
    """memory_growth_test: the same request again and again."""
    inputs = [client.tensor("INPUT0", A), client.tensor("INPUT1", B)]
    return [client.infer("simple", inputs, "OUTPUT0") for _ in range(100)]


ALL = (
    infer, strings, health_and_metadata, model_control, sequences, regions, cuda_regions,
    settings, compressed, many,
)  # fmt: skip


# Loading takes seconds: once for each protocol will do.
RUNS = [(program, kind) for program in ALL for kind in KINDS
        if program is not model_control or kind in ("http", "grpc_aio")]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "kind"), RUNS, ids=[f"{program.__name__}-{kind}" for program, kind in RUNS]
)
def test_every_client_is_told_the_same(
    servers: tuple[Server, Server], kind: str, program: Callable[[Client], Any]
) -> None:
    def run(server: Server) -> Any:
        with Client(kind, server) as client:
            return program(client)

    same(servers, run)


# --- for one client or the other ----------------------------------------------------------------


def into(answers: "queue.Queue[Any]") -> Callable[[Any, Any], None]:
    """Return a callback that puts (result, error) into `answers`."""
    return lambda result, error: answers.put((result, error))


def async_http(server: Server) -> Any:
    """simple_http_async_infer_client."""
    with tritonclient.http.InferenceServerClient(server.http, concurrency=4) as client:
        module = tritonclient.http
        inputs = [tensor(module, "INPUT0", A), tensor(module, "INPUT1", B)]
        waiting = [client.async_infer("simple", inputs, request_id=str(i)) for i in range(20)]
        results = [each.get_result() for each in waiting]
    return [(r.get_response()["id"], r.as_numpy("OUTPUT1").tolist()) for r in results]


def async_grpc(server: Server) -> Any:
    """simple_grpc_async_infer_client."""
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        module = tritonclient.grpc
        inputs = [tensor(module, "INPUT0", A), tensor(module, "INPUT1", B)]
        for i in range(20):
            client.async_infer(
                "simple", inputs, into(answers),
                request_id=str(i),
            )  # fmt: skip
        told = [answers.get(timeout=30) for _ in range(20)]
    assert [error for _, error in told if error] == []
    return sorted((int(r.get_response().id), r.as_numpy("OUTPUT1").tolist()) for r, _ in told)


def keepalive(server: Server) -> Any:
    """simple_grpc_keepalive_client, with pings as fast as gRPC sends them."""
    options = tritonclient.grpc.KeepAliveOptions(
        keepalive_time_ms=1000, keepalive_timeout_ms=500, keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )  # fmt: skip
    with tritonclient.grpc.InferenceServerClient(server.grpc, keepalive_options=options) as client:
        module = tritonclient.grpc
        inputs = [tensor(module, "INPUT0", A), tensor(module, "INPUT1", B)]
        told = client.infer("simple", inputs).as_numpy("OUTPUT0").tolist()
        until_s = time.monotonic() + 2.5  # two pings come without a call
        while time.monotonic() < until_s:
            assert client.is_server_live()
            time.sleep(0.5)
        return told


def channel_arguments(server: Server) -> Any:
    """simple_grpc_custom_args_client."""
    arguments = [("grpc.max_receive_message_length", 2**20), ("grpc.primary_user_agent", "mine")]
    with tritonclient.grpc.InferenceServerClient(server.grpc, channel_args=arguments) as client:
        data = tensor(tritonclient.grpc, "INPUT0", np.zeros(2**21, np.uint8), "UINT8")
        with pytest.raises(InferenceServerException) as failed:
            client.infer("identity", [data])
    return failed.value.status(), failed.value.message().replace(server.grpc, "")


def explicit_contents(server: Server) -> Any:
    """grpc_explicit_int_content_client, grpc_explicit_int8_…, grpc_explicit_byte_…, grpc_client."""
    told: list[Any] = []
    with grpc.insecure_channel(server.grpc) as channel:

        def call(rpc: str, request: Any, **how: Any) -> Any:
            done = channel.unary_unary(
                SERVICE.decode() + rpc,
                request_serializer=type(request).SerializeToString,
                response_deserializer=getattr(pb, f"{rpc}Response").FromString,
            )
            return done(request, timeout=30, **how)

        for rpc in ("ServerLive", "ServerReady", "ServerMetadata"):
            told.append(call(rpc, getattr(pb, f"{rpc}Request")()))
        for rpc in ("ModelReady", "ModelMetadata", "ModelConfig"):
            told.append(call(rpc, getattr(pb, f"{rpc}Request")(name="simple", version="1")))
        for coding in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            asked = pb.RepositoryIndexRequest(repository_name="", ready=True)
            told.append(call("RepositoryIndex", asked, compression=coding))
        for model, kind, contents in (
            ("simple", "INT32", {"int_contents": range(16)}),
            ("simple_int8", "INT8", {"int_contents": range(16)}),
            ("simple_string", "BYTES", {"bytes_contents": [b"%d" % i for i in range(16)]}),
        ):
            asked = pb.ModelInferRequest(model_name=model, id="my request id")
            for name in ("INPUT0", "INPUT1"):
                sent = asked.inputs.add(name=name, datatype=kind, shape=[1, 16])
                sent.contents.CopyFrom(pb.InferTensorContents(**contents))
            asked.outputs.add(name="OUTPUT0")
            told.append(call("ModelInfer", asked))
        wrong = pb.ModelInferRequest(model_name="simple")
        wrong.inputs.add(name="INPUT0", datatype="INT32", shape=[1, 16])
        try:
            told.append(call("ModelInfer", wrong))
        except grpc.RpcError as error:
            told.append((error.code(), error.details()))
    return told


def repeat_inputs(module: Any, count: int, delay_ms: int = 0) -> list[Any]:
    return [
        tensor(module, "IN", np.arange(100, 100 + count, dtype=np.int32)),
        tensor(module, "DELAY", np.full(count, delay_ms, np.uint32), "UINT32"),
        tensor(module, "WAIT", np.zeros(1, np.uint32), "UINT32"),
    ]


def tensor(module: Any, name: str, data: np.ndarray, kind: str = "INT32") -> Any:
    made = module.InferInput(name, list(data.shape), kind)
    made.set_data_from_numpy(data)
    return made


def sequence_requests(dyna: bool) -> list[dict[str, Any]]:
    """Return the requests of three sequences of two models, as they go down one stream."""
    number, text = "simple_dyna_sequence" if dyna else "simple_sequence", "simple_sequence"
    found = []
    for model, sequence_id, first, sign in (
        (number, 2000, 0, 1), (number, 2001, 100, -1), (text, "2002", 20, -1),
    ):  # fmt: skip
        values = [first, *(sign * value for value in VALUES)]
        for at, value in enumerate(values):
            data = np.full((1, 1), value, np.int32)
            found.append({
                "model_name": model, "inputs": [tensor(tritonclient.grpc, "INPUT", data)],
                "request_id": f"{sequence_id}_{at}", "sequence_id": sequence_id,
                "sequence_start": at == 0, "sequence_end": at == len(values) - 1,
            })  # fmt: skip
    return found


def by_id(told: list[tuple[Any, Any]]) -> Any:
    errors = [error.message() for _, error in told if error]
    assert not errors, errors
    return sorted((r.get_response().id, r.as_numpy("OUTPUT").tolist()) for r, _ in told)


def stream_sequences(server: Server) -> Any:
    """simple_grpc_sequence_stream_infer_client."""
    found: list[Any] = []
    for dyna in (False, True):
        answers: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            client.start_stream(into(answers))
            requests = sequence_requests(dyna)
            for request in requests:
                client.async_stream_infer(**request)
            found.append(by_id([answers.get(timeout=30) for _ in requests]))
    return found


def stream_sequences_aio(server: Server) -> Any:
    """simple_grpc_aio_sequence_stream_infer_client."""

    async def run(dyna: bool) -> Any:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for request in sequence_requests(dyna):
                yield request

        async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
            told = [each async for each in client.stream_infer(requests(), stream_timeout=30)]
        return by_id(told)

    return [asyncio.run(run(dyna)) for dyna in (False, True)]


def repeated(server: Server) -> Any:
    """simple_grpc_custom_repeat; several requests at once, with and without an empty end."""
    answers: queue.Queue[Any] = queue.Queue()
    told: dict[str, list[Any]] = {}
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(into(answers))
        for number in range(4):
            client.async_stream_infer(
                "repeat_int32", repeat_inputs(tritonclient.grpc, 10, 5), request_id=str(number),
                enable_empty_final_response=number % 2 == 1,
            )  # fmt: skip
        for _ in range(2 * 10 + 2 * 11):
            result, error = answers.get(timeout=30)
            assert error is None
            response = result.get_response()
            final = response.parameters["triton_final_response"].bool_param
            value = None if result.as_numpy("OUT") is None else int(result.as_numpy("OUT")[0])
            told.setdefault(response.id, []).append((value, final))
    return told


def stream_errors(server: Server) -> Any:
    """A request that fails does not end its stream, unless the client has asked for that."""
    found: list[Any] = []
    for headers in ({}, {"triton_grpc_error": "true"}):
        answers: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            client.start_stream(into(answers), headers=headers)
            good = [tensor(tritonclient.grpc, "INPUT0", A), tensor(tritonclient.grpc, "INPUT1", B)]
            for model, inputs in (("simple", good), ("nobody", good), ("simple", good[:1])):
                client.async_stream_infer(model, inputs, request_id=model)
                result, error = answers.get(timeout=30)
                found.append(
                    (error.status(), error.message()) if error else result.get_response().id
                )
                if error and error.status():
                    break
    return found


def too_late(server: Server) -> Any:
    """`-t`: a client that waits for so long only; and one that cancels."""
    found: list[Any] = []
    data = np.zeros(1, np.uint8)
    late = {"delay_ms": 1500}
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        slow = [tensor(tritonclient.grpc, "INPUT0", data, "UINT8")]
        with pytest.raises(InferenceServerException) as failed:
            client.infer("slow", slow, client_timeout=0.2, parameters=late)
        found += [failed.value.status(), failed.value.message()]
        answers: queue.Queue[Any] = queue.Queue()
        call = client.async_infer("slow", slow, into(answers), parameters=late)
        call.cancel()
        error = answers.get(timeout=30)[1]
        found += [error.status(), error.message()]
        client.start_stream(into(answers))
        client.async_stream_infer("repeat_int32", repeat_inputs(tritonclient.grpc, 1000, 50))
        answers.get(timeout=30)
        client.stop_stream(cancel_requests=True)
    options = {"network_timeout": 0.2}
    with tritonclient.http.InferenceServerClient(server.http, **options) as client:
        slow = [tensor(tritonclient.http, "INPUT0", data, "UINT8")]
        with pytest.raises(Exception, match="timed out"):
            client.infer("slow", slow, parameters=late)
    return found


def plugins(server: Server) -> Any:
    """A plugin puts headers on every request; the server sees, or at least does not mind, them."""
    found: list[Any] = []
    for module, address in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):
        with module.InferenceServerClient(address) as client:
            client.register_plugin(tritonclient.http.auth.BasicAuth("somebody", "word"))
            inputs = [tensor(module, "INPUT0", A), tensor(module, "INPUT1", B)]
            found += [client.infer("simple", inputs).as_numpy("OUTPUT0").tolist()]
            found += [client.is_model_ready("simple"), client.is_server_ready()]
            client.unregister_plugin()
    return found


def classification(server: Server) -> Any:
    """image_client, grpc_image_client: classes asked for in place of a tensor, several at once."""
    found: list[Any] = []
    for kind in KINDS:
        with Client(kind, server) as client:
            inputs = [client.tensor("INPUT0", np.repeat(A, 3, 0)),
                      client.tensor("INPUT1", np.repeat(B, 3, 0))]  # fmt: skip
            wanted = [client.wanted("OUTPUT0", class_count=3)]
            found += client.infer("simple", inputs, "OUTPUT0", outputs=wanted)
    return found


def generated(server: Server) -> Any:
    """The generate extension, which has no client: one answer, or a stream of events."""

    def post(target: str, document: object) -> tuple[int, str | None, bytes]:
        request = urllib.request.Request(
            f"http://{server.http}/v2/models/{target}", json.dumps(document).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    many_values = {"IN": [1, 2, 3], "DELAY": [10, 10, 10], "WAIT": [0]}
    return [
        post("repeat_int32/generate_stream", many_values),
        post("repeat_int32/versions/1/generate_stream", many_values),
        post("repeat_int32/generate", many_values),
        post("identity/generate", {"INPUT0": [4], "id": "mine"}),
        post("identity/generate", {"NOTHING": 4}),
        post("nobody/generate_stream", many_values),
    ]


def heads(server: Server) -> Any:
    """All of an answer's head, of balanced and of composed calls, with codings asked for or not."""
    infer = {"inputs": [
        {"name": name, "shape": [1, 16], "datatype": "INT32", "data": data.tolist()[0]}
        for name, data in (("INPUT0", A), ("INPUT1", B))
    ]}  # fmt: skip
    binary = {**infer, "parameters": {"binary_data_output": True}}
    found: list[Any] = []
    host, _, port = server.http.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    for method, target, document in (
        ("GET", "/v2/health/ready", None), ("GET", "/v2", None), ("GET", "/v2/models/simple", None),
        ("GET", "/v2/models/simple/ready", None), ("GET", "/v2/models/nobody/ready", None),
        ("GET", "/v2/models/simple/config", None), ("POST", "/v2/models/simple/infer", infer),
        ("POST", "/v2/models/simple/infer", binary), ("POST", "/v2/models/nobody/infer", infer),
        ("POST", "/v2/models/simple/infer", {}), ("POST", "/v2/repository/index", {"ready": True}),
        ("POST", "/v2/models/simple_sequence/infer", infer), ("GET", "/v2/logging", None),
        ("POST", "/v2/logging", {"log_verbose_level": 0}), ("GET", "/nothing", None),
        ("POST", "/v2/repository/models/nobody/load", {}),
        ("GET", "/v2/systemsharedmemory/status", None), ("HEAD", "/v2/models/simple", None),
        ("DELETE", "/v2/models/simple", None), ("PUT", "/v2/health/live", None),
    ):  # fmt: skip
        plain = json.dumps(document).encode() if document is not None else b""
        for coding in ("", "gzip", "deflate", "br"):
            headers, body = {"Accept-Encoding": coding or "identity"}, plain
            if coding and target.endswith("/infer"):  # Triton opens no other; the gateway does
                headers["Content-Encoding"] = coding
                body = CODINGS[coding](plain)
            connection.request(method, target, body if document is not None else None, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.headers.get("Content-Encoding") == "gzip":
                said = gzip.decompress(said)
            elif answer.headers.get("Content-Encoding") == "deflate":
                said = zlib.decompress(said)
            kept = {name: value for name, value in answer.headers.items()
                    if name != "Content-Length"}  # fmt: skip
            if b"log_file" in said:
                said = b""
            found.append((method, target, coding, answer.status, answer.reason, kept, said))
    connection.close()
    return found


ONE = (
    heads, async_http, async_grpc, keepalive, channel_arguments, explicit_contents, stream_sequences,
    stream_sequences_aio, repeated, stream_errors, too_late, plugins, classification, generated,
)  # fmt: skip


@pytest.mark.parametrize("program", ONE, ids=lambda program: program.__name__)
def test_a_program_is_told_the_same(
    servers: tuple[Server, Server], program: Callable[[Server], Any]
) -> None:
    same(servers, program)
