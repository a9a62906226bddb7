"""Sequences over HTTP/2: every request of one reaches the slice that it began on."""

import gzip

import pytest
from tritonclient.grpc import service_pb2

from gateway.fleet.health import Order
from gateway.limits import Limits
from tests.support.h2_peers import ANSWER_HEAD, INFER, OK_TRAILERS, STREAM_INFER, head, message


def request(sequence_id, start=False, end=False, model="m", size=0) -> bytes:
    told = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[b"x" * size])
    parameters = told.parameters
    if isinstance(sequence_id, int):
        parameters["sequence_id"].int64_param = sequence_id
    else:
        parameters["sequence_id"].string_param = sequence_id
    parameters["sequence_start"].bool_param = start
    parameters["sequence_end"].bool_param = end
    data = told.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


@pytest.fixture
def sequences(make_stage):
    stage = make_stage("a", "b", "c")
    stage.registry.sequences.follow("m", 1.0)
    return stage


def serve(stage, name=None) -> str:
    """Answer the one call that is waiting; return which slice had it."""
    waiting = [s for s in stage.slices.values() if s.waiting()]
    assert len(waiting) == 1, [s.member.name for s in waiting]
    waiting[0].call().answers(b"reply")
    if name is not None:
        assert waiting[0].member.name == name
    return waiting[0].member.name


def sends(stage, client, data, path=INFER) -> str:
    call = client.calls(path, data, ends=True)
    name = serve(stage)
    assert call.grpc_status == 0
    return name


def table(stage):
    return stage.registry.sequences.by_model["m"]


def test_interleaved_sequences_stay_where_they_began(sequences):
    client = sequences.client()
    ids = [1, 2, 3, "1", "2", "3"]
    homes = {key: sends(sequences, client, request(key, start=True)) for key in ids}
    assert sorted(homes.values()) == ["a", "a", "b", "b", "c", "c"]
    for _ in range(3):
        for key in ids:
            assert sends(sequences, sequences.client(), request(key)) == homes[key]
    for key in ids:
        assert sends(sequences, client, request(key, end=True)) == homes[key]
    assert not table(sequences).live


def test_a_request_is_bound_as_soon_as_its_sequence_is_known(sequences):
    data = request(7, start=True, size=100_000)
    call = sequences.client().calls(INFER, data[:60])
    assert not any(peer.waiting() for peer in sequences.slices.values())
    call.sends(data[60:200])
    served = [peer for peer in sequences.slices.values() if peer.waiting()]
    assert len(served) == 1
    call.sends_all(data[200:], ends=True)
    serve(sequences)
    assert call.grpc_status == 0


def test_a_request_that_comes_byte_by_byte(sequences):
    data = request(7, start=True)
    call = sequences.client().calls(INFER)
    for at in range(len(data)):
        call.sends(data[at : at + 1], ends=at == len(data) - 1)
    serve(sequences)
    assert len(table(sequences).live) == 1


def test_a_compressed_request(sequences):
    def packed(data):
        small = gzip.compress(data[5:])
        return b"\1" + len(small).to_bytes(4, "big") + small

    client = sequences.client()
    for key in (5, 6):
        home = sends(sequences, client, packed(request(key, start=True)))
        assert sends(sequences, client, packed(request(key))) == home
        assert sends(sequences, client, request(key)) == home


def test_other_requests_of_the_model_go_anywhere_and_are_replayed(sequences):
    call = sequences.client().infers()
    next(p for p in sequences.slices.values() if p.waiting()).call().peer.cuts()
    serve(sequences)
    assert call.grpc_status == 0
    assert not table(sequences).live


def test_requests_of_a_sequence_are_never_replayed(sequences):
    client = sequences.client()
    home = sends(sequences, client, request(5, start=True))
    call = client.calls(INFER, request(5), ends=True)
    sequences.slice(home).call().peer.cuts()
    assert not any(peer.waiting() for peer in sequences.slices.values())
    assert call.grpc_status == 14
    assert "its sequence cannot go on elsewhere; start it again" in call.grpc_message


def test_a_disabled_slice_brings_its_sequences_to_their_end(sequences):
    client = sequences.client()
    home = sends(sequences, client, request(5, start=True))
    member = sequences.slice(home).member
    sequences.registry.order(member, Order.DISABLED, "test")
    sequences.links.close_slice(member)
    for key in range(10, 16):
        assert sends(sequences, client, request(key, start=True)) != home
    assert sends(sequences, client, request(5)) == home
    assert sends(sequences, client, request(5, end=True)) == home


def test_a_slice_that_is_lost_takes_only_its_own_sequences(sequences):
    client = sequences.client()
    homes = {key: sends(sequences, client, request(key, start=True)) for key in (1, 2, 3)}
    sequences.registry.condemn(sequences.slice(homes[1]).member, "killed")
    assert sends(sequences, client, request(1)) != homes[1], "Triton's own error comes from another"
    assert sends(sequences, client, request(2)) == homes[2]
    assert sends(sequences, client, request(3)) == homes[3]


def test_an_idle_sequence_is_forgotten(sequences):
    client = sequences.client()
    sends(sequences, client, request(5, start=True))
    sequences.advance(2.5)
    sequences.registry.tick(0.25)
    assert not table(sequences).live


def test_too_many_sequences_are_refused(sequences):
    table(sequences)._live_max = 1
    client = sequences.client()
    sends(sequences, client, request(1, start=True))
    call = client.calls(INFER, request(2, start=True), ends=True)
    assert call.grpc_status == 8
    assert sequences.counters.limits == {"sequences": 1}


def test_a_stream_is_bound_by_its_first_sequence_and_takes_the_others_along(sequences):
    client = sequences.client()
    home = sends(sequences, client, request(1, start=True))
    stream = client.calls(STREAM_INFER, request(1))
    served = sequences.slice(home).call()
    second = request(2, start=True, size=40_000)
    stream.sends_all(second[:7])
    stream.sends_all(second[7:])
    stream.sends_all(request(3, start=True) + request(3, end=True))
    assert served.body.endswith(request(3, end=True))
    assert {key for _, key in table(sequences).live} == {1, 2}
    assert sends(sequences, sequences.client(), request(2)) == home
    served.peer.cuts()
    assert stream.grpc_status == 14
    assert "start it again" in stream.grpc_message


def test_only_such_models_are_looked_into(make_stage):
    stage = make_stage("a", limits=Limits())
    call = stage.client().calls(INFER, request(1, start=True)[:12])
    assert stage.slice("a").waiting(), "bound by the name alone"
    call.resets()
    assert not stage.registry.sequences.by_model


def test_the_head_alone_of_an_answer_does_not_end_a_request(sequences):
    client = sequences.client()
    home = sends(sequences, client, request(1, start=True))
    call = client.calls(INFER, request(1, end=True), ends=True)
    served = sequences.slice(home).call()
    served.sends_head(ANSWER_HEAD)
    assert table(sequences).live
    served.sends_head(OK_TRAILERS, ends=True)
    assert not table(sequences).live
    assert call.grpc_status == 0


def test_a_call_without_a_message_goes_anywhere(sequences):
    sequences.client().calls(headers=head(INFER), ends=True)
    serve(sequences)
    assert message("m")[5:]
