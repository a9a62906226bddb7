"""What is read of a sequence, against what Triton's own clients write."""

import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferInput as GrpcInput
from tritonclient.grpc import service_pb2
from tritonclient.grpc._utils import _get_inference_request
from tritonclient.http import InferenceServerClient
from tritonclient.http import InferInput as HttpInput

from gateway.fleet.sequences import NO_SEQUENCE, SequenceFields
from gateway.relay.sequence_fields import (
    MessageTap,
    StartOfMessage,
    open_start,
    read_json,
    read_start,
)

IDS = st.one_of(st.integers(1, 2**63 - 1), st.text(min_size=1, max_size=40))
DATA = np.zeros(300, np.int32)


def grpc_request(model: str, sequence_id: int | str, starts: bool, ends: bool, **more) -> bytes:
    tensor = GrpcInput("INPUT", [300], "INT32")
    tensor.set_data_from_numpy(DATA)
    request = _get_inference_request(
        model_name=model, inputs=[tensor], model_version="", request_id="r", outputs=None,
        sequence_id=sequence_id, sequence_start=starts, sequence_end=ends,
        priority=more.get("priority", 0), timeout=more.get("timeout"), parameters=None,
    )  # fmt: skip
    return bytes(request.SerializeToString())


def http_request(sequence_id: int | str, starts: bool, ends: bool, binary: bool):
    tensor = HttpInput("INPUT", [300], "INT32")
    tensor.set_data_from_numpy(DATA, binary_data=binary)
    return InferenceServerClient.generate_request_body(
        [tensor], sequence_id=sequence_id, sequence_start=starts, sequence_end=ends
    )


def prefixed(message: bytes, flag: bytes = b"\0") -> bytes:
    return flag + len(message).to_bytes(4, "big") + message


def told(start: StartOfMessage | None) -> tuple[str, SequenceFields] | None:
    return None if start is None else (start.model, start.fields)


@given(IDS, st.booleans(), st.booleans())
def test_tritons_grpc_client(sequence_id, starts, ends):
    message = grpc_request("m", sequence_id, starts, ends, priority=3, timeout=5)
    wanted = ("m", SequenceFields(sequence_id, starts, ends))
    assert told(read_start(message, len(message))) == wanted


@given(IDS, st.booleans(), st.booleans(), st.booleans())
def test_tritons_http_client(sequence_id, starts, ends, binary):
    body, json_length = http_request(sequence_id, starts, ends, binary)
    text = body if json_length is None else body[:json_length]
    assert read_json(text) == SequenceFields(sequence_id, starts, ends)
    assert read_json(gzip.compress(text), b"gzip") == SequenceFields(sequence_id, starts, ends)
    assert read_json(zlib.compress(text), b"deflate") == SequenceFields(sequence_id, starts, ends)


def test_a_start_is_known_before_the_tensors_and_never_guessed():
    message = grpc_request("m", 7, True, False)
    end = message.index(b"INPUT")
    for at in range(len(message) + 1):
        start = read_start(message[:at], len(message))
        assert told(start) in (None, ("m", SequenceFields(7, True, False)))
        assert (start is not None) or at < end
    assert read_start(message[:end], len(message)) is not None


def test_no_sequence():
    message = grpc_request("m", 0, False, False)
    assert told(read_start(message, len(message))) == ("m", NO_SEQUENCE)
    assert told(read_start(b"", 0)) == ("", NO_SEQUENCE)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_exception(data):
    read_start(data, len(data))
    read_start(data, len(data) + 10)
    read_json(data)
    read_json(data, b"gzip")
    open_start(b"\1" + len(data).to_bytes(4, "big") + data)


@pytest.mark.parametrize(
    "document",
    [
        [], {}, {"parameters": []}, {"parameters": {"sequence_id": None}},
        {"parameters": {"sequence_id": True}}, {"parameters": {"sequence_id": 1.5}},
        {"parameters": {"sequence_id": -1}}, {"parameters": {"sequence_start": True}},
    ],
)  # fmt: skip
def test_json_without_a_proper_id_is_no_sequence(document):
    assert read_json(json.dumps(document).encode()) == NO_SEQUENCE


def test_only_true_is_true():
    text = b'{"parameters":{"sequence_id":1,"sequence_start":1,"sequence_end":"true"}}'
    assert read_json(text) == SequenceFields(1, False, False)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_compressed_message_is_opened_as_far_as_it_has_come(compress):
    message = grpc_request("m", 7, True, False)
    packed = prefixed(compress(message), b"\1")
    opened = open_start(packed)
    assert opened == prefixed(message)
    part = open_start(packed[:-12])
    assert part[0] == 0
    assert message.startswith(part[5:])
    assert open_start(b"\1\0\0\0\3abc") == b"\1\0\0\0\3"


@given(
    st.lists(st.tuples(IDS, st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.booleans(),
)
def test_the_messages_of_a_stream_are_told_once_each_however_they_are_cut(requests, cuts, packed):
    stream, wanted = b"", []
    for i, (sequence_id, starts, ends) in enumerate(requests):
        message = grpc_request(f"m{i}", sequence_id, starts, ends)
        wanted.append((f"m{i}", SequenceFields(sequence_id, starts, ends)))
        flagged = packed and i % 2
        stream += prefixed(gzip.compress(message), b"\1") if flagged else prefixed(message)
    tap, at, found = MessageTap(), 0, []
    while at < len(stream):
        size = cuts[at % len(cuts)]
        found += tap.feed(memoryview(stream)[at : at + size])
        at += size
    assert [told(start) for start in found] == wanted


def test_a_message_that_is_all_start_does_not_hold_the_tap_up():
    """Its fields never come: it is passed over, and the next one is read."""
    long = b"\x0a\xff\xff\x7f" + b"x" * 100_000
    tap = MessageTap()
    found = tap.feed(prefixed(long) + prefixed(grpc_request("m", 1, True, False)))
    assert told(found[-1]) == ("m", SequenceFields(1, True, False))


def test_the_fields_are_triton_s():
    fields = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name
    assert (fields["model_name"].number, fields["parameters"].number) == (1, 4)
    parameter = service_pb2.InferParameter.DESCRIPTOR.fields_by_name
    names = ("bool_param", "int64_param", "string_param")
    assert [parameter[name].number for name in names] == [1, 2, 3]
