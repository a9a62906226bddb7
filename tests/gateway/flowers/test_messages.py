"""Our few bytes of protobuf mean the same to Triton's own client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.flowers import messages


def test_a_request_is_what_the_client_library_reads() -> None:
    tensor = np.arange(6, dtype=np.float32).tobytes()
    read = service_pb2.ModelInferRequest()
    read.ParseFromString(messages.request("flower", (1, 300, 2), tensor, 3))
    assert read.model_name == "flower"
    assert (read.inputs[0].name, read.inputs[0].datatype) == ("input", "FP32")
    assert list(read.inputs[0].shape) == [1, 300, 2]
    assert read.outputs[0].name == "probabilities"
    assert read.outputs[0].parameters["classification"].int64_param == 3
    assert list(read.raw_input_contents) == [tensor]


def response(*texts: bytes) -> bytes:
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    made = service_pb2.ModelInferResponse(
        model_name="flower", model_version="1", raw_output_contents=[raw]
    )
    made.parameters["x"].int64_param = 5
    return bytes(made.SerializeToString())


def test_the_strings_of_an_answer_are_read() -> None:
    data = response(b"0.9:53:sunflower", b"0.1:2:rose")
    assert messages.strings(data) == ["0.9:53:sunflower", "0.1:2:rose"]


@given(st.binary(max_size=200))
def test_any_bytes_are_strings_or_an_error(data: bytes) -> None:
    try:
        assert all(isinstance(text, str) for text in messages.strings(data))
    except messages.MessageError:
        pass


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_cut_answer_is_an_error(cut: int) -> None:
    with pytest.raises(messages.MessageError):
        messages.strings(response(b"0.9:53:sunflower")[:-cut])
