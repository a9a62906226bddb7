"""Changes are made on all slices or told to have failed, and kept for those that come later."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from gateway.fleet.health import Health, Order
from gateway.triton import messages
from gateway.triton.api import SERVICE
from gateway.triton.calls import HttpAnswer
from gateway.triton.journal import Journal
from tests.gateway.control.scripted import until
from tests.gateway.triton.conftest import StartFleet
from tests.gateway.triton.scripted import Fleet

OOM = (500, grpc.StatusCode.INTERNAL, "out of memory")
REGION = b'{"key":"/k","offset":0,"byte_size":8}'


async def post(fleet: Fleet, target: str, body: bytes = b"") -> HttpAnswer:
    return await fleet.composer.http("POST", target, [], body)


def error(answer: HttpAnswer) -> str:
    return str(json.loads(answer.body)["error"])


async def test_a_load_reaches_every_slice_and_is_routed_at_once(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b", "c")
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert (answer.status, answer.body) == (200, b"")
    assert [m.name for m in fleet.registry.pool("infer/x").members] == ["a", "b", "c"]


async def test_a_load_goes_to_one_slice_first(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b", "c")
    seen: list[int] = []

    async def look(verb: str) -> None:
        if verb == "load":
            seen.append(sum(other.asked.count("load") for other in fleet.slices.values()))

    for one in fleet.slices.values():
        one.during = look
    await post(fleet, "/v2/repository/models/x/load")
    assert seen[0] == 1, "nobody else was asked before the first had answered"


async def test_a_load_that_kills_its_first_slice_goes_no_further(start_fleet: StartFleet) -> None:
    """A file parameter with a name above 255 characters kills a Triton 2.51."""
    fleet = await start_fleet("a", "b")
    fleet.slices["a"].die_on = {"load"}
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert answer.status == 503
    assert "a was to load 'x' first and broke the connection off" in error(answer)
    assert "load" not in fleet.slices["b"].asked
    assert fleet["a"].health.health is Health.DOWN
    assert await fleet.composer.prepare(fleet["b"]) == ""
    assert "x" not in fleet.slices["b"].models, "a load that failed is not repeated"


async def test_the_next_slice_goes_first_when_the_first_takes_no_connection(
    start_fleet: StartFleet,
) -> None:
    """The check has not noticed yet that it is gone; nothing was sent to it."""
    fleet = await start_fleet("a", "b")
    await fleet.slices["a"].stop()
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert answer.status == 200
    assert [m.name for m in fleet.registry.pool("infer/x").members] == ["b"]


async def test_all_refuse_alike_and_the_client_reads_tritons_own_words(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b")
    for one in fleet.slices.values():
        one.refuse["load"] = (500, grpc.StatusCode.INTERNAL, "failed to load 'x', failed to poll")
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert (answer.status, error(answer)) == (500, "failed to load 'x', failed to poll")


async def test_a_partial_failure_names_the_slices_and_what_they_said(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b", "c")
    fleet.slices["b"].refuse["load"] = OOM
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert (answer.status, error(answer)) == (500, "failed on b: out of memory; done on a, c")
    assert [m.name for m in fleet.registry.pool("infer/x").members] == ["a", "c"]


async def test_the_same_over_grpc(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].refuse["load"] = OOM
    message = messages.new("RepositoryModelLoadRequest", model_name="x").SerializeToString()
    answer = await fleet.composer.grpc(SERVICE + b"RepositoryModelLoad", [], message, None)
    assert (answer.status, answer.details) == (13, "failed on b: out of memory; done on a")


async def test_a_reload_that_one_slice_refuses_is_not_served_there_in_its_old_state(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].refuse["load"] = OOM
    await post(fleet, "/v2/repository/models/m/load")
    assert [m.name for m in fleet.registry.pool("infer/m").members] == ["a"]


async def test_a_slice_that_returns_is_brought_up_to_date(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    away = fleet.slices["b"]
    fleet.registry.condemn(fleet["b"], "gone")
    body = b'{"parameters":{"config":"{}"}}'
    await post(fleet, "/v2/repository/models/x/load", body)
    await post(fleet, "/v2/repository/models/m/unload")
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    await post(fleet, "/v2/logging", b'{"log_verbose_level":1,"unknown":2}')
    await post(fleet, "/v2/trace/setting", b'{"trace_rate":"5"}')
    assert away.asked.count("load") == 0
    assert not fleet.composer.is_prepared(fleet["b"])
    assert await fleet.rejoin("b") == ""
    assert away.models == {"x": "READY"}
    assert away.bodies == [{"config": "{}"}]
    assert away.regions == {"r": ("/k", 0, 8)}
    assert away.logging == {"log_verbose_level": 1}
    assert away.trace == {"trace_rate": "5"}


async def test_the_journal_survives_a_restart_of_the_gateway(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    await post(fleet, "/v2/repository/models/x/load")
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    await fleet.composer.close()
    again = await start_fleet("b")
    assert not again.composer.is_prepared(again["b"])
    assert await again.composer.prepare(again["b"]) == ""
    assert again.slices["b"].models == {"m": "READY", "x": "READY"}
    assert again.slices["b"].regions == {"r": ("/k", 0, 8)}


async def test_an_override_is_undone_by_unload_and_load_on_a_slice_that_missed_both(
    start_fleet: StartFleet,
) -> None:
    """A plain load does not undo an override; the slice still has it when it returns."""
    fleet = await start_fleet("a", "b")
    fleet.registry.condemn(fleet["b"], "gone")
    fleet.slices["b"].config = {"name": "m", "max_batch_size": 16}
    await post(fleet, "/v2/repository/models/m/unload")
    await post(fleet, "/v2/repository/models/m/load")
    fleet.slices["b"].asked.clear()
    assert await fleet.rejoin("b") == ""
    assert [verb for verb in fleet.slices["b"].asked if verb in ("load", "unload")] == [
        "unload", "load",
    ]  # fmt: skip


async def test_a_slice_that_has_the_right_configuration_is_not_unloaded(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b")
    await post(fleet, "/v2/repository/models/m/unload")
    await post(fleet, "/v2/repository/models/m/load")
    fleet.registry.condemn(fleet["b"], "a hiccup")
    fleet.slices["b"].asked.clear()
    assert await fleet.rejoin("b") == ""
    assert "unload" not in fleet.slices["b"].asked


async def test_a_slice_that_cannot_be_brought_up_to_date_says_why(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.registry.condemn(fleet["b"], "gone")
    await post(fleet, "/v2/repository/models/x/load")
    fleet.slices["b"].hang = {"index"}
    why = await fleet.composer.prepare(fleet["b"])
    assert why == (
        "not brought up to date: /v2/repository/index: the slice did not answer within 0.5 s"
    )
    assert not fleet.composer.is_prepared(fleet["b"])


async def test_a_load_that_a_returning_slice_refuses_leaves_it_without_the_model(
    start_fleet: StartFleet,
) -> None:
    """It can still serve the others; half a fleet with another state would be worse."""
    fleet = await start_fleet("a", "b")
    fleet.registry.condemn(fleet["b"], "gone")
    await post(fleet, "/v2/repository/models/m/load", b'{"parameters":{"config":"{}"}}')
    fleet.slices["b"].refuse["load"] = OOM
    assert await fleet.composer.prepare(fleet["b"]) == ""
    assert fleet.slices["b"].models == {}


async def test_a_region_whose_client_is_gone_is_forgotten(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.registry.condemn(fleet["b"], "gone")
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    fleet.slices["b"].refuse["register"] = (
        500, grpc.StatusCode.INTERNAL, "Unable to open shared memory region: '/k'",
    )  # fmt: skip
    assert await fleet.composer.prepare(fleet["b"]) == ""
    del fleet.slices["b"].refuse["register"]
    assert await fleet.rejoin("b") == ""
    assert fleet.slices["b"].regions == {}


async def test_regions_left_on_a_returning_slice_are_removed(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    fleet.registry.condemn(fleet["b"], "gone")
    await post(fleet, "/v2/systemsharedmemory/unregister")
    assert fleet.slices["b"].regions
    assert await fleet.rejoin("b") == ""
    assert fleet.slices["b"].regions == {}


async def test_a_region_is_registered_everywhere_or_nowhere(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].refuse["register"] = (
        400, grpc.StatusCode.ALREADY_EXISTS, "shared memory region 'r' already in manager",
    )  # fmt: skip
    answer = await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    assert (answer.status, error(answer)) == (
        400,
        "failed on b: shared memory region 'r' already in manager; done on a, and undone there",
    )
    assert fleet.slices["a"].regions == {}


async def test_a_slice_that_does_not_answer_a_change_is_out_until_it_has_it(
    start_fleet: StartFleet,
) -> None:
    """A hung slice is as good as gone: the client's change is made on those that are there."""
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].hang = {"register"}
    answer = await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    assert answer.status == 200
    assert fleet["b"].health.health is Health.DOWN
    fleet.slices["b"].hang = set()
    assert await fleet.rejoin("b") == ""
    assert fleet.slices["b"].regions == {"r": ("/k", 0, 8)}


async def test_nobody_waits_for_a_slice_that_is_found_down_during_a_load(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a", "b")
    fleet.slices["b"].hang = {"load"}
    loading = asyncio.ensure_future(post(fleet, "/v2/repository/models/x/load"))
    await until(lambda: "load" in fleet.slices["b"].asked)
    fleet.registry.condemn(fleet["b"], "found out by a check")
    async with asyncio.timeout(1.0):
        assert (await loading).status == 200


async def test_a_slice_that_joins_during_a_change_gets_it_too(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a", "b")
    fleet.registry.condemn(fleet["b"], "away")
    joined: list[str] = []

    async def join(verb: str) -> None:
        if verb == "register" and not joined:
            joined.append(verb)
            for _ in range(2):
                await fleet.check([fleet["b"]])  # prepared before the change was recorded

    fleet.slices["a"].during = join
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    assert fleet["b"].routable
    assert fleet.slices["b"].regions == {"r": ("/k", 0, 8)}


async def test_a_change_goes_on_when_its_client_has_left(
    start_fleet: StartFleet, tmp_path: Path
) -> None:
    fleet = await start_fleet("a", "b")
    go_on = asyncio.Event()

    async def wait(verb: str) -> None:
        if verb == "load":
            await go_on.wait()

    fleet.slices["a"].during = wait
    client = asyncio.ensure_future(post(fleet, "/v2/repository/models/x/load"))
    await until(lambda: "load" in fleet.slices["a"].asked)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    go_on.set()
    await until(lambda: fleet.registry.pool("infer/x").members == tuple(fleet[n] for n in "ab"))

    def kept() -> bool:
        journal = Journal(tmp_path / "journal.json")
        journal.read()
        return "x" in journal.models

    await until(kept)


async def test_a_grpc_deadline_ends_the_waiting_and_not_the_change(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    go_on = asyncio.Event()

    async def wait(verb: str) -> None:
        await go_on.wait()

    fleet.slices["a"].during = wait
    message = messages.new("RepositoryModelLoadRequest", model_name="x").SerializeToString()
    answer = await fleet.composer.grpc(SERVICE + b"RepositoryModelLoad", [], message, 0.05)
    assert answer.status == 4
    go_on.set()
    await until(lambda: "x" in (fleet["a"].models or {}))


async def test_drained_slices_are_changed_and_disabled_ones_are_not(
    start_fleet: StartFleet,
) -> None:
    """A drained slice may be enabled again without a check; a disabled one is checked first."""
    fleet = await start_fleet("a", "b", "c")
    fleet.registry.order(fleet["b"], Order.DRAINED, "")
    fleet.registry.order(fleet["c"], Order.DISABLED, "")
    await post(fleet, "/v2/systemsharedmemory/region/r/register", REGION)
    assert fleet.slices["b"].regions
    assert not fleet.slices["c"].regions


async def test_with_no_slice_the_answer_is_an_error_and_nothing_is_kept(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("a")
    fleet.registry.condemn(fleet["a"], "gone")
    answer = await post(fleet, "/v2/repository/models/x/load")
    assert answer.status == 503
    assert fleet.composer.is_prepared(fleet["a"]), "there is nothing to repeat"


async def test_unloading_what_nobody_has_is_not_kept(start_fleet: StartFleet) -> None:
    """Names that clients make up must not push real ones out of the journal."""
    fleet = await start_fleet("a")
    assert (await post(fleet, "/v2/repository/models/nope/unload")).status == 200
    assert fleet.composer.is_prepared(fleet["a"])


async def test_a_clients_headers_reach_the_slices(start_fleet: StartFleet) -> None:
    """`--http-restricted-api` asks for one; hop-by-hop ones stay here."""
    fleet = await start_fleet("a")
    headers = [(b"Admin-Key", b"secret"), (b"Connection", b"x-hop"), (b"X-Hop", b"1"),
               (b"Accept-Encoding", b"gzip"), (b"Host", b"gateway")]  # fmt: skip
    await fleet.composer.http("POST", "/v2/logging", headers, b"{}")
    got = fleet.slices["a"].headers
    assert got["Admin-Key"] == "secret"
    assert not {"X-Hop", "Accept-Encoding"} & set(got)
    assert got["Host"] != "gateway"


async def test_a_models_facts_are_new_after_a_load_with_overrides(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("a")
    before = fleet.composer.facts("m")
    assert before is not None
    assert not before.sequences
    fleet.slices["a"].config = {"name": "m", "sequence_batching": {}}
    await post(fleet, "/v2/repository/models/m/load")
    after = fleet.composer.facts("m")
    assert after is not None
    assert after.sequences
