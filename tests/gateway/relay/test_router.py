"""Which pool a request goes to."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.relay import router
from gateway.relay.router import (
    ANY_CALL,
    BALANCED,
    BY_MESSAGE,
    HEALTH_CHECK,
    LIVE,
    READY,
    grpc_route,
    http_route,
    pool_key_of_message,
)
from tests.support.h2_peers import message


@pytest.mark.parametrize(
    ("method", "target", "kind", "key"),
    [
        (b"GET", b"/v2/health/live", LIVE, ""),
        (b"GET", b"/v2/health/ready?x=1", READY, ""),
        (b"POST", b"/v2/health/live", BALANCED, "call"),
        (b"POST", b"/v2/models/m/infer", BALANCED, "infer/m"),
        (b"POST", b"/v2/models/m/versions/3/infer", BALANCED, "infer/m/3"),
        (b"POST", b"/v2/models/m/generate", BALANCED, "infer/m"),
        (b"POST", b"/v2/models/m/generate_stream?x", BALANCED, "infer/m"),
        (b"GET", b"/v2/models/m", BALANCED, "call/m"),
        (b"GET", b"/v2/models/m/versions/3/ready", BALANCED, "call/m"),
        (b"GET", b"/v2/models/m/config", BALANCED, "call/m"),
        (b"GET", b"/v2/models/m/versions", BALANCED, "call/m"),
        (b"GET", b"/v2", BALANCED, "call"),
        (b"POST", b"/v2/repository/index", BALANCED, "call"),
        (b"GET", b"/", BALANCED, "call"),
        (b"OPTIONS", b"*", BALANCED, "call"),
        (b"GET", b"/v2/health/live/", BALANCED, "call"),
        (b"GET", b"/v2/health%2flive", BALANCED, "call"),
    ],
)
def test_an_http_request_goes_where_its_path_says(method, target, kind, key):
    route = http_route(method, target)
    assert (route.kind, route.key) == (kind, key)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/inference.GRPCInferenceService/ServerLive", LIVE),
        (b"/inference.GRPCInferenceService/ServerReady", READY),
        (b"/inference.GRPCInferenceService/ModelInfer", BY_MESSAGE),
        (b"/inference.GRPCInferenceService/ModelStreamInfer", BY_MESSAGE),
        (b"/grpc.health.v1.Health/Check", HEALTH_CHECK),
    ],
)
def test_a_grpc_call_goes_where_its_path_says(path, kind):
    assert grpc_route(path).kind is kind


def test_every_other_grpc_call_goes_to_any_slice():
    assert grpc_route(b"/inference.GRPCInferenceService/ModelMetadata") is ANY_CALL
    assert grpc_route(b"/anything/else") is ANY_CALL


@pytest.mark.parametrize(
    ("data", "key"),
    [
        pytest.param(message("m", 100), "infer/m", id="model"),
        pytest.param(message("m", 100, version="12"), "infer/m/12", id="version"),
        pytest.param(message("n" * 127, 500), "infer/" + "n" * 127, id="one-byte length"),
        pytest.param(b"\0\0\0\0\3\x0a\x01m", "infer/m", id="nothing behind the name"),
        pytest.param(b"\0\0\0\0\0", "", id="empty message"),
        pytest.param(b"\1\0\0\0\x09compressed", "", id="compressed"),
        pytest.param(b"\0\0\0\0\x05\x1a\x03abc", "", id="fields in another order"),
        pytest.param(b"\0\0\0\0\x02\x0a\x7f" + b"x" * 200, "", id="name beyond the message"),
        pytest.param(b"\0\0\0\0\x01\x0a" + b"x" * 200, "", id="name cut off by the message"),
        pytest.param(b"\0\0\0\1\x09\x0a\xff\xff\x03" + b"x" * 300, "", id="endless name"),
        pytest.param(b"\0\0\0\0\x02\x0a\0" + b"x" * 9, "", id="name of no bytes"),
    ],
)
def test_a_message_names_its_model(data, key):
    assert pool_key_of_message(data) == key
    assert pool_key_of_message(memoryview(data)) == key


def test_a_long_name_is_read():
    name = b"n" * 300
    body = b"\x0a\xac\x02" + name + b"\x1a\0"
    data = b"\0" + len(body).to_bytes(4, "big") + body
    assert pool_key_of_message(data) == "infer/" + "n" * 300
    assert pool_key_of_message(data[:100]) is None


@given(
    name=st.text(max_size=200).filter(lambda s: len(s.encode()) < 120),
    version=st.text("0123456789", max_size=5),
    size=st.integers(0, 400),
    repeat=st.booleans(),
)
def test_whatever_has_come_so_far_gives_the_key_or_asks_for_more(name, version, size, repeat):
    """Never a wrong key early; and remembering names changes nothing."""
    data = message(name, size, version)
    whole = router._read_pool_key(data)
    for _ in range(1 + repeat):
        for end in range(min(len(data), 300)):
            assert pool_key_of_message(data[:end]) in (None, whole)
        assert pool_key_of_message(data) == whole


@given(st.binary(max_size=60))
def test_any_bytes_give_a_key_or_ask_for_more(data):
    assert pool_key_of_message(data) == router._read_pool_key(data)


def test_names_remembered_are_bounded():
    for index in range(router._KEYS_MAX + 10):
        assert pool_key_of_message(message(f"model-{index}", 50)) == f"infer/model-{index}"
    assert len(router._KEYS) <= router._KEYS_MAX
