"""The composer in front of two real Tritons says what one real Triton says."""

import asyncio
import json
import mmap
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.api import SERVICE
from gateway.triton.calls import HttpAnswer
from tests.gateway.control.scripted import until
from tests.gateway.triton.real import REPOSITORY, RealFleet
from tests.support.tritons import RealTriton

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]

JOIN_S = 60.0


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealTriton]]:
    """Slices `a` and `b`, and `alone`, which says what one Triton says."""
    folder = tmp_path_factory.mktemp("tritons")
    ensemble = folder / "extra" / "chain"
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(CHAIN)
    repositories = [REPOSITORY / "configs" / "models", REPOSITORY / "tests" / "models",
                    folder / "extra"]  # fmt: skip
    started = {name: RealTriton(name, folder, repositories) for name in ("a", "b", "alone")}
    for triton in started.values():
        triton.start()
    try:
        yield started
    finally:
        for triton in started.values():
            triton.kill()


CHAIN = """
platform: "ensemble"
max_batch_size: 0
input [{ name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }]
ensemble_scheduling { step [{
  model_name: "sequence" model_version: -1
  input_map { key: "INPUT" value: "INPUT" }
  output_map { key: "OUTPUT" value: "OUTPUT" }
}] }
"""


@pytest_asyncio.fixture
async def fleet(tritons: dict[str, RealTriton], tmp_path: Path) -> AsyncIterator[RealFleet]:
    """Both slices up, with nothing loaded or registered."""
    for triton in tritons.values():
        if not triton.is_running:
            triton.start()
        await asyncio.to_thread(triton.wait_live)
        await clean(triton)
    one = RealFleet([tritons["a"], tritons["b"]], tmp_path / "journal.json")
    await one.start()
    await until(lambda: one["a"].routable and one["b"].routable, JOIN_S)
    yield one
    await one.stop()


async def ask(triton: RealTriton, method: str, target: str, body: bytes = b"") -> HttpAnswer:
    async with aiohttp.ClientSession(auto_decompress=False) as session, session.request(
        method, f"http://{triton.spec.http}{target}", data=body or None,
        skip_auto_headers=("Accept-Encoding", "Content-Type"),
    ) as answer:  # fmt: skip
        kind = answer.headers.get("Content-Type", "").encode()
        return HttpAnswer(answer.status, [(b"Content-Type", kind)], await answer.read())


async def clean(triton: RealTriton) -> None:
    await ask(triton, "POST", "/v2/systemsharedmemory/unregister")
    await ask(triton, "POST", "/v2/logging", b'{"log_warning":true,"log_verbose_level":0}')
    await ask(triton, "POST", "/v2/trace/setting", b'{"trace_rate":null,"trace_count":null}')
    index = json.loads((await ask(triton, "POST", "/v2/repository/index")).body)
    for entry in index:
        if entry.get("state") == "READY":
            await ask(triton, "POST", f"/v2/repository/models/{entry['name']}/unload")


async def infer(triton: RealTriton, times: int) -> None:
    """Send requests to `identity` on one server."""
    async with triton_grpc.InferenceServerClient(str(triton.spec.grpc)) as client:
        data = np.ones(4, np.uint8)
        tensor = triton_grpc.InferInput("INPUT0", list(data.shape), "UINT8")
        tensor.set_data_from_numpy(data)
        for _ in range(times):
            await client.infer("identity", [tensor])


class SharedMemory:
    """A named block of memory that servers on this machine can open."""

    def __init__(self, name: str = "") -> None:
        self.key = f"/composer_test_{os.getpid()}{name}"
        self._path = Path("/dev/shm") / self.key.lstrip("/")
        self._path.write_bytes(bytes(mmap.PAGESIZE))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    block = SharedMemory()
    yield block
    block.remove()


def http_calls(key: str) -> list[tuple[str, str, bytes]]:
    region = json.dumps({"key": key, "offset": 0, "byte_size": 64}).encode()
    too_large = json.dumps({"key": key, "offset": 0, "byte_size": 2**30}).encode()
    gone = json.dumps({"key": "/no_such_key", "offset": 0, "byte_size": 64}).encode()
    system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
    return [
        ("GET", "/v2", b""),
        ("POST", "/v2/repository/index", b'{"ready":true}'),
        ("POST", "/v2/repository/index", b"{bad"),
        ("POST", "/v2/repository/models/nope/load", b""),
        ("POST", "/v2/repository/any/models/identity/load", b""),
        ("POST", "/v2/repository/models/identity/load", b"{bad"),
        ("POST", "/v2/repository/models/nope/unload", b""),
        ("GET", "/v2/models/identity/ready", b""),
        ("POST", "/v2/repository/models/identity/load", b""),
        ("GET", "/v2/models/identity/ready", b""),
        ("GET", "/v2/models/identity/versions/1/ready", b""),
        ("GET", "/v2/models/identity/versions/2/ready", b""),
        ("GET", "/v2/models/identity/versions/99999999999999999999/ready", b""),
        ("GET", "/v2/models/nope/ready", b""),
        ("POST", "/v2/repository/index", b'{"ready":true}'),
        ("POST", "/v2/repository/any/index", b'{"ready":true}'),
        ("GET", "/v2/models/nope/stats", b""),
        ("GET", "/v2/models/identity/versions/3/stats", b""),
        ("GET", f"{system}/status", b""),
        ("GET", f"{system}/region/r/status", b""),
        ("POST", f"{system}/region/r/register", gone),
        ("POST", f"{system}/region/r/register", too_large),
        ("POST", f"{system}/region/r/register", b'{"key":"/x"}'),
        ("POST", f"{system}/region/r/register", region),
        ("POST", f"{system}/region/r/register", region),
        ("GET", f"{system}/status", b""),
        ("GET", f"{system}/region/r/status", b""),
        ("POST", f"{system}/region/r/unregister", b""),
        ("POST", f"{system}/region/r/unregister", b""),
        ("POST", f"{system}/unregister", b""),
        ("GET", f"{cuda}/status", b""),
        ("GET", f"{cuda}/region/r/status", b""),
        ("POST", f"{cuda}/region/r/register", b'{"raw_handle":{"b64":"AAAA"}}'),
        ("POST", f"{cuda}/region/r/unregister", b""),
        ("POST", f"{cuda}/unregister", b""),
        ("POST", "/v2/trace/setting", b'{"trace_rate":"5","trace_count":"7"}'),
        ("POST", "/v2/models/identity/trace/setting", b'{"trace_rate":"3"}'),
        ("POST", "/v2/models/nope/trace/setting", b'{"trace_rate":"3"}'),
        ("POST", "/v2/trace/setting", b'{"trace_rate":null,"trace_count":null}'),
        ("POST", "/v2/trace/setting", b'{"trace_rate":"x"}'),
        ("POST", "/v2/trace/setting", b""),
        ("POST", "/v2/logging", b'{"log_verbose_level":1}'),
        ("POST", "/v2/logging", b'{"log_verbose_level":0}'),
        ("POST", "/v2/logging", b'{"log_file":"x"}'),
        ("POST", "/v2/repository/models/identity/unload", b""),
        ("GET", "/v2/models/identity/ready", b""),
    ]  # fmt: skip


async def test_http_answers_are_those_of_one_triton(
    fleet: RealFleet, tritons: dict[str, RealTriton], memory: SharedMemory
) -> None:
    for method, target, body in http_calls(memory.key):
        expected = await ask(tritons["alone"], method, target, body)
        assert await fleet.composer.http(method, target, [], body) == expected, (target, body)


def grpc_calls(key: str) -> list[tuple[str, Any]]:
    setting = pb.TraceSettingRequest()
    setting.settings["trace_rate"].value.append("5")
    back = pb.TraceSettingRequest()
    back.settings["trace_rate"].SetInParent()
    unknown = pb.TraceSettingRequest(model_name="nope")
    unknown.settings["trace_rate"].value.append("5")
    log = pb.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 0
    overridden = pb.RepositoryModelLoadRequest(model_name="identity")
    overridden.parameters["config"].string_param = "{bad"
    register = pb.SystemSharedMemoryRegisterRequest(name="r", key=key, byte_size=64)
    return [
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x")),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nope")),
        ("RepositoryModelLoad", overridden),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="identity")),
        ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
        ("ModelReady", pb.ModelReadyRequest(name="identity")),
        ("ModelReady", pb.ModelReadyRequest(name="identity", version="1")),
        *(("ModelReady", pb.ModelReadyRequest(name="identity", version=version))
          for version in ("2", "abc", "-3", "0", "1x", "99999999999999999999")),
        ("ModelReady", pb.ModelReadyRequest(name="nope")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="nope")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="identity", version="3")),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="r")),
        ("SystemSharedMemoryRegister", register),
        ("SystemSharedMemoryRegister", register),
        ("SystemSharedMemoryRegister",
         pb.SystemSharedMemoryRegisterRequest(name="s", key="/no_such_key", byte_size=1)),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="r")),
        ("CudaSharedMemoryRegister",
         pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"x", byte_size=1)),
        ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()),
        ("TraceSetting", pb.TraceSettingRequest()),
        ("TraceSetting", setting),
        ("TraceSetting", back),
        ("TraceSetting", unknown),
        ("LogSettings", pb.LogSettingsRequest()),
        ("LogSettings", log),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="identity")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nope")),
        ("ModelReady", pb.ModelReadyRequest(name="identity")),
    ]  # fmt: skip


async def test_grpc_answers_are_those_of_one_triton(
    fleet: RealFleet, tritons: dict[str, RealTriton], memory: SharedMemory
) -> None:
    async with grpc.aio.insecure_channel(str(tritons["alone"].spec.grpc)) as channel:
        for rpc, request in grpc_calls(memory.key):
            path, message = SERVICE + rpc.encode(), request.SerializeToString()
            try:
                said = await channel.unary_unary(path.decode())(message)
                expected = (0, "", getattr(pb, f"{rpc}Response").FromString(said))
            except grpc.aio.AioRpcError as error:
                expected = (error.code().value[0], error.details(), None)
            told = await fleet.composer.grpc(path, [], message, 30.0)
            read = None if told.status else getattr(pb, f"{rpc}Response").FromString(told.message)
            assert (told.status, told.details, read) == expected, (rpc, request)


async def statistics(fleet: RealFleet) -> dict[str, Any]:
    answer = await fleet.composer.http("GET", "/v2/models/identity/stats", [], b"")
    assert answer.status == 200, answer.body
    [model] = json.loads(answer.body)["model_stats"]
    return dict(model)


async def statistics_of(triton: RealTriton) -> dict[str, Any]:
    answer = await ask(triton, "GET", "/v2/models/identity/stats")
    [model] = json.loads(answer.body)["model_stats"]
    return dict(model)


async def until_counted(triton: RealTriton, count: int) -> None:
    async with asyncio.timeout(5.0):
        while (await statistics_of(triton))["inference_count"] < count:
            pass


async def counted(fleet: RealFleet, count: int) -> None:
    """Wait for the sum; Triton counts an inference shortly after it has answered it."""
    async with asyncio.timeout(5.0):
        while (found := (await statistics(fleet))["inference_count"]) != count:
            assert found < count


async def test_statistics_are_the_sum_of_both_protocols_and_slices(
    fleet: RealFleet, tritons: dict[str, RealTriton]
) -> None:
    """And have the shape of one Triton's, key by key."""
    for triton in (tritons["alone"], tritons["a"], tritons["b"]):
        await ask(triton, "POST", "/v2/repository/models/identity/load")
    await infer(tritons["a"], 3)
    await infer(tritons["b"], 4)
    await infer(tritons["alone"], 7)
    await counted(fleet, 7)
    await until_counted(tritons["alone"], 7)
    ours = await statistics(fleet)
    alone = await statistics_of(tritons["alone"])

    def shape(value: Any) -> Any:
        """Return counts and keys in order, without times."""
        if isinstance(value, dict):
            return [
                (key, shape(part)) for key, part in value.items()
                if key not in ("ns", "last_inference")
            ]  # fmt: skip
        return [shape(part) for part in value] if isinstance(value, list) else value

    assert shape(ours) == shape(alone)
    one_by_one = [await statistics_of(tritons[name]) for name in "ab"]
    for part in ("queue", "compute_infer", "success"):
        assert ours["inference_stats"][part]["ns"] == sum(
            one["inference_stats"][part]["ns"] for one in one_by_one
        )
    message = pb.ModelStatisticsRequest(name="identity").SerializeToString()
    told = await fleet.composer.grpc(SERVICE + b"ModelStatistics", [], message, None)
    [over_grpc] = pb.ModelStatisticsResponse.FromString(told.message).model_stats
    assert over_grpc.inference_stats.queue.count == 7
    assert over_grpc.inference_stats.queue.ns == ours["inference_stats"]["queue"]["ns"]


async def test_a_killed_slice_returns_with_all_that_clients_have_made(
    fleet: RealFleet, tritons: dict[str, RealTriton], memory: SharedMemory
) -> None:
    composer = fleet.composer
    tensor = {"data_type": "TYPE_UINT8", "dims": [-1]}
    override = {
        "name": "identity",
        "backend": "python",
        "input": [{"name": "INPUT0", **tensor}],
        "output": [{"name": "OUTPUT0", **tensor}],
        "parameters": {"made_by": {"string_value": "a client"}},
    }
    body = json.dumps({"parameters": {"config": json.dumps(override)}}).encode()
    region = json.dumps({"key": memory.key, "byte_size": 64}).encode()
    for target, content in (
        ("/v2/repository/models/identity/load", body),
        ("/v2/systemsharedmemory/region/r/register", region),
        ("/v2/logging", b'{"log_warning":false}'),
        ("/v2/trace/setting", b'{"trace_rate":"77"}'),
    ):
        answer = await composer.http("POST", target, [], content)
        assert answer.status == 200, (target, answer.body)
    await infer(tritons["a"], 2)
    await infer(tritons["b"], 3)
    await counted(fleet, 5)
    tritons["b"].kill()
    await until(lambda: not fleet["b"].routable)
    assert (await statistics(fleet))["inference_count"] == 5
    tritons["b"].start()
    await until(lambda: fleet["b"].routable, JOIN_S)

    async def on_b(method: str, target: str) -> Any:
        return json.loads((await ask(tritons["b"], method, target)).body)

    config = await on_b("GET", "/v2/models/identity/config")
    assert config["parameters"]["made_by"] == {"string_value": "a client"}
    assert (await on_b("GET", "/v2/systemsharedmemory/status"))[0]["name"] == "r"
    assert not (await on_b("GET", "/v2/logging"))["log_warning"]
    assert (await on_b("GET", "/v2/trace/setting"))["trace_rate"] == "77"
    assert (await statistics(fleet))["inference_count"] == 5
    await infer(tritons["b"], 1)
    await counted(fleet, 6)


async def test_a_poisonous_load_costs_one_slice(
    fleet: RealFleet, tritons: dict[str, RealTriton]
) -> None:
    """A file name above 255 characters ends Triton 2.51."""
    request = pb.RepositoryModelLoadRequest(model_name="poison")
    request.parameters["config"].string_param = json.dumps({"backend": "python"})
    request.parameters[f"file:{'x' * 300}"].bytes_param = b"x"
    path, message = SERVICE + b"RepositoryModelLoad", request.SerializeToString()
    told = await fleet.composer.grpc(path, [], message, 60.0)
    assert told.status == 14
    assert "the other slices were not asked" in told.details
    await until(lambda: not tritons["a"].is_running)
    assert tritons["b"].is_running
    tritons["a"].start()
    await until(lambda: fleet["a"].routable, JOIN_S)


async def test_which_models_need_sequences_is_known_when_they_are_ready(fleet: RealFleet) -> None:
    for model in ("identity", "sequence", "chain", "repeat"):
        target = f"/v2/repository/models/{model}/load"
        answer = await fleet.composer.http("POST", target, [], b"")
        assert answer.status == 200, (model, answer.body)
    facts = {model: fleet.composer.facts(model)
             for model in ("identity", "sequence", "chain", "repeat")}  # fmt: skip
    assert {model for model, fact in facts.items() if fact and fact.sequences} == {
        "sequence", "chain",
    }  # fmt: skip
    assert {model for model, fact in facts.items() if fact and fact.decoupled} == {"repeat"}
    assert facts["chain"] is not None
    assert facts["chain"].idle_us == 5_000_000


async def test_the_index_tells_where_a_model_is_not_ready(
    fleet: RealFleet, tritons: dict[str, RealTriton]
) -> None:
    await ask(tritons["a"], "POST", "/v2/repository/models/identity/load")
    answer = await fleet.composer.http("POST", "/v2/repository/index", [], b"")
    [entry] = [one for one in json.loads(answer.body) if one["name"] == "identity"]
    assert entry["state"] == "READY"
    assert "on b" in entry["reason"]


async def test_the_slices_metrics_can_be_read_as_one_page(
    fleet: RealFleet, tritons: dict[str, RealTriton]
) -> None:
    await fleet.composer.http("POST", "/v2/repository/models/identity/load", [], b"")
    page = await fleet.composer.slice_metrics()
    names = [family.name for family in text_string_to_metric_families(page)]
    assert len(names) == len(set(names))
    assert 'nv_inference_count{slice="a",model="identity",version="1"}' in page
    assert 'nv_inference_count{slice="b",model="identity",version="1"}' in page


async def test_many_changes_at_once_leave_all_slices_alike(
    fleet: RealFleet, tritons: dict[str, RealTriton]
) -> None:
    # A block each: 2.51 forgets to count who uses a key, and closes it for all with the first.
    blocks = [SharedMemory(f"_{number}") for number in range(8)]

    async def client(block: SharedMemory) -> None:
        body = json.dumps({"key": block.key, "byte_size": 64}).encode()
        target = f"/v2/systemsharedmemory/region{block.key}"
        for _ in range(5):
            answer = await fleet.composer.http("POST", f"{target}/register", [], body)
            assert answer.status == 200, answer.body
            answer = await fleet.composer.http("POST", f"{target}/unregister", [], b"")
            assert answer.status == 200, answer.body

    try:
        await asyncio.gather(*(client(block) for block in blocks))
    finally:
        for block in blocks:
            block.remove()
    for name in "ab":
        assert (await ask(tritons[name], "GET", "/v2/systemsharedmemory/status")).body == b"[]"
