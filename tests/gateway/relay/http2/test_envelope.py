"""One gRPC message, out of its frame."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.http2.envelope import EnvelopeError, opened


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@given(st.binary(max_size=200))
def test_a_message_comes_out_as_it_went_in(message: bytes) -> None:
    assert opened(framed(message), []) == message
    assert opened(framed(gzip.compress(message), 1), [(b"grpc-encoding", b"gzip")]) == message
    assert opened(framed(zlib.compress(message), 1), [(b"grpc-encoding", b"deflate")]) == message


@pytest.mark.parametrize(
    ("frame", "encoding", "status"),
    [
        pytest.param(b"", b"gzip", 13, id="nothing"),
        pytest.param(b"\0\0\0\0\5abc", b"gzip", 13, id="cut off"),
        pytest.param(framed(b"a") + framed(b"b"), b"gzip", 13, id="two messages"),
        pytest.param(framed(b"a", 2), b"gzip", 13, id="unknown flag"),
        pytest.param(framed(b"a", 1), b"snappy", 12, id="unknown encoding"),
        pytest.param(framed(b"garbage", 1), b"gzip", 13, id="not compressed"),
        pytest.param(framed(gzip.compress(b"x" * 50)[:-9], 1), b"gzip", 13, id="half compressed"),
        pytest.param(framed(gzip.compress(bytes(10**6)), 1), b"gzip", 8, id="bomb"),
    ],
)
def test_anything_else_is_refused_with_its_status(
    frame: bytes, encoding: bytes, status: int
) -> None:
    with pytest.raises(EnvelopeError) as refused:
        opened(frame, [(b"grpc-encoding", encoding)], most=10**5)
    assert refused.value.fault.grpc_status == status


@given(st.binary(max_size=40))
def test_no_bytes_make_it_raise_anything_else(frame: bytes) -> None:
    try:
        opened(frame, [(b"grpc-encoding", b"gzip")])
    except EnvelopeError:
        pass
