"""Questions to all slices and the one answer."""

import json
from typing import Any

import grpc
import pytest

from gateway.fleet.health import Order
from gateway.triton import messages
from gateway.triton.api import SERVICE
from gateway.triton.reading import read_version
from tests.gateway.triton.conftest import StartFleet
from tests.gateway.triton.scripted import Fleet

UNKNOWN = (400, grpc.StatusCode.INVALID_ARGUMENT, "requested model 'x' is not available")


async def get(fleet: Fleet, target: str, method: str = "GET") -> tuple[int, Any]:
    answer = await fleet.composer.http(method, target, [], b"")
    return answer.status, json.loads(answer.body) if answer.body else None


async def count(fleet: Fleet) -> int:
    status, document = await get(fleet, "/v2/models/m/stats")
    assert status == 200
    [model] = document["model_stats"]
    assert model["inference_stats"]["queue"] == {
        "count": model["inference_count"], "ns": 10 * model["inference_count"],
    }  # fmt: skip
    return int(model["inference_count"])


async def test_statistics_are_the_sum_over_the_slices(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b", "c")
    for name, n in zip("abc", (3, 4, 5), strict=True):
        fleet.slices[name].counts = n
    assert await count(fleet) == 12


async def test_the_sum_does_not_fall_when_slices_leave_restart_or_stall(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b", "c")
    for one in fleet.slices.values():
        one.counts = 10
    assert await count(fleet) == 30
    fleet.registry.condemn(fleet["a"], "gone")
    fleet.slices["b"].counts = 1  # restarted
    fleet.slices["c"].hang = {"stats"}
    assert await count(fleet) == 31
    fleet.registry.order(fleet["b"], Order.DRAINED, "")
    assert await count(fleet) == 31, "a drained slice still counts"
    fleet.registry.replace([fleet.slices["b"].spec])
    assert await count(fleet) == 31, "so do slices that are no longer configured"


async def test_slices_without_the_model_are_passed_over(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["a"].counts = 3
    fleet.slices["b"].refuse["stats"] = UNKNOWN
    assert await count(fleet) == 3


async def test_a_model_that_no_slice_has_is_refused_in_tritons_words(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b")
    for one in fleet.slices.values():
        one.refuse["stats"] = UNKNOWN
    assert await get(fleet, "/v2/models/x/stats") == (400, {"error": UNKNOWN[2]})


async def test_a_slice_that_speaks_nonsense_is_passed_over(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["a"].counts = 3
    fleet.slices["b"].refuse["stats"] = (200, grpc.StatusCode.OK, "nonsense")
    assert await count(fleet) == 3


async def test_metadata_is_what_all_slices_offer(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].version, fleet.slices["b"].extensions = "2.9.0", ["statistics"]
    assert (await get(fleet, "/v2"))[1] == {
        "name": "triton", "version": "2.9.0", "extensions": ["statistics"],
    }  # fmt: skip
    answer = await fleet.composer.grpc(SERVICE + b"ServerMetadata", [], b"", 5.0)
    assert messages.parse("ServerMetadataResponse", answer.message).version == "2.9.0"


async def test_metadata_comes_from_those_that_answer(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].hang = {"v2"}
    assert (await get(fleet, "/v2"))[0] == 200


async def test_the_index_has_a_model_ready_where_it_is_so_anywhere(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].models["m"] = "UNAVAILABLE"
    assert await get(fleet, "/v2/repository/index", "POST") == (
        200,
        [{"name": "m", "version": "1", "state": "READY", "reason": "UNAVAILABLE on b"}],
    )


async def test_a_region_is_found_when_all_slices_have_it(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["a"].regions = {"r": ("/k", 0, 8), "s": ("/k", 0, 8)}
    fleet.slices["b"].regions = {"r": ("/k", 0, 8)}
    found = [{"name": "r", "key": "/k", "offset": 0, "byte_size": 8}]
    assert await get(fleet, "/v2/systemsharedmemory/status") == (200, found)
    fleet.slices["b"].refuse["status"] = (404, grpc.StatusCode.NOT_FOUND, "Unable to find")
    assert await get(fleet, "/v2/systemsharedmemory/region/s/status") == (
        404, {"error": "Unable to find"},
    )  # fmt: skip


async def test_model_readiness_is_answered_from_the_map(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    fleet.slices["a"].asked.clear()
    answer = await fleet.composer.http("GET", "/v2/models/m/ready", [], b"")
    assert (answer.status, answer.headers, answer.body) == (
        200, [(b"Content-Type", b"text/plain")], b"",
    )  # fmt: skip
    not_ready = {"error": "Model version not ready"}
    assert await get(fleet, "/v2/models/m/versions/2/ready") == (400, not_ready)
    assert await get(fleet, "/v2/models/x/ready") == (400, not_ready)
    assert fleet.slices["a"].asked == []


@pytest.mark.parametrize(
    ("text", "version", "refusal"),
    [
        ("", "", ""), ("1", "1", ""), (" +1x", "1", ""), ("0", "0", ""),
        ("abc", "", "failed to get model version from specified version string 'abc' "
         "(details: stol), version should be an integral value > 0"),
        ("99999999999999999999", "", "failed to get model version from specified version string "
         "'99999999999999999999' (details: stol), version should be an integral value > 0"),
        ("-3", "", "invalid model version specified '-3' , version should be an integral "
         "value > 0"),
    ],
)  # fmt: skip
def test_versions_are_read_as_triton_reads_them(text: str, version: str, refusal: str) -> None:
    assert read_version(text) == (version, refusal)


async def test_settings_are_read_from_one_slice(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    answer = await fleet.composer.grpc(SERVICE + b"LogSettings", [], b"", None)
    assert answer.status == 0
    assert [one.asked.count("LogSettings") for one in fleet.slices.values()] == [1, 0]


async def test_an_unknown_call_is_unimplemented(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    path = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    answer = await fleet.composer.grpc(path, [], b"", None)
    assert (answer.status, answer.details) == (12, "")


async def test_a_message_that_is_none_is_refused(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    answer = await fleet.composer.grpc(SERVICE + b"ModelStatistics", [], b"\xff", None)
    assert answer.status == 13


async def test_the_slices_metrics_are_one_page(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    await fleet.slices["b"].stop()
    assert await fleet.composer.slice_metrics() == (
        "# HELP mig_gateway_slice_metrics_up "
        "Whether the slice's own metrics are on this page.\n"
        "# TYPE mig_gateway_slice_metrics_up gauge\n"
        'mig_gateway_slice_metrics_up{slice="a"} 1\n'
        'mig_gateway_slice_metrics_up{slice="b"} 0\n'
        "# TYPE a counter\n"
        'a{slice="a",x="1"} 0\n'
    )
