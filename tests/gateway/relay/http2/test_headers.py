"""Header blocks: the cache changes nothing, and what we encode every decoder reads."""

import hypothesis.strategies as st
import pytest
from hpack.hpack import Decoder, Encoder
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given

from gateway.relay.http2.frames import ProtocolError
from gateway.relay.http2.headers import (
    Answer,
    BlockReader,
    MalformedError,
    Request,
    check_trailers,
    encode,
    with_timeout,
)
from gateway.relay.router import BY_MESSAGE, NOT_GRPC
from tests.support.h2_peers import INFER, head

names = st.text("abcdefghij-_0123456789", min_size=1, max_size=20).map(str.encode)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60).map(str.encode)
common = st.sampled_from(
    [
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"user-agent", b"grpc-python/1.85.1"),
        (b"cookie", b"a=" + b"b" * 500),
        (b"x-big", b"c" * 1500),
    ]
)
fields = st.lists(common | st.tuples(names, values), max_size=8)


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=20))
def test_what_we_encode_decodes_to_the_same(headers):
    assert [tuple(h) for h in Decoder(1 << 20).decode(encode(headers), raw=True)] == headers


@given(fields)
def test_what_we_encode_changes_no_table(headers):
    decoder = Decoder()
    decoder.decode(encode(headers))
    assert len(decoder.header_table.dynamic_entries) == 0


class Raw:
    """Judges nothing."""

    def __init__(self, headers):
        self.headers = list(headers)


@given(
    st.lists(
        st.tuples(fields, st.sampled_from([None, None, None, 0, 100, 1000, 4096]), st.booleans()),
        max_size=25,
    )
)
def test_a_cached_block_means_what_the_decoder_says(sequence):
    """Insertions, evictions and table size changes between uses of the same bytes."""
    encoder, plain = Encoder(), Decoder()
    reader = BlockReader(Raw, 1 << 20)
    blocks: list[bytes] = []
    for headers, table_size, twice in sequence:
        if table_size is not None:
            encoder.header_table_size = table_size
        blocks = [encoder.encode(headers, huffman=twice) for _ in range(1 + twice)]
        for block in blocks:
            wanted = [tuple(h) for h in plain.decode(block, raw=True)]
            assert reader.read(block).headers == wanted


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes_are_read_as_the_decoder_reads_them_or_refused(blocks):
    reader, plain = BlockReader(Raw, 1 << 20), Decoder(2 << 20)
    for block in [*blocks, *blocks]:
        try:
            wanted = [tuple(h) for h in plain.decode(block, raw=True)]
        except Exception:
            with pytest.raises(ProtocolError):
                reader.read(block)
            return
        assert reader.read(block).headers == wanted


def test_the_same_block_is_judged_once():
    encoder = Encoder()
    reader = BlockReader(Request, 65536)
    first = reader.read(encoder.encode(head(INFER)))
    block = encoder.encode(head(INFER))
    second = reader.read(block)
    assert reader.read(block) is second
    assert (reader.misses, reader.hits) == (2, 1)
    assert second.block == first.block


def test_an_insertion_forgets_what_was_judged():
    encoder = Encoder()
    reader = BlockReader(Request, 65536)
    reader.read(encoder.encode(head(INFER)))
    old = encoder.encode(head(INFER))
    reader.read(old)
    reader.read(encoder.encode(head(INFER, (b"x-new", b"1"))))
    fresh = encoder.encode(head(INFER))
    assert fresh != old
    assert reader.read(fresh).path == INFER


def test_never_indexed_stays_never_indexed():
    """RFC 7541 section 6.2.3 asks it of intermediaries: the value is a secret."""
    secret = b"\x10\x0dauthorization\x03key"
    block = Encoder().encode([h for h in head(INFER) if h[0] != b"x"]) + secret
    request = BlockReader(Request, 65536).read(block)
    decoded = {bytes(h[0]): h for h in Decoder().decode(request.block, raw=True)}
    assert decoded[b"authorization"].indexable is False
    assert decoded[b"te"].indexable is True


def test_a_request_s_facts():
    request = Request(head(INFER, (b"content-length", b"12"), (b"grpc-timeout", b"100m")))
    assert request.route.kind is BY_MESSAGE
    assert request.is_grpc
    assert (request.content_length, request.timeout_s) == (12, 0.1)
    other = Request(
        [(b":method", b"HEAD"), (b":scheme", b"https"), (b":path", b"*"), (b"host", b"here")]
    )
    assert (other.route.kind, other.is_grpc, other.is_head) == (NOT_GRPC, False, True)
    assert Decoder().decode(other.block) == [
        (":method", "HEAD"),
        (":scheme", "http"),
        (":path", "*"),
        (":authority", "here"),
    ]


@pytest.mark.parametrize("host", [b"gateway:50050", b"Gateway:50050"])
def test_host_and_authority_that_agree_are_one(host):
    request = Request(head(INFER, (b"host", host)))
    assert b"host" not in dict(Decoder().decode(request.block, raw=True))


@pytest.mark.parametrize(
    "name", [b"localhost", b"[::1]:50050", b"a-b.c_d:1", b"%2Frun%2Fsocket", b"127.0.0.1"]
)
def test_a_name_is_passed_on_as_it_came(name):
    request = Request([(n, name if n == b":authority" else v) for n, v in head(INFER)])
    assert dict(Decoder().decode(request.block, raw=True))[b":authority"] == name


@pytest.mark.parametrize(
    ("left_s", "value"),
    [
        (1e-9, b"1u"),
        (0.25, b"250000u"),
        (99.0, b"99000000u"),
        (101.5, b"101500m"),
        (200_000.0, b"200000S"),
        (2e8, b"3333333M"),
        (1e10, b"2777777H"),
        (1e30, b"99999999H"),
    ],
)
def test_a_timeout_is_written_with_eight_digits_at_most(left_s, value):
    before = Request(head(INFER, (b"grpc-timeout", b"1S"), (b"x", b"y")))
    after = Decoder().decode(with_timeout(before.block, left_s), raw=True)
    assert after == [
        (n, value if n == b"grpc-timeout" else v)
        for n, v in Decoder().decode(before.block, raw=True)
    ]


def test_a_secret_stays_one_when_the_timeout_is_written_anew():
    secret = NeverIndexedHeaderTuple(b"authorization", b"x")
    block = encode([(b":path", b"/"), (b"grpc-timeout", b"1S"), secret])
    assert with_timeout(block, 0.5).endswith(encode([secret]))


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"abc", b"+20"])
def test_a_status_has_three_digits(status):
    with pytest.raises(MalformedError):
        Answer([(b":status", status)])


def test_an_answer_s_facts():
    answer = Answer([(b":status", b"200"), (b"grpc-status", b"5"), (b"content-length", b"3")])
    assert (answer.status, answer.grpc_status, answer.content_length) == (200, b"5", 3)
    assert Answer([(b"grpc-status", b"0")]).status == 0


def test_trailers_carry_no_pseudo_headers():
    with pytest.raises(MalformedError):
        check_trailers([(b":path", b"/")])
