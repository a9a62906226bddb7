"""`content-length` and the data that comes, of a slice's answer. RFC 9113 section 8.1.1."""

import pytest

from gateway.fleet import outcomes
from gateway.relay.http2 import frames
from tests.support.h2_peers import ANSWER_HEAD, GRPC, OK_TRAILERS, STATISTICS, head

PLAIN = [each for each in head(STATISTICS) if each != GRPC]


def says(length: int, status: bytes = b"200"):
    return [(b":status", status), (b"content-length", b"%d" % length)]


def lax(served):
    """Let the scripted slice send what `h2` would refuse to send."""
    served.peer.conn.config.validate_outbound_headers = False
    return served


@pytest.fixture
def plain(stage):
    """A request that is no gRPC call, and the slice that has it."""
    call = stage.client().calls(headers=PLAIN, ends=True)
    return call, lax(stage.slice("a").call())


@pytest.mark.parametrize("size", [5, 5000, 300_000])
def test_as_much_as_was_announced_is_passed_on(stage, plain, size):
    call, served = plain
    served.sends_head(says(size))
    served.sends_all(b"x" * size, ends=True)
    assert (call.body, call.ended, call.reset_code) == (b"x" * size, True, None)


@pytest.mark.parametrize(
    ("announced", "pieces"),
    [
        (4, [b"12345"]),
        (4, [b"123", b"45"]),
        (4, [b"123"]),
        (0, [b"1"]),
        (100_000, [b"x" * 50_000, b"x" * 50_001]),
        (100_000, [b"x" * 50_000, b"x" * 49_999]),
    ],
)
def test_another_length_than_announced_is_a_broken_answer(stage, plain, announced, pieces):
    """Its start has been passed on, so the client is told by a reset, never by a clean end."""
    call, served = plain
    served.sends_head(says(announced))
    for index, piece in enumerate(pieces):
        if served.reset_code is None:
            served.sends_all(piece, ends=index == len(pieces) - 1)
    assert call.reset_code == frames.INTERNAL_ERROR
    assert not call.ended
    assert len(call.body) <= announced
    assert stage.slice("a").member.failures == 1
    stage.assert_at_rest()


def test_a_head_that_announces_data_and_ends_is_a_502(stage, plain):
    """Nothing of it has been passed on."""
    call, served = plain
    served.sends_head(says(5), ends=True)
    assert (call.status, call.ended) == (502, True)


def test_trailers_before_all_data_are_a_broken_answer(stage):
    call = stage.client().infers()
    served = stage.slice("a").call()
    served.sends_head([*ANSWER_HEAD, (b"content-length", b"9")])
    served.sends(b"half")
    served.sends_head(OK_TRAILERS, ends=True)
    assert (call.body, call.grpc_status) == (b"half", 14)
    assert "content-length" in call.grpc_message


def test_a_grpc_answer_of_the_announced_length_is_passed_on(stage):
    call = stage.client().infers()
    stage.slice("a").call().answers(b"reply", head=[*ANSWER_HEAD, (b"content-length", b"5")])
    assert (call.body, call.grpc_status) == (b"reply", 0)


@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", b"200"), (b"GET", b"304"), (b"GET", b"204")]
)
def test_an_answer_without_a_body_may_announce_one(stage, method, status):
    """RFC 9110 section 8.6: the length that the body would have."""
    headers = [(b":method", method), *PLAIN[1:]]
    call = stage.client().calls(headers=headers, ends=True)
    lax(stage.slice("a").call()).sends_head(says(500, status), ends=True)
    assert (call.status, call.ended, call.body) == (int(status), True, b"")


def test_a_body_where_none_may_be_is_a_broken_answer(stage):
    call = stage.client().calls(headers=[(b":method", b"HEAD"), *PLAIN[1:]], ends=True)
    served = stage.slice("a").call()
    served.sends_head(says(4))
    served.sends(b"body", ends=True)
    assert call.reset_code == frames.INTERNAL_ERROR


def test_a_broken_answer_is_told_to_the_slice_and_counted_against_it(stage, plain):
    _, served = plain
    ends = []
    stage.core._ended = lambda member, key, outcome: ends.append((member.name, outcome))
    served.sends_head(says(3))
    served.sends(b"four")
    assert served.reset_code == frames.PROTOCOL_ERROR
    assert ends == [("a", outcomes.LOST)]
