"""The table of all endpoints and RPCs: complete, and the router and Triton's own list agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.relay import router
from gateway.triton.api import ENDPOINTS, RPCS, SERVICE, Meaning, Memory, Op, match_grpc, match_http

# What each call means in front of N slices, call by call, as it was specified.
HTTP = {
    "GET /v2/health/live": Meaning.GATEWAY,
    "GET /v2/health/ready": Meaning.GATEWAY,
    "GET /v2/models/m/ready": Meaning.GATEWAY,
    "GET /v2/models/m/versions/1/ready": Meaning.GATEWAY,
    "GET /v2": Meaning.AGGREGATED,
    "GET /v2/models/m": Meaning.ANY,
    "GET /v2/models/m/versions/1": Meaning.ANY,
    "GET /v2/models/m/config": Meaning.ANY,
    "GET /v2/models/m/versions/1/config": Meaning.ANY,
    "GET /v2/models/m/stats": Meaning.AGGREGATED,
    "GET /v2/models/m/versions/1/stats": Meaning.AGGREGATED,
    "GET /v2/models/stats": Meaning.AGGREGATED,
    "POST /v2/models/m/infer": Meaning.BALANCED,
    "POST /v2/models/m/versions/1/infer": Meaning.BALANCED,
    "POST /v2/models/m/generate": Meaning.BALANCED,
    "POST /v2/models/m/versions/1/generate": Meaning.BALANCED,
    "POST /v2/models/m/generate_stream": Meaning.BALANCED,
    "POST /v2/models/m/versions/1/generate_stream": Meaning.BALANCED,
    "POST /v2/repository/index": Meaning.AGGREGATED,
    "POST /v2/repository/r/index": Meaning.AGGREGATED,
    "POST /v2/repository/models/m/load": Meaning.BROADCAST,
    "POST /v2/repository/r/models/m/load": Meaning.BROADCAST,
    "POST /v2/repository/models/m/unload": Meaning.BROADCAST,
    "POST /v2/repository/r/models/m/unload": Meaning.BROADCAST,
    "GET /v2/systemsharedmemory/status": Meaning.AGGREGATED,
    "GET /v2/systemsharedmemory/region/r/status": Meaning.AGGREGATED,
    "POST /v2/systemsharedmemory/region/r/register": Meaning.BROADCAST,
    "POST /v2/systemsharedmemory/unregister": Meaning.BROADCAST,
    "POST /v2/systemsharedmemory/region/r/unregister": Meaning.BROADCAST,
    "GET /v2/cudasharedmemory/status": Meaning.AGGREGATED,
    "GET /v2/cudasharedmemory/region/r/status": Meaning.AGGREGATED,
    "POST /v2/cudasharedmemory/region/r/register": Meaning.BROADCAST,
    "POST /v2/cudasharedmemory/unregister": Meaning.BROADCAST,
    "POST /v2/cudasharedmemory/region/r/unregister": Meaning.BROADCAST,
    "GET /v2/trace/setting": Meaning.ANY,
    "GET /v2/models/m/trace/setting": Meaning.ANY,
    "POST /v2/trace/setting": Meaning.BROADCAST,
    "POST /v2/models/m/trace/setting": Meaning.BROADCAST,
    "GET /v2/logging": Meaning.ANY,
    "POST /v2/logging": Meaning.BROADCAST,
}

# What Triton answers 404 or 405 to: any slice may say so.
NOT_TRITONS = [
    "GET /", "GET /v2/", "GET /v2/models", "GET /v2/models/m/versions/x", "POST /v2",
    "GET /v2/models/m/versions/x/ready", "POST /v2/models/m/ready", "GET /v2/repository/index",
    "GET /v2/repository/models/m/load", "HEAD /v2", "POST /v2/systemsharedmemory/status",
    "GET /v2/systemsharedmemory/unregister", "POST /v2/systemsharedmemory/register",
    "POST /v2/models/stats", "DELETE /v2/logging", "POST /v2/models/m/versions/1/trace/setting",
    "GET /v2%2Fmodels/stats", "POST /v2/repository/a/b/index", "GET /v2/models/m/stats/",
]  # fmt: skip


@pytest.mark.parametrize("call", HTTP)
def test_an_endpoint_means_what_was_specified(call: str) -> None:
    method, path = call.split()
    for target in (path, f"{path}?query=1"):
        found = match_http(method, target)
        assert found is not None
        assert found.endpoint.meaning is HTTP[call]


def test_every_endpoint_of_the_table_is_tried() -> None:
    tried = {match.endpoint for call in HTTP if (match := match_http(*call.split()))}
    assert tried == set(ENDPOINTS)


@pytest.mark.parametrize("call", [*HTTP, *NOT_TRITONS])
def test_the_router_hands_exactly_the_composed_calls_over(call: str) -> None:
    method, path = call.split()
    found = match_http(method, path)
    composed = found is not None and found.endpoint.op is not None
    for target in (path, f"{path}?query=1"):
        route = router.http_route(method.encode(), target.encode())
        assert route.composed is composed


WORDS = ["", "v2", "models", "m", "versions", "1", "x", "ready", "stats", "trace", "setting",
         "logging", "repository", "index", "load", "unload", "region", "status", "register",
         "unregister", "systemsharedmemory", "cudasharedmemory", "infer"]  # fmt: skip


@given(st.sampled_from(["GET", "POST", "PUT"]), st.lists(st.sampled_from(WORDS), max_size=7))
def test_router_and_table_agree_on_every_path_of_their_words(method: str, words: list[str]) -> None:
    for path in ("/" + "/".join(words), "/v2/" + "/".join(words)):
        found = match_http(method, path)
        composed = found is not None and found.endpoint.op is not None
        route = router.http_route(method.encode(), path.encode())
        assert route.composed is composed, path


@pytest.mark.parametrize("call", NOT_TRITONS)
def test_what_triton_does_not_have_is_no_call(call: str) -> None:
    assert match_http(*call.split()) is None


def test_every_rpc_of_triton_is_in_the_table() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = {SERVICE + name.encode() for name in service.methods_by_name}
    assert {rpc.path for rpc in RPCS} == theirs | {b"/grpc.health.v1.Health/Check"}


def test_the_router_hands_exactly_the_composed_rpcs_over() -> None:
    for rpc in RPCS:
        route = router.grpc_route(rpc.path)
        assert route.composed is (rpc.op is not None), rpc.path
    assert not router.grpc_route(b"/anything/else").composed


def test_what_a_path_names_is_read_from_it() -> None:
    found = match_http("GET", "/v2/models/m%20x/versions/12/stats?a")
    assert found is not None
    assert (found.model, found.version, found.endpoint.op) == ("m%20x", "12", Op.STATISTICS)
    found = match_http("POST", "/v2/cudasharedmemory/region/r/unregister")
    assert found is not None
    assert (found.region, found.endpoint.memory) == ("r", Memory.CUDA)
    assert match_grpc(b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") is None


def test_whatever_is_composed_has_the_same_op_in_both_protocols() -> None:
    assert {e.op for e in ENDPOINTS} == {r.op for r in RPCS}
