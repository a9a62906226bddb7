"""Both protocols say the same: what one form writes both read alike."""

import json
from typing import Any

import pytest

from gateway.triton import grpc_form, http_form, messages
from gateway.triton.api import SERVICE, Memory, Op
from gateway.triton.calls import GrpcAnswer, HttpAnswer, Reply
from gateway.triton.forms import Answer, Form
from gateway.triton.grpc_form import GrpcForm
from gateway.triton.http_form import HttpForm
from gateway.triton.merge import IndexEntry, Metadata, Region
from gateway.triton.statistics import ModelStatistics

FORMS: list[Form] = [HttpForm(), GrpcForm()]
# As Triton 2.51 wrote it, down to the order of keys.
STATS = (
    b'{"model_stats":[{"name":"identity","version":"1","last_inference":5,"inference_count":2,'
    b'"execution_count":1,"inference_stats":{"success":{"count":2,"ns":7},"fail":{"count":0,'
    b'"ns":0},"queue":{"count":2,"ns":3},"compute_input":{"count":2,"ns":1},"compute_infer":'
    b'{"count":2,"ns":2},"compute_output":{"count":2,"ns":1},"cache_hit":{"count":0,"ns":0},'
    b'"cache_miss":{"count":0,"ns":0}},"response_stats":{"0":{"compute_infer":{"count":1,"ns":2},'
    b'"compute_output":{"count":1,"ns":2},"success":{"count":1,"ns":2},"fail":{"count":0,"ns":0},'
    b'"empty_response":{"count":0,"ns":0},"cancel":{"count":0,"ns":0}}},"batch_stats":['
    b'{"batch_size":2,"compute_input":{"count":1,"ns":1},"compute_infer":{"count":1,"ns":2},'
    b'"compute_output":{"count":1,"ns":1}}],"memory_usage":[{"type":"CPU","id":0,"byte_size":9}]}]}'
)


def body(answer: Answer) -> bytes:
    return answer.body if isinstance(answer, HttpAnswer) else answer.message


def test_statistics_read_and_written_again_are_tritons_own_bytes() -> None:
    form = HttpForm()
    assert body(form.statistics(form.read_statistics(STATS))) == STATS


def test_statistics_mean_the_same_in_both_protocols() -> None:
    http, grpc = FORMS
    models = http.read_statistics(STATS)
    again = grpc.read_statistics(body(grpc.statistics(models)))
    assert again == models


def test_counters_of_a_newer_triton_are_added_over_http_and_passed_over_in_grpc() -> None:
    document = json.loads(STATS)
    document["model_stats"][0]["inference_stats"]["teleport"] = {"count": 1, "ns": 2}
    models = HttpForm().read_statistics(json.dumps(document).encode())
    assert json.loads(body(HttpForm().statistics(models))) == document
    assert GrpcForm().read_statistics(body(GrpcForm().statistics(models)))[0].key


@pytest.mark.parametrize("form", FORMS, ids=["http", "grpc"])
def test_what_is_written_is_read_alike(form: Form) -> None:
    server = Metadata("triton", "2.51.0", ("a", "b"))
    assert form.read_metadata(body(form.metadata(server))) == server
    entries = [IndexEntry("m", "1", "READY"), IndexEntry("n"), IndexEntry("o", "2", "X", "why")]
    assert form.read_index(body(form.index(entries))) == entries
    system, cuda = Region("r", 8, "/k", 4), Region("c", 8, device_id=3)
    assert form.read_regions(body(form.regions([system], Memory.SYSTEM)), Memory.SYSTEM) == [system]
    assert form.read_regions(body(form.regions([cuda], Memory.CUDA)), Memory.CUDA) == [cuda]


@pytest.mark.parametrize("form", FORMS, ids=["http", "grpc"])
@pytest.mark.parametrize("garbage", [b"\xff", b"[" * 100_000, b'{"model_stats":3}', b"[3]"])
def test_garbage_from_a_slice_is_a_value_error(form: Form, garbage: bytes) -> None:
    for read in (form.read_index, form.read_statistics):
        try:
            read(garbage)  # what is an empty list to one may be garbage to the other
        except ValueError:
            return
    pytest.fail("both took it")


def test_a_load_is_the_same_question_in_both_protocols() -> None:
    """Files are bytes in gRPC and base64 in JSON."""
    asked = messages.new("RepositoryModelLoadRequest", model_name="m")
    asked.parameters["config"].string_param = "{}"
    asked.parameters["file:1/model.py"].bytes_param = b"x"
    over_grpc = grpc_form.read(SERVICE + b"RepositoryModelLoad", [], asked.SerializeToString())
    text = b'{"parameters":{"config":"{}","file:1/model.py":"eA=="}}'
    over_http = http_form.read("POST", "/v2/repository/models/m/load", [], text)
    assert over_grpc is not None
    assert over_http is not None
    assert (over_grpc.op, over_grpc.model, over_grpc.body) == (Op.LOAD, "m", over_http.body)


def test_settings_that_are_taken_back_are_none() -> None:
    asked = messages.new("TraceSettingRequest", model_name="m")
    asked.settings["trace_rate"].value.append("5")
    asked.settings["trace_level"].value.extend(["A", "B"])
    asked.settings["trace_count"].SetInParent()
    found = grpc_form.read(SERVICE + b"TraceSetting", [], asked.SerializeToString())
    assert found is not None
    assert found.body == {"trace_rate": "5", "trace_level": ["A", "B"], "trace_count": None}


@pytest.mark.parametrize("text", [b"", b"{bad", b"[1]", b"[" * 90_000, b"\xff"])
def test_a_clients_body_that_is_no_json_is_left_to_the_slices(text: bytes) -> None:
    found = http_form.read("POST", "/v2/logging", [], text)
    assert found is not None
    assert found.body == {}
    assert found.call.body == text  # type: ignore[union-attr]


def test_a_body_of_very_many_values_is_not_read() -> None:
    """20 MB of `{},{},` would take 500 MB and seconds; a model's file is one value, however large."""
    index = "/v2/repository/index"
    with pytest.raises(ValueError, match="more than 100000 values"):
        http_form.read("POST", index, [], b"[" + b"{}," * 1_000_000 + b"{}]")
    file = b'{"parameters": {"file:1/model": "' + b"QUJD" * 1_000_000 + b'"}}'
    question = http_form.read("POST", "/v2/repository/models/m/load", [], file)
    assert question is not None
    assert len(str(question.body["file:1/model"])) == 4_000_000


def test_binary_metadata_is_decoded_and_grpcs_own_is_left_out() -> None:
    metadata: Any = [(b":path", b"/x"), (b"te", b"trailers"), (b"grpc-timeout", b"1S"),
                     (b"key", b"value"), (b"trace-bin", b"AQI")]  # fmt: skip
    assert grpc_form.passed_on(metadata) == ((b"key", b"value"), (b"trace-bin", b"\x01\x02"))


def test_what_a_slice_said_is_passed_on_as_it_was() -> None:
    reply = Reply("a", False, 400, "no", b'{"error":"no"}', b"text/plain")
    assert HttpForm().relay(reply) == HttpAnswer(
        400, [(b"Content-Type", b"text/plain")], b'{"error":"no"}'
    )
    assert GrpcForm().relay(Reply("a", False, 5, "no")) == GrpcAnswer(5, "no", b"")


def test_an_empty_sum_is_whole() -> None:
    empty = [ModelStatistics(("m", "1"))]
    assert json.loads(body(HttpForm().statistics(empty)))["model_stats"][0]["batch_stats"] == []
