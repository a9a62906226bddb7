"""
What every endpoint and RPC of Triton's means in front of three slices: all of them up, then one
disabled, then one dead.

The table is gateway.triton.api; the last test says what of it is not judged here.
"""

import json
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.api import ENDPOINTS, RPCS, SERVICE
from tests.e2e.stack import REPOSITORY, wait_until
from tests.e2e.three import PHASES, GrpcSaid, HttpSaid, Phase, Three, ask_grpc, ask_http, enter
from tests.support.tensors import tensor
from tests.support.tritons import RealTriton

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

REPOSITORIES = [REPOSITORY / "configs" / "models", REPOSITORY / "tests" / "models"]
LOADED = ["identity", "repeat", "sequence"]
JUDGED: set[str] = set()
OK = grpc.StatusCode.OK
SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
Test = TypeVar("Test", bound=Callable[..., None])


def judges(*calls: str) -> Callable[[Test], Test]:
    """Note that the test judges these: `GET /v2`, or the name of an RPC."""
    JUDGED.update(calls)
    return lambda test: test


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    made = Three(tmp_path_factory.mktemp("three"), REPOSITORIES, LOADED)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module", params=PHASES)
def phase(request: pytest.FixtureRequest, three: Three) -> Iterator[Phase]:
    """pytest runs all tests of one phase before it goes on to the next."""
    yield enter(three, request.param)
    three.repair()


@pytest.fixture(autouse=True)
def clean(three: Three) -> Iterator[None]:
    """Leave no model, region or setting behind, on slices in service; the others are told later."""
    yield
    for target, body in (
        ("/v2/repository/models/slow/unload", None),
        (f"{SYSTEM}/unregister", None),
        ("/v2/logging", {"log_verbose_level": 0}),
        ("/v2/trace/setting", {"trace_rate": None}),
    ):
        assert ask_http(three.address, "POST", target, body).status == 200
    for name, state in three.states().items():
        if state == "ready":
            wait_until(lambda name=name: not is_busy(three.tritons[name], "slow"), "it is unloaded")


def is_busy(triton: RealTriton, model: str) -> bool:
    """Say whether the model is loaded, or on its way there or back."""
    index = ask_http(triton.spec.http, "POST", "/v2/repository/index").document
    found = {entry.get("state") for entry in index if entry["name"] == model}
    return bool(found & {"READY", "LOADING", "UNLOADING"})


# --- answered by the gateway ------------------------------------------------------------------


@judges("GET /v2/health/live", "ServerLive")
def test_the_server_is_live(phase: Phase) -> None:
    assert phase.http("GET", "/v2/health/live") == HttpSaid(200, "text/plain", b"")
    assert phase.grpc("ServerLive", pb.ServerLiveRequest()).message.live


@judges("GET /v2/health/ready", "ServerReady", "/grpc.health.v1.Health/Check")
def test_the_server_is_ready(phase: Phase) -> None:
    assert phase.http("GET", "/v2/health/ready") == HttpSaid(200, "text/plain", b"")
    assert phase.grpc("ServerReady", pb.ServerReadyRequest()).message.ready
    with grpc.insecure_channel(phase.three.address) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"  # SERVING


@judges("GET /v2/models/{m}[/versions/{v}]/ready", "ModelReady")
def test_a_model_is_ready_where_any_slice_in_service_has_it(phase: Phase) -> None:
    for target, status in (
        ("identity/ready", 200), ("identity/versions/1/ready", 200),
        ("identity/versions/2/ready", 400), ("nobody/ready", 400),
    ):  # fmt: skip
        said = phase.http("GET", f"/v2/models/{target}")
        assert said.status == status, target
        assert said == phase.of_each("GET", f"/v2/models/{target}")[0]
    for name, version, ready in (
        ("identity", "", True), ("identity", "1", True), ("identity", "2", False),
        ("nobody", "", False),
    ):  # fmt: skip
        asked = pb.ModelReadyRequest(name=name, version=version)
        assert phase.grpc("ModelReady", asked).message.ready is ready


# --- any slice, or all that can say -----------------------------------------------------------


@judges("GET /v2", "ServerMetadata")
def test_the_server_describes_itself_as_one_triton(phase: Phase) -> None:
    assert phase.http("GET", "/v2") == phase.of_each("GET", "/v2")[0]
    asked = pb.ServerMetadataRequest()
    assert phase.grpc("ServerMetadata", asked) == ask_grpc(
        phase.serving[0].spec.grpc, "ServerMetadata", asked
    )


@judges("GET /v2/models/{m}[/versions/{v}]", "GET /v2/models/{m}[/versions/{v}]/config")
@pytest.mark.parametrize("what", ["", "/config"])
def test_a_model_is_described_by_a_slice_that_has_it(phase: Phase, what: str) -> None:
    for model in ("identity", "identity/versions/1", "identity/versions/9", "nobody"):
        target = f"/v2/models/{model}{what}"
        for _ in range(3):  # whichever slice is asked
            assert phase.http("GET", target) == phase.of_each("GET", target)[0]


@judges("ModelMetadata", "ModelConfig")
@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig"])
def test_a_model_is_described_over_grpc(phase: Phase, rpc: str) -> None:
    for name, version in (("identity", ""), ("identity", "1"), ("identity", "9"), ("nobody", "")):
        asked = getattr(pb, f"{rpc}Request")(name=name, version=version)
        expected = ask_grpc(phase.serving[0].spec.grpc, rpc, asked)
        for _ in range(3):
            assert phase.grpc(rpc, asked) == expected


# --- balanced -----------------------------------------------------------------------------------


def counted(tritons: list[RealTriton], model: str) -> Counter[str]:
    """Return how many inferences of `model` each Triton has counted."""
    found: Counter[str] = Counter()
    for triton in tritons:
        said = ask_http(triton.spec.http, "GET", f"/v2/models/{model}/stats")
        stats = said.document["model_stats"][0]["inference_stats"]
        found[triton.spec.name] = stats["success"]["count"]
    return found


def infer_http(phase: Phase) -> None:
    body = {"inputs": [{"name": "INPUT0", "shape": [2], "datatype": "UINT8", "data": [3, 4]}]}
    said = phase.http("POST", "/v2/models/identity/infer", body)
    assert said.document["outputs"][0]["data"] == [3, 4]
    said = phase.http("POST", "/v2/models/identity/versions/1/infer", body)
    assert said.document["outputs"][0]["data"] == [3, 4]


def infer_grpc(phase: Phase) -> None:
    asked = pb.ModelInferRequest(model_name="identity", raw_input_contents=[b"ab"])
    asked.inputs.add(name="INPUT0", datatype="UINT8", shape=[2])
    for version in ("", "1"):
        asked.model_version = version
        assert phase.grpc("ModelInfer", asked).message.raw_output_contents == [b"ab"]


def infer_stream(phase: Phase) -> None:
    asked = pb.ModelInferRequest(model_name="identity", raw_input_contents=[b"ab"])
    asked.inputs.add(name="INPUT0", datatype="UINT8", shape=[2])
    with grpc.insecure_channel(
        phase.three.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stream = channel.stream_stream(
            SERVICE.decode() + "ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        said = list(stream(iter([asked, asked])))
    assert [each.infer_response.raw_output_contents for each in said] == [[b"ab"]] * 2


@judges(
    "POST /v2/models/{m}[/versions/{v}]/infer", "ModelInfer", "ModelStreamInfer",
)  # fmt: skip
@pytest.mark.parametrize("infer", [infer_http, infer_grpc, infer_stream])
def test_inferences_go_to_every_slice_in_service_and_to_no_other(
    phase: Phase, infer: Callable[[Phase], None]
) -> None:
    watched = [*phase.serving, *([phase.bystander] if phase.bystander else [])]
    before = counted(watched, "identity")
    for _ in range(9):
        infer(phase)

    def all_counted() -> Counter[str] | None:
        more = counted(watched, "identity") - before
        return more if more.total() == 18 else None

    more = wait_until(all_counted, "Triton counts an inference shortly after its answer")
    assert set(more) == {triton.spec.name for triton in phase.serving}


@judges(
    "POST /v2/models/{m}[/versions/{v}]/generate",
    "POST /v2/models/{m}[/versions/{v}]/generate_stream",
)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_generation_is_one_answer_or_a_stream_of_events(phase: Phase, version: str) -> None:
    many = {"IN": [7, 8, 9], "DELAY": [0, 0, 0]}
    for _ in range(3):
        said = phase.http("POST", f"/v2/models/repeat{version}/generate_stream", many)
        assert (said.status, said.kind) == (200, "text/event-stream; charset=utf-8")
        events = [json.loads(line[6:]) for line in said.body.split(b"\n\n") if line]
        assert [(event["OUT"], event["IDX"]) for event in events] == [(7, 0), (8, 1), (9, 2)]
        said = phase.http("POST", f"/v2/models/identity{version}/generate", {"INPUT0": [1]})
        assert said.document["OUTPUT0"] == 1


def test_a_model_is_used_where_it_is_ready_and_only_there(phase: Phase) -> None:
    """Loaded behind the gateway's back, on one slice: the checks find it."""
    has = phase.serving[-1]
    assert ask_http(has.spec.http, "POST", "/v2/repository/models/slow/load").status == 200
    wait_until(lambda: phase.http("GET", "/v2/models/slow/ready").status == 200, "it is seen")
    data = tensor(grpc_client, np.zeros(3, np.uint8))
    with grpc_client.InferenceServerClient(phase.three.address) as client:
        for _ in range(6):
            client.infer("slow", [data])
    ask_http(has.spec.http, "POST", "/v2/repository/models/slow/unload")
    wait_until(lambda: phase.http("GET", "/v2/models/slow/ready").status == 400, "it is gone")
    body = {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": "UINT8", "data": [0]}]}
    said = phase.http("POST", "/v2/models/slow/infer", body)
    assert said.status == 404
    assert b"Request for unknown model: 'slow'" in said.body


def test_all_requests_of_a_sequence_reach_one_slice(phase: Phase) -> None:
    http = http_client.InferenceServerClient(phase.three.address)
    rpc = grpc_client.InferenceServerClient(phase.three.address)

    def send(module: Any, client: Any, sequence_id: Any, value: int, **marks: bool) -> int:
        data = tensor(module, np.array([value], np.int32), "INPUT", "INT32")
        said = client.infer("sequence", [data], sequence_id=sequence_id, **marks)
        return int(said.as_numpy("OUTPUT")[0])

    with http, rpc:
        for sequence_id in (11, 12, 13, 14):
            send(http_client, http, sequence_id, 1, sequence_start=True)
        for sequence_id in (11, 12, 13, 14):
            assert send(grpc_client, rpc, sequence_id, sequence_id) == 1 + sequence_id
        for sequence_id in (11, 12, 13, 14):
            total = send(http_client, http, sequence_id, 1, sequence_end=True)
            assert total == 2 + sequence_id


# --- asked of all, and merged ---------------------------------------------------------------------


def total(model: Any) -> tuple[int, int, int, int]:
    """Return what a client reads of a model's statistics, which must agree with itself."""
    stats = model["inference_stats"]
    counts = {stats[part]["count"] for part in ("compute_input", "compute_infer", "compute_output")}
    assert len(counts) == 1
    return (
        model["inference_count"], stats["success"]["count"], stats["queue"]["count"], counts.pop()
    )  # fmt: skip


@judges("GET /v2/models/{m}[/versions/{v}]/stats", "GET /v2/models/stats", "ModelStatistics")
def test_statistics_count_what_was_sent_and_never_fall(phase: Phase) -> None:
    def over_http(target: str) -> tuple[int, int, int, int]:
        models = phase.http("GET", target).document["model_stats"]
        return total(next(model for model in models if model["name"] == "identity"))

    def over_grpc(name: str, version: str = "") -> int:
        asked = pb.ModelStatisticsRequest(name=name, version=version)
        models = phase.grpc("ModelStatistics", asked).message.model_stats
        [model] = [model for model in models if model.name == "identity"]
        assert model.inference_count == model.inference_stats.queue.count
        return int(model.inference_count)

    ways: list[Callable[[], Any]] = [
        lambda: over_http("/v2/models/identity/stats")[0],
        lambda: over_http("/v2/models/identity/versions/1/stats")[0],
        lambda: over_http("/v2/models/stats")[0],
        lambda: over_grpc(""), lambda: over_grpc("identity"), lambda: over_grpc("identity", "1"),
    ]  # fmt: skip
    before = over_http("/v2/models/identity/stats")[0]
    for _ in range(5):
        infer_http(phase)
        infer_grpc(phase)
    for way in ways:
        wait_until(lambda way=way: way() == before + 20, "20 more are counted")
    said = phase.http("GET", "/v2/models/nobody/stats")
    assert said == phase.of_each("GET", "/v2/models/nobody/stats")[0]
    unknown = pb.ModelStatisticsRequest(name="nobody")
    assert phase.grpc("ModelStatistics", unknown) == ask_grpc(
        phase.serving[0].spec.grpc, "ModelStatistics", unknown
    )


@judges("POST /v2/repository[/{r}]/index", "RepositoryIndex")
def test_the_index_is_that_of_all_slices(phase: Phase) -> None:
    def index(triton: RealTriton, target: str, body: object) -> Any:
        return ask_http(triton.spec.http, "POST", target, body).document

    for target in ("/v2/repository/index", "/v2/repository/any/index"):
        for body in (None, {"ready": True}):
            said = phase.http("POST", target, body).document
            assert by_name(said) == by_name(index(phase.serving[0], target, body))
    merged = phase.grpc("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).message.models
    assert [model.name for model in merged] == LOADED
    named = pb.RepositoryIndexRequest(repository_name="x")
    assert phase.grpc("RepositoryIndex", named).code is grpc.StatusCode.UNIMPLEMENTED


def by_name(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(entries, key=lambda entry: (entry["name"], entry.get("version", "")))


def test_metrics_of_all_slices_are_one_page(phase: Phase) -> None:
    page = ask_http(phase.three.admin, "GET", "/metrics").body.decode()
    for triton in phase.serving:
        assert f'nv_inference_count{{slice="{triton.spec.name}",model="identity"' in page
    assert f'nv_inference_count{{slice="{phase.out}"' not in page


# --- carried out on all ---------------------------------------------------------------------------


@judges(
    "GET /v2/logging", "POST /v2/logging", "LogSettings",
)  # fmt: skip
@pytest.mark.parametrize("over", ["http", "grpc"])
def test_log_settings_are_made_on_every_slice(phase: Phase, over: str) -> None:
    for level in (0, 2):
        if over == "http":
            said = phase.http("POST", "/v2/logging", {"log_verbose_level": level})
            assert said.document["log_verbose_level"] == level
            assert phase.http("GET", "/v2/logging").document["log_verbose_level"] == level
        else:
            asked = pb.LogSettingsRequest()
            asked.settings["log_verbose_level"].uint32_param = level
            said = phase.grpc("LogSettings", asked)
            assert said.message.settings["log_verbose_level"].uint32_param == level
            assert phase.grpc("LogSettings", pb.LogSettingsRequest()) == said
        levels = [
            said.document["log_verbose_level"] for said in phase.of_each("GET", "/v2/logging")
        ]
        assert set(levels) == {level}


@judges(
    "GET /v2/trace/setting", "POST /v2/trace/setting", "TraceSetting",
    "GET /v2/models/{m}/trace/setting", "POST /v2/models/{m}/trace/setting",
)  # fmt: skip
@pytest.mark.parametrize("over", ["http", "grpc"])
@pytest.mark.parametrize("model", ["", "identity"])
def test_trace_settings_are_made_on_every_slice(phase: Phase, over: str, model: str) -> None:
    target = f"/v2/models/{model}/trace/setting" if model else "/v2/trace/setting"
    rate = "77" if over == "http" else "78"
    if over == "http":
        assert phase.http("POST", target, {"trace_rate": rate}).document["trace_rate"] == rate
        assert phase.http("GET", target).document["trace_rate"] == rate
    else:
        asked = pb.TraceSettingRequest(model_name=model)
        asked.settings["trace_rate"].value.append(rate)
        assert phase.grpc("TraceSetting", asked).message.settings["trace_rate"].value == [rate]
        said = phase.grpc("TraceSetting", pb.TraceSettingRequest(model_name=model))
        assert said.message.settings["trace_rate"].value == [rate]
    assert {said.document["trace_rate"] for said in phase.of_each("GET", target)} == {rate}
    assert phase.http("POST", target, {"trace_rate": None}).status == 200
    assert phase.http("GET", target).document["trace_rate"] == "1000"


@judges(
    "POST /v2/repository[/{r}]/models/{m}/load", "POST /v2/repository[/{r}]/models/{m}/unload",
    "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip
@pytest.mark.parametrize("over", ["http", "grpc"])
def test_models_are_loaded_and_unloaded_on_every_slice(phase: Phase, over: str) -> None:
    config = json.dumps({**SLOW, "parameters": {"made_by": {"string_value": over}}})
    target = "/v2/models/slow/config"
    untouched = phase.bystander and ask_http(phase.bystander.spec.http, "GET", target)
    if over == "http":
        with http_client.InferenceServerClient(phase.three.address) as client:
            client.load_model("slow", config=config)
    else:
        asked = pb.RepositoryModelLoadRequest(model_name="slow")
        asked.parameters["config"].string_param = config
        assert phase.grpc("RepositoryModelLoad", asked).code is OK

    def made_by(told: Any) -> bool:
        return bool(told["parameters"]["made_by"]["string_value"] == over)

    assert phase.http("GET", "/v2/models/slow/ready").status == 200, "known at once"
    assert all(made_by(said.document) for said in phase.of_each("GET", target))
    if phase.bystander:
        assert ask_http(phase.bystander.spec.http, "GET", target) == untouched
    if over == "http":
        assert phase.http("POST", "/v2/repository/models/slow/unload").status == 200
    else:
        gone = pb.RepositoryModelUnloadRequest(model_name="slow")
        assert phase.grpc("RepositoryModelUnload", gone).code is OK
    assert phase.http("GET", "/v2/models/slow/ready").status == 400, "known at once"
    assert {said.status for said in phase.of_each("GET", "/v2/models/slow/ready")} == {400}


_BYTES = {"data_type": "TYPE_UINT8", "dims": [-1]}
SLOW = {
    "name": "slow", "backend": "python", "input": [{"name": "INPUT0", **_BYTES}],
    "output": [{"name": "OUTPUT0", **_BYTES}],
}  # fmt: skip


def test_a_load_that_cannot_be_is_refused_as_by_one_triton(phase: Phase) -> None:
    http, rpc = phase.serving[0].spec.http, phase.serving[0].spec.grpc
    for target in ("/v2/repository/models/nobody/load", "/v2/repository/any/models/slow/load"):
        said = phase.http("POST", target)
        assert said.status != 200
        assert said == ask_http(http, "POST", target)
    asked = pb.RepositoryModelLoadRequest(model_name="nobody")
    said_grpc = phase.grpc("RepositoryModelLoad", asked)
    assert said_grpc == ask_grpc(rpc, "RepositoryModelLoad", asked)
    assert said_grpc.code is grpc.StatusCode.INTERNAL


# --- shared memory --------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[str]:
    """Return the key of a page of shared memory."""
    path = Path(f"/dev/shm/meaning_{os.getpid()}")
    path.write_bytes(bytes(range(256)) * (mmap.PAGESIZE // 256))
    yield f"/{path.name}"
    path.unlink(missing_ok=True)


def infer_from_region(phase: Phase) -> None:
    """Eight bytes of region `in`, by whichever slice is asked."""
    data = {"shared_memory_region": "in", "shared_memory_byte_size": 8}
    body = {"inputs": [
        {"name": "INPUT0", "shape": [8], "datatype": "UINT8", "parameters": data}
    ]}  # fmt: skip
    for _ in range(4):
        said = phase.http("POST", "/v2/models/identity/infer", body)
        assert said.document["outputs"][0]["data"] == list(range(8))


@judges(
    "POST /v2/systemsharedmemory/region/{r}/register",
    "GET /v2/systemsharedmemory[/region/{r}]/status",
    "POST /v2/systemsharedmemory[/region/{r}]/unregister",
)
@pytest.mark.parametrize("named", ["", "/region/in"])
def test_regions_are_known_to_every_slice(phase: Phase, memory: str, named: str) -> None:
    region = {"key": memory, "offset": 0, "byte_size": 64}
    register = f"{SYSTEM}/region/in/register"
    untouched = phase.bystander and ask_http(phase.bystander.spec.http, "GET", f"{SYSTEM}/status")
    assert phase.http("POST", register, region).status == 200
    again = phase.http("POST", register, region)
    assert again == ask_http(phase.serving[0].spec.http, "POST", register, region)
    assert again.status == 400
    expected = [{"name": "in", "key": memory, "offset": 0, "byte_size": 64}]
    for said in (
        phase.http("GET", f"{SYSTEM}{named}/status"),
        *phase.of_each("GET", f"{SYSTEM}/status"),
    ):
        assert said.document == expected
    infer_from_region(phase)
    if phase.bystander:
        assert ask_http(phase.bystander.spec.http, "GET", f"{SYSTEM}/status") == untouched
    assert phase.http("POST", f"{SYSTEM}{named}/unregister").status == 200
    assert phase.http("GET", f"{SYSTEM}/status").document == []
    assert [said.document for said in phase.of_each("GET", f"{SYSTEM}/status")] == [[], []] + (
        [] if phase.out else [[]]
    )
    missing = phase.http("GET", f"{SYSTEM}/region/in/status")
    assert missing == phase.of_each("GET", f"{SYSTEM}/region/in/status")[0]
    assert phase.http("POST", f"{SYSTEM}/region/in/unregister").status == 200, "as Triton has it"


@judges(
    "SystemSharedMemoryRegister", "SystemSharedMemoryStatus", "SystemSharedMemoryUnregister",
)  # fmt: skip
@pytest.mark.parametrize("name", ["", "in"])
def test_regions_are_known_to_every_slice_over_grpc(phase: Phase, memory: str, name: str) -> None:
    asked = pb.SystemSharedMemoryRegisterRequest(name="in", key=memory, byte_size=64)
    assert phase.grpc("SystemSharedMemoryRegister", asked).code is OK
    again = phase.grpc("SystemSharedMemoryRegister", asked)
    assert again == ask_grpc(phase.serving[0].spec.grpc, "SystemSharedMemoryRegister", asked)
    assert again.code is grpc.StatusCode.ALREADY_EXISTS
    status = pb.SystemSharedMemoryStatusRequest(name=name)
    regions = phase.grpc("SystemSharedMemoryStatus", status).message.regions
    assert {key: region.byte_size for key, region in regions.items()} == {"in": 64}
    infer_from_region(phase)
    gone = pb.SystemSharedMemoryUnregisterRequest(name=name)
    assert phase.grpc("SystemSharedMemoryUnregister", gone).code is OK
    assert [said.document for said in phase.of_each("GET", f"{SYSTEM}/status")] == [
        [] for _ in phase.serving
    ]
    missing = pb.SystemSharedMemoryStatusRequest(name="in")
    assert phase.grpc("SystemSharedMemoryStatus", missing).code is grpc.StatusCode.NOT_FOUND


def test_a_region_that_one_slice_refuses_is_registered_nowhere(phase: Phase, memory: str) -> None:
    """The client is told which slice, what it said, and that the others have taken it back."""
    refuses = phase.serving[0].spec
    region = {"key": memory, "offset": 0, "byte_size": 64}
    target = f"{SYSTEM}/region/in/register"
    assert ask_http(refuses.http, "POST", target, region).status == 200
    said = phase.http("POST", target, region)
    assert said.status == 400
    assert f"failed on {refuses.name}: " in said.document["error"]
    assert "already in manager" in said.document["error"]
    assert "undone there" in said.document["error"]
    asked = pb.SystemSharedMemoryRegisterRequest(name="in", key=memory, byte_size=64)
    over_grpc = phase.grpc("SystemSharedMemoryRegister", asked)
    assert over_grpc.code is grpc.StatusCode.ALREADY_EXISTS
    assert f"failed on {refuses.name}: " in over_grpc.details
    for said in phase.of_each("GET", f"{SYSTEM}/status")[1:]:
        assert said.document == []
    assert phase.http("POST", f"{SYSTEM}/unregister").status == 200
    assert phase.of_each("GET", f"{SYSTEM}/status")[0].document == []


@judges(
    "POST /v2/cudasharedmemory/region/{r}/register",
    "GET /v2/cudasharedmemory[/region/{r}]/status",
    "POST /v2/cudasharedmemory[/region/{r}]/unregister",
    "CudaSharedMemoryRegister", "CudaSharedMemoryStatus", "CudaSharedMemoryUnregister",
)  # fmt: skip
def test_cuda_regions_are_answered_as_by_one_triton(phase: Phase) -> None:
    """Where there is no GPU Triton refuses them, and the client reads that."""
    http, rpc = phase.serving[0].spec.http, phase.serving[0].spec.grpc
    handle = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 64}
    for method, target, body in (
        ("POST", f"{CUDA}/region/r/register", handle), ("GET", f"{CUDA}/status", None),
        ("GET", f"{CUDA}/region/r/status", None), ("POST", f"{CUDA}/region/r/unregister", None),
        ("POST", f"{CUDA}/unregister", None),
    ):  # fmt: skip
        assert phase.http(method, target, body) == ask_http(http, method, target, body)
    for name, asked in (
        ("Register", pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"x", byte_size=1)),
        ("Status", pb.CudaSharedMemoryStatusRequest()),
        ("Status", pb.CudaSharedMemoryStatusRequest(name="r")),
        ("Unregister", pb.CudaSharedMemoryUnregisterRequest()),
    ):
        said = phase.grpc(f"CudaSharedMemory{name}", asked)
        assert said == ask_grpc(rpc, f"CudaSharedMemory{name}", asked)


def test_a_slice_that_returns_has_been_given_what_it_missed(phase: Phase, memory: str) -> None:
    """Before it takes traffic; and what is taken back later is taken back there as well."""
    if not phase.out:
        phase.three.kill("s0")
    config = json.dumps({**SLOW, "parameters": {"made_by": {"string_value": "me"}}})
    for target, body in (
        ("/v2/repository/models/slow/load", {"parameters": {"config": config}}),
        ("/v2/repository/models/repeat/unload", None),
        (f"{SYSTEM}/region/in/register", {"key": memory, "byte_size": 64}),
        ("/v2/logging", {"log_verbose_level": 2}),
        ("/v2/trace/setting", {"trace_rate": "77"}),
    ):
        assert phase.http("POST", target, body).status == 200, target
    phase.three.repair()
    back = phase.three.tritons[phase.out or "s0"].spec.http

    def told(target: str) -> Any:
        return ask_http(back, "GET", target).document

    assert told("/v2/models/slow/config")["parameters"]["made_by"]["string_value"] == "me"
    assert ask_http(back, "GET", "/v2/models/repeat/ready").status == 400
    assert [region["name"] for region in told(f"{SYSTEM}/status")] == ["in"]
    assert told("/v2/logging")["log_verbose_level"] == 2
    assert told("/v2/trace/setting")["trace_rate"] == "77"
    assert phase.http("POST", "/v2/repository/models/repeat/load").status == 200
    if phase.out:
        (phase.three.kill if phase.dead else phase.three.disable)(phase.out)


# --- what Triton has not ----------------------------------------------------------------------------


def test_what_triton_does_not_have_is_refused_as_triton_does(phase: Phase) -> None:
    http, rpc = phase.serving[0].spec.http, phase.serving[0].spec.grpc
    for method, target in (
        ("GET", "/nothing"), ("GET", "/v2/"), ("GET", "/v2/models"), ("POST", "/v2"),
        ("POST", "/v2/health/live"), ("GET", "/v2/repository/index"),
        ("GET", "/v2/models/identity/versions/x/ready"), ("GET", "/v2/models/identity/infer"),
    ):  # fmt: skip
        said = phase.http(method, target)
        assert said == ask_http(http, method, target), target
    for path in (
        "/grpc.health.v1.Health/Watch", "/inference.GRPCInferenceService/Nothing",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ):  # fmt: skip
        assert unknown(phase.three.address, path) == unknown(str(rpc), path), path


def unknown(address: str, path: str) -> GrpcSaid:
    with grpc.insecure_channel(address) as channel:
        try:
            return GrpcSaid(OK, "", list(channel.stream_stream(path)(iter([b""]), timeout=30)))
        except grpc.RpcError as error:
            return GrpcSaid(error.code(), error.details(), None)


def test_everything_that_triton_has_is_judged_here() -> None:
    endpoints = {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}
    rpcs = {rpc.path.removeprefix(SERVICE).decode() for rpc in RPCS}
    assert endpoints | rpcs == JUDGED
