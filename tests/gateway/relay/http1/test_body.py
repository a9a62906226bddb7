"""Chunked bodies: found in any cut, refused when ambiguous, bounded always."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.http1.body import ChunkedBody, framed
from tests.gateway.relay.http1.corpus import BAD_CHUNKS
from tests.gateway.relay.http1.llhttp import Request

BODY = b"3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-Checksum: 5\r\nHost: evil\r\n\r\nGET /"
DATA = b"abc0123456789abcdef"
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Read:
    """A body fed in pieces."""

    def __init__(self, pieces: list[bytes], body_bytes_max: int = 10**6) -> None:
        self.chunks = ChunkedBody(body_bytes_max)
        self.data = self.sent = self.rest = b""
        for piece in pieces:
            if self.chunks.done or self.chunks.fault:
                self.rest += piece
                continue
            ranges: list[tuple[int, int]] = []
            end = self.chunks.feed(piece, 0, ranges)
            if end < 0:
                continue
            self.data += b"".join(piece[a:b] for a, b in ranges)
            self.sent += b"".join(framed(piece, ranges, self.chunks))
            self.rest += piece[end:]


def test_data_trailers_and_what_follows_are_told_apart():
    read = Read([BODY])
    assert read.chunks.done
    assert read.data == DATA
    assert read.chunks.trailers == b"X-Checksum: 5\r\n", "Host is no trailer"
    assert read.rest == b"GET /"
    assert read.sent == b"13\r\n" + DATA + b"\r\n0\r\nX-Checksum: 5\r\n\r\n"


@given(st.lists(st.integers(0, len(BODY)), max_size=8))
def test_a_body_means_the_same_however_its_bytes_arrive(cuts):
    edges = [0, *sorted(cuts), len(BODY)]
    read = Read([BODY[a:b] for a, b in pairwise(edges)])
    assert read.chunks.done
    assert read.data == DATA
    assert read.chunks.trailers == b"X-Checksum: 5\r\n"
    assert read.rest == b"GET /"
    assert Request(HEAD + read.sent).body == DATA


@pytest.mark.parametrize("name", BAD_CHUNKS)
@pytest.mark.parametrize("bytewise", [False, True])
def test_an_ambiguous_chunk_is_refused(name, bytewise):
    data = BAD_CHUNKS[name]
    read = Read([bytes([byte]) for byte in data] if bytewise else [data])
    assert not read.chunks.done
    if name in ("minus", "underscore") or read.chunks.fault:
        assert read.chunks.fault is not None
        assert read.chunks.fault.code == "bad_request"
    else:
        pytest.fail(f"{name} was accepted")


def test_a_body_above_the_limit_is_refused_by_its_announced_size():
    assert Read([b"64\r\n"], body_bytes_max=100).chunks.fault is None
    fault = Read([b"65\r\n"], body_bytes_max=100).chunks.fault
    assert fault is not None
    assert fault.code == "body_too_large"


def test_the_extensions_of_many_chunks_are_bounded_together():
    read = Read([b"1;" + b"a" * 250 + b"\r\nx\r\n"] * 100)
    assert read.chunks.fault is not None


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from([b"0\r\n\r\n", b"3\r\nabc\r\n", b"\r\n", b"3;", b"A: b\r\n"]),
        ),
        max_size=12,
    )
)
def test_no_bytes_raise_and_what_we_accept_llhttp_accepts(pieces):
    read = Read(pieces)
    if read.chunks.done:
        data = b"".join(pieces)
        theirs = Request(HEAD + data[: len(data) - len(read.rest)])
        assert theirs.complete == 1
        assert theirs.body == read.data
        assert Request(HEAD + read.sent).body == read.data
