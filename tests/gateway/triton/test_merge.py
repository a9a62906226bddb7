"""Answers of several slices made into one."""

from gateway.triton.calls import GrpcAnswer, Reply, Silence
from gateway.triton.grpc_form import GrpcForm
from gateway.triton.merge import (
    IndexEntry,
    Metadata,
    Region,
    merge_index,
    merge_metadata,
    merge_regions,
)
from gateway.triton.outcomes import Verdict, answer

READY = IndexEntry("m", "1", "READY")


def test_equal_servers_are_described_as_each_of_them() -> None:
    server = Metadata("triton", "2.51.0", ("b", "a"))
    assert merge_metadata([server, server]) == server


def test_unequal_servers_have_the_lowest_version_and_the_common_extensions() -> None:
    merged = merge_metadata(
        [Metadata("triton", "2.9.0", ("x", "y", "z")), Metadata("triton", "2.51.0", ("z", "x"))]
    )
    assert merged == Metadata("triton", "2.9.0", ("x", "z"))


def test_an_index_on_which_all_agree_is_unchanged() -> None:
    entries = [READY, IndexEntry("n"), IndexEntry("o", "1", "UNAVAILABLE", "unloaded")]
    assert merge_index({"a": entries, "b": entries}) == entries


def test_a_model_is_ready_when_it_is_so_anywhere_and_the_reason_names_the_others() -> None:
    merged = merge_index(
        {
            "a": [READY],
            "b": [IndexEntry("m", "1", "UNAVAILABLE", "unloaded")],
            "c": [IndexEntry("m")],
            "d": [IndexEntry("m", "1", "UNAVAILABLE", "unloaded")],
        }
    )
    note = "UNAVAILABLE (unloaded) on b, d; not loaded on c"
    assert merged == [IndexEntry("m", "1", "READY", note)]


def test_loading_comes_before_unloading_before_unavailable() -> None:
    states = ["UNAVAILABLE", "UNLOADING", "LOADING"]
    found = {state: [IndexEntry("m", "1", state)] for state in states}
    assert merge_index(found)[0].state == "LOADING"
    del found["LOADING"]
    assert merge_index(found)[0].state == "UNLOADING"


def test_versions_are_in_the_order_of_numbers() -> None:
    entries = [IndexEntry("m", version, "READY") for version in ("10", "9", "2")]
    assert [entry.version for entry in merge_index({"a": entries})] == ["2", "9", "10"]


def test_a_region_counts_when_every_slice_has_it_alike() -> None:
    same, other = Region("r", 8, "/k"), Region("s", 8, "/k")
    assert merge_regions([[same, other], [same, Region("s", 16, "/k")]]) == [same]
    assert merge_regions([]) == []


def test_slices_that_say_different_things_are_all_quoted() -> None:
    verdict = Verdict.of(
        [
            Reply("a", False, 13, "out of memory"), Reply("b", False, 5, "not found"),
            Reply("c", False, 13, "out of memory"), Silence("d", "refused the connection", False),
        ]
    )  # fmt: skip
    told = answer(verdict, GrpcForm())
    assert told == GrpcAnswer(
        13,
        "failed on a, c: out of memory; b: not found; not reached: d refused the connection",
        b"",
    )


def test_nobody_answers_and_all_are_named() -> None:
    silent = [Silence("a", "refused the connection", False), Silence("b", "is late", True)]
    told = answer(Verdict.of(silent), GrpcForm())
    assert told == GrpcAnswer(
        14,
        "no slice is ready to take this request: a refused the connection; b is late",
        b"",
    )
