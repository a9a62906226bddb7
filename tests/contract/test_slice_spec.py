"""Endpoints and slices as both programs write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint, SliceSpec


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:8000", Endpoint("127.0.0.1", 8000)),
        ("triton-s0:1", Endpoint("triton-s0", 1)),
        ("[::1]:65535", Endpoint("::1", 65535)),
    ],
)
def test_an_endpoint_is_read_and_written_alike(text, endpoint):
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8000",
        ":8000",
        "host:",
        "host:0",
        "host:65536",
        "host:+1",
        "host:\u0661",
        "::1:80",
        "a:b",
    ],
)
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ValueError, match=r"host:port|from 1 to 65535"):
        Endpoint.parse(text)


@given(st.text())
def test_any_text_is_an_endpoint_or_a_value_error(text):
    try:
        endpoint = Endpoint.parse(text)
    except ValueError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint


HOME = Endpoint("h", 1)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "ä", "a" * 64, "a\n"])
def test_names_fit_urls_labels_and_tables(name):
    with pytest.raises(ValueError, match="is no slice name"):
        SliceSpec(name, HOME, HOME)


@pytest.mark.parametrize("weight", [-1, 1001, float("nan"), float("inf")])
def test_weights_are_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match="weight is"):
        SliceSpec("s0", HOME, HOME, weight=weight)
