"""The requests are what a real client sends: read back with protobuf's and KServe's own rules."""

import json

import pytest

from bench import cells


def fields_of(message):
    """Yield (number, bytes) of a protobuf message that has length-delimited fields only."""
    at = 0
    while at < len(message):
        key, at = varint_at(message, at)
        length, at = varint_at(message, at)
        assert key & 7 == 2
        yield key >> 3, message[at : at + length]
        at += length


def varint_at(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


@pytest.mark.parametrize("total_bytes", [128, 190, 191, 192, 193, 194, 195, 512, 20_000])
def test_a_grpc_request_has_exactly_the_size_that_was_asked_for(total_bytes):
    """Around the sizes where a length takes one more byte."""
    assert len(cells.grpc_request(total_bytes)) == total_bytes


def test_a_grpc_request_names_its_model_first():
    body = cells.grpc_request_with(cells.IMAGE_BYTES)
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    fields = list(fields_of(body[5:]))
    assert fields[0] == (1, b"m")
    assert [number for number, _ in fields] == [1, 5, 7]
    assert len(fields[2][1]) == cells.IMAGE_BYTES


def test_the_grpc_answer_is_of_the_model_that_was_asked():
    fields = dict(fields_of(cells.grpc_response()[5:]))
    assert (fields[1], fields[2], len(fields[6])) == (b"m", b"1", 16)


def test_the_small_http_request_is_json_of_its_exact_size():
    _, body = cells.http_json(512)
    assert len(body) == 512
    assert json.loads(body)["inputs"][0]["datatype"] == "FP32"


def test_the_large_http_request_says_where_its_json_ends():
    headers, body = cells.http_binary(cells.IMAGE_BYTES)
    end = int(dict(headers)["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:end])["inputs"]
    assert len(body) - end == tensor["parameters"]["binary_data_size"] == cells.IMAGE_BYTES


def test_cells_are_chosen_by_name_in_the_order_of_the_tables():
    chosen = cells.choose(["grpc-512", "http-512"])
    assert [cell.name for cell in chosen] == ["http-512", "grpc-512"]
    assert len(cells.choose([])) == 4


def test_an_unknown_cell_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no cell 'http-1k'; known cells: http-512"):
        cells.choose(["http-1k"])
