"""Calls that the composer answers: collected whole, within limits, whatever their size."""

import gzip
from dataclasses import dataclass
from urllib.parse import unquote

import pytest

from gateway.limits import KIB, Limits, Timeouts
from tests.support.h2_peers import GRPC, STATISTICS, head
from tests.support.h2_stage import Gate


@dataclass
class Answer:
    status: int = 0
    details: str = ""
    message: bytes = b""


class ScriptedComposer:
    """Answers what it is told, once its gate is open."""

    def __init__(self) -> None:
        self.asked = []
        self.answer = Answer(message=b"answer")
        self.gate = Gate()
        self.gate.opened = True

    async def grpc(self, path, metadata, message, timeout_s):
        self.asked.append((path, metadata, message, timeout_s))
        await self.gate
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def composed(make_stage):
    def make(**options):
        stage = make_stage("a", "b", **options)
        stage.core.composer = ScriptedComposer()
        return stage, stage.core.composer

    return make


def prefixed(data: bytes, flag: bytes = b"\0") -> bytes:
    return flag + len(data).to_bytes(4, "big") + data


def test_a_call_is_handed_over_whole_and_answered(composed):
    stage, composer = composed()
    headers = head(STATISTICS, (b"grpc-timeout", b"5S"), (b"x-key", b"v"))
    call = stage.client().calls(headers=headers, data=prefixed(b"question"), ends=True)
    assert (call.body, call.grpc_status) == (prefixed(b"answer"), 0)
    path, metadata, message, timeout_s = composer.asked[0]
    assert (path, message) == (STATISTICS, b"question")
    assert (b"x-key", b"v") in metadata
    assert 4.0 < timeout_s <= 5.0
    assert len(stage.core.composed) == 0
    stage.assert_at_rest()


def test_an_error_arrives_as_it_was_said(composed):
    stage, composer = composed()
    composer.answer = Answer(3, "no such model: é%")
    call = stage.client().calls(STATISTICS, prefixed(b""), ends=True)
    assert call.grpc_status == 3
    assert unquote(call.grpc_message) == "no such model: é%"


def test_without_a_composer_a_slice_answers_for_itself(stage):
    stage.client().calls(STATISTICS, prefixed(b""), ends=True)
    assert stage.slice("a").waiting()


def test_messages_larger_than_every_window_pass_both_ways(composed):
    stage, composer = composed(limits=Limits(stream_window=65536, connection_window=65536))
    composer.answer = Answer(message=b"y" * 500_000)
    call = stage.client().calls(STATISTICS)
    call.sends_all(prefixed(b"x" * 700_000), ends=True)
    while call.unread:
        call.reads()
    assert composer.asked[0][2] == b"x" * 700_000
    assert call.body == prefixed(b"y" * 500_000)
    assert call.grpc_status == 0
    stage.assert_at_rest()


def test_a_message_that_is_too_large_is_refused(composed):
    stage, composer = composed(limits=Limits(body_bytes=100_000, frame_bytes=256 * KIB))
    call = stage.client().calls(STATISTICS)
    call.sends_all(prefixed(b"x" * 200_000))
    assert call.grpc_status == 8
    assert not composer.asked
    stage.assert_at_rest()


@pytest.mark.parametrize("data", [b"", b"\0\0\0", prefixed(b"x")[:-1], prefixed(b"x") * 2])
def test_what_is_not_one_message_is_refused(composed, data):
    stage, composer = composed()
    call = stage.client().calls(STATISTICS, data, ends=True)
    assert call.grpc_status == 13
    assert not composer.asked


def test_a_compressed_message_is_opened_within_bounds(composed):
    stage, composer = composed()
    client = stage.client()

    def calls(data, encoding):
        more = [(b"grpc-encoding", encoding)]
        return client.calls(STATISTICS, prefixed(data, b"\1"), ends=True, more=more)

    assert calls(gzip.compress(b"question"), b"gzip").grpc_status == 0
    assert composer.asked[0][2] == b"question"
    assert calls(gzip.compress(bytes(20 << 20)), b"gzip").grpc_status == 8
    assert calls(b"whatever", b"snappy").grpc_status == 12
    assert calls(gzip.compress(b"question")[:-3], b"gzip").grpc_status == 13
    assert len(composer.asked) == 1


def test_a_client_that_cancels_or_leaves_ends_the_task(composed):
    stage, composer = composed()
    composer.gate.opened = False
    client = stage.client()
    call = client.calls(STATISTICS, prefixed(b""), ends=True)
    assert len(stage.core.composed) == 1
    call.resets()
    assert len(stage.core.composed) == 0
    client.calls(STATISTICS, prefixed(b""), ends=True)
    client.cuts()
    stage.settle()
    assert len(stage.core.composed) == 0
    assert not stage.loop.mistakes
    stage.assert_at_rest()


def test_the_calls_own_deadline_and_the_gateways_end_it(composed):
    stage, composer = composed(timeouts=Timeouts(response_s=3.0))
    composer.gate.opened = False
    client = stage.client()
    own = client.calls(
        headers=head(STATISTICS, (b"grpc-timeout", b"1S")), data=prefixed(b""), ends=True
    )
    other = client.calls(STATISTICS, prefixed(b""), ends=True)
    stage.advance(1.2)
    assert own.grpc_status == 4
    assert not other.ended
    stage.advance(3.0)
    assert other.grpc_status == 4
    assert len(stage.core.composed) == 0


def test_only_so_many_at_once(composed):
    stage, composer = composed(limits=Limits(composed_calls=2))
    composer.gate.opened = False
    client = stage.client()
    calls = [client.calls(STATISTICS, prefixed(b""), ends=True) for _ in range(3)]
    assert [call.grpc_status for call in calls] == [None, None, 8]
    assert stage.counters.limits == {"composed_calls": 1}


def test_a_mistake_of_the_composer_is_told_and_reported(composed):
    stage, composer = composed()
    composer.answer = ValueError("oops")
    call = stage.client().calls(STATISTICS, prefixed(b""), ends=True)
    assert call.grpc_status == 13
    assert [str(error) for error in stage.loop.mistakes] == ["oops"]


def test_trailers_end_a_request_as_well(composed):
    stage, _ = composed()
    call = stage.client().calls(STATISTICS, prefixed(b"q"))
    call.sends_head([(b"x-checksum", b"1")], ends=True)
    assert call.grpc_status == 0


def test_what_is_not_grpc_goes_to_a_slice(composed):
    stage, composer = composed()
    plain = [each for each in head(STATISTICS) if each != GRPC]
    stage.client().calls(headers=plain, ends=True)
    assert stage.slice("a").waiting()
    assert not composer.asked
