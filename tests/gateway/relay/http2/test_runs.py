"""Large bodies: frames that follow each other in memory are passed on as they lie there."""

import itertools
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.limits import KIB, Limits
from gateway.relay.http2 import frames
from gateway.relay.http2 import reading as reading_module
from gateway.relay.http2.runs import runs_at
from gateway.relay.slabs import SlabReader
from tests.support.h2_peers import ANSWER_HEAD, OK_TRAILERS, STREAM_INFER, head, message
from tests.support.h2_stage import Stage

WIDE = {
    frames.SETTING_INITIAL_WINDOW_SIZE: 1 << 20,
    frames.SETTING_MAX_FRAME_SIZE: 1 << 18,
}


@pytest.fixture
def wide(make_stage):
    """Peers whose windows are never in the way."""
    stage = make_stage("a", "b")
    for name in "ab":
        stage.slice(name).settings = WIDE
    return stage


def wide_client(stage: Stage):
    client = stage.client(initial_window_size=1 << 20, max_frame_size=1 << 18)
    client.conn.increment_flow_control_window(1 << 30)
    return client


def open_wide(peer):
    if peer.conn.inbound_flow_control_window < 1 << 29:
        peer.conn.increment_flow_control_window(1 << 30)
        peer.stage.settle()


def body_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_after_a_large_read_a_connection_reads_into_slabs_and_back(wide):
    client = wide_client(wide)
    call = client.calls(STREAM_INFER, message("m"))
    open_wide(wide.slice("a").connection)
    assert client.wire.protocol is client.downstream
    call.sends(body_of(50_000))
    assert isinstance(client.wire.protocol, SlabReader)
    for _ in range(reading_module.SMALL_READS_MAX + 1):
        call.sends(b"x")
    assert client.wire.protocol is client.downstream
    call.sends(body_of(50_000))
    assert isinstance(client.wire.protocol, SlabReader)


def test_a_run_goes_in_one_write_and_arrives_whole(wide, monkeypatch):
    client = wide_client(wide)
    call = client.calls(STREAM_INFER, message("m"))
    served = wide.slice("a").call()
    open_wide(served.peer)
    call.sends(body_of(50_000))
    writes = []
    write = served.peer.wire.writelines
    monkeypatch.setattr(
        served.peer.wire, "writelines", lambda pieces: (writes.append(len(pieces)), write(pieces))
    )
    call.sends(body_of(120_000), ends=True, frame_bytes=8000)
    assert writes == [1]
    assert served.body == message("m") + body_of(50_000) + body_of(120_000)
    assert served.sizes[-15:] == [8000] * 15
    assert served.ended
    served.answers()
    assert call.grpc_status == 0
    wide.assert_at_rest()


def test_the_frames_of_two_calls_in_turn_go_to_each_slice_in_one_write(wide, monkeypatch):
    client = wide_client(wide)
    calls = [client.calls(STREAM_INFER, message("m")) for _ in "ab"]
    served = [wide.slice(name).call() for name in "ab"]
    writes = []
    for one in served:
        open_wide(one.peer)
        write = one.peer.wire.writelines
        monkeypatch.setattr(
            one.peer.wire,
            "writelines",
            lambda pieces, name=one.peer, write=write: (writes.append(name), write(pieces)),
        )
    calls[0].sends(body_of(50_000))
    writes.clear()
    bodies = [body_of(8000 * i) for i in (6, 7)]
    turns = [
        frames.frame(frames.DATA, int(ends), call.id, body[at : at + 8000])
        for at in range(0, 56_000, 8000)
        for call, body in zip(calls, bodies, strict=True)
        for ends in [at + 8000 == len(body)]
        if at < len(body)
    ]
    client.raw(b"".join(turns))
    assert sorted(writes, key=id) == sorted((one.peer for one in served), key=id)
    assert served[0].body == message("m") + body_of(50_000) + bodies[0]
    assert served[1].body == message("m") + bodies[1]
    assert all(one.ended for one in served)


def test_a_run_of_an_answer_arrives_whole(wide):
    client = wide_client(wide)
    call = client.infers()
    served = wide.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(body_of(60_000))
    served.sends(body_of(100_000), frame_bytes=9000)
    served.sends(body_of(100_001), frame_bytes=9000)
    served.sends_head(OK_TRAILERS, ends=True)
    assert call.body == body_of(60_000) + body_of(100_000) + body_of(100_001)
    assert (call.grpc_status, call.ended) == (0, True)
    assert served.window > 100_000
    wide.assert_at_rest()


def test_a_run_is_sent_again_to_another_slice_with_that_stream_s_number(wide):
    """Also while the first connection has not yet written it: that one must not change."""
    client = wide_client(wide)
    for _ in range(3):  # stream ids on `b` are ahead of those on `a`
        client.infers()
    for name in "aba":
        wide.slice(name).call().answers()
    call = client.calls(STREAM_INFER, message("m"))
    first = wide.slice("b").call()
    open_wide(first.peer)
    call.sends(body_of(50_000))
    first.peer.stalls()
    call.sends(body_of(150_000), ends=True, frame_bytes=8000)
    first.peer.raw(frames.rst_stream(first.id, frames.REFUSED_STREAM))
    second = wide.slice("a").call()
    open_wide(second.peer)
    whole = message("m") + body_of(50_000) + body_of(150_000)
    assert second.id != first.id
    assert (second.body, second.ended) == (whole, True)
    first.peer.stalls(False)
    assert first.body == whole
    second.answers(b"reply")
    assert call.body == b"reply"
    wide.assert_at_rest()


def test_the_announced_length_is_kept_in_runs_too(wide):
    for length, code in ((100_000, None), (99_999, 1), (100_001, 1)):
        client = wide_client(wide)
        more = [(b"content-length", b"%d" % (length + 50_000 + len(message("m"))))]
        call = client.calls(STREAM_INFER, message("m"), more=more)
        call.sends(body_of(50_000))
        for peer in (c for s in wide.slices.values() for c in s.connections):
            open_wide(peer)
        call.sends(body_of(100_000), ends=True, frame_bytes=8000)
        assert call.reset_code == code


def test_a_run_larger_than_a_window_goes_frame_by_frame(make_stage):
    stage = make_stage("a", limits=Limits(replay_bytes=0))
    client = wide_client(stage)
    call = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.peer.reads = False
    call.sends(body_of(40_000))
    call.sends(body_of(100_000), ends=True, frame_bytes=8000)
    assert len(served.body) == 65535
    served.peer.reads = True
    served.reads()
    assert served.body == message("m") + body_of(40_000) + body_of(100_000)
    assert served.ended


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([1, 100, 4095, 4096, 5000, 16384, 40_000]), max_size=12),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    other=st.booleans(),
)
def test_frames_of_any_sizes_cut_anywhere_arrive_whole(sizes, cuts, other):
    """Two calls' frames in one stream of bytes, through slabs, as the reads happen to fall."""
    stage = Stage("a", "b", limits=Limits(frame_bytes=256 * KIB))
    for name in "ab":
        stage.slice(name).settings = WIDE
    client = stage.raw_client()
    path = head(STREAM_INFER)
    client.sends(client.head(1, ends=False, headers=path), client.head(3, ends=False, headers=path))
    start = message("m", 70_000)
    client.sends(*(frames.frame(frames.DATA, 0, i, start) for i in (1, 3)))
    served = [stage.slice("a").call(), stage.slice("b").call()]
    for exchange in served:
        open_wide(exchange.peer)
    wanted = {1: start, 3: start}
    stream = b""
    for index, size in enumerate(sizes):
        stream_id = 3 if other and index % 3 == 2 else 1
        body = body_of(size + index)
        wanted[stream_id] += body
        stream += frames.frame(frames.DATA, 0, stream_id, body)
    stream += frames.frame(frames.DATA, 1, 1, b"") + frames.frame(frames.DATA, 1, 3, b"end")
    wanted[3] += b"end"
    edges = sorted({0, len(stream), *(int(cut * len(stream)) for cut in cuts)})
    for a, b in itertools.pairwise(edges):
        client.sends(stream[a:b])
    assert [exchange.body for exchange in served] == [wanted[1], wanted[3]]
    assert all(exchange.ended for exchange in served)
    client.wire.cut()
    stage.settle()
    stage.assert_at_rest()


def runs_in(listed, targets=None, frame_bytes_max=1 << 14, frame_bytes_min=1):
    """Sort `listed` frames; return how many were taken, and the runs."""
    memory = memoryview(bytearray(b"".join(frames.frame(*each) for each in listed)))
    asked = []

    def target_of(stream_id):
        asked.append(stream_id)
        return (targets or {1: 101, 3: 103}).get(stream_id, 0)

    end, runs = runs_at(memory, 0, frame_bytes_max, frame_bytes_min, target_of)
    assert len(asked) <= len({each[2] & frames.STREAM_ID_MAX for each in listed})
    ends = [0, *itertools.accumulate(frames.FRAME_HEAD_BYTES + len(each[3]) for each in listed)]
    return ends.index(end), runs


PLAIN = (frames.DATA, 0, 1, b"x" * 10)


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param((frames.DATA, 0, 5, b"z"), id="a stream without a target"),
        pytest.param((frames.DATA, frames.PADDED, 1, b"\0z"), id="padded"),
        pytest.param((frames.DATA, 0, 1, b""), id="empty"),
        pytest.param((frames.HEADERS, 0, 1, b"z"), id="headers"),
        pytest.param((frames.DATA, 0, 1, b"z" * 51), id="too large"),
    ],
)
def test_runs_stop_at_whatever_is_not_plain_data(stop):
    taken, (run,) = runs_in([PLAIN, PLAIN, stop, PLAIN], frame_bytes_max=50)
    assert (taken, run.payload, run.largest, run.ends) == (2, 20, 10, False)


def test_runs_stop_behind_the_end_of_a_stream_and_at_a_part_of_a_frame():
    last = (frames.DATA, frames.END_STREAM, 1, b"")
    taken, (run,) = runs_in([PLAIN, last, PLAIN])
    assert (taken, run.payload, run.ends) == (2, 10, True)
    whole = frames.frame(*PLAIN)
    for part in (whole[:12], whole[:4]):
        memory = memoryview(bytearray(whole + part))
        assert runs_at(memory, 0, 1 << 14, 1, lambda _: 7)[0] == len(whole)


def test_each_frame_must_be_worth_it_but_one_that_ends_its_stream():
    """Else a peer could have a megabyte of tiny frames sorted before anybody else has a turn."""
    large = (frames.DATA, 0, 1, b"y" * 100)
    taken, (run,) = runs_in([large, PLAIN, large], frame_bytes_min=50)
    assert (taken, run.payload) == (1, 100)
    last = (frames.DATA, frames.END_STREAM, 1, b"z")
    taken, (run,) = runs_in([large, last], frame_bytes_min=50)
    assert (taken, run.payload, run.ends) == (2, 101, True)
    assert runs_in([last], frame_bytes_min=50) == (0, [])


@given(
    listed=st.lists(
        st.tuples(
            st.just(frames.DATA),
            st.sampled_from([0, 0, 0, 0, 0, 1, 2]),
            st.sampled_from([1, 1, 1, 3, 3, 5, 1 << 31 | 1]),
            st.sampled_from([1, 10, 10, 10, 11, 0]).map(body_of),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_runs_are_all_plain_frames_up_to_the_first_odd_one(listed):
    wanted, ended = {}, set()
    count = 0
    for kind, flags, numbered, body in listed:
        stream_id = numbered & frames.STREAM_ID_MAX
        if flags > 1 or stream_id == 5 or stream_id in ended or not (body or flags):
            break
        if stream_id not in wanted and not body:
            break  # no run begins with an empty frame
        count += 1
        wanted.setdefault(stream_id, []).append((kind, flags, stream_id + 100, body))
        if flags:
            ended.add(stream_id)
    taken, runs = runs_in(listed)
    assert taken == count
    assert [run.stream_id for run in runs] == list(wanted)
    for run in runs:
        mine = wanted[run.stream_id]
        assert b"".join(run.views) == b"".join(frames.frame(*each) for each in mine)
        assert run.payload == sum(len(each[3]) for each in mine)
        assert run.largest == max(len(each[3]) for each in mine)
        assert run.ends == bool(mine[-1][1])
        assert [bytes(piece) for piece in run.pieces()] == [each[3] for each in mine]


def test_frames_that_follow_each_other_are_one_piece_of_memory():
    other = (frames.DATA, 0, 3, b"y" * 10)
    _, (run, _) = runs_in([PLAIN, PLAIN, other, PLAIN, other])
    assert [len(view) for view in run.views] == [38, 19]


@pytest.mark.parametrize(("flags", "stream_id"), [(0x02, 1), (0, 1 << 31 | 1)])
def test_what_is_to_be_ignored_in_a_head_holds_up_nobody(stage, flags, stream_id):
    """An undefined flag and the reserved bit, among frames that could go as they lie."""
    client = stage.raw_client()
    client.sends(client.head(1, ends=False, headers=head(STREAM_INFER)))
    client.sends(frames.frame(frames.DATA, 0, 1, message("m", 50)))
    served = stage.slice("a").call()
    odd = frames.frame(frames.DATA, flags, stream_id, b"y" * 8000)
    plain = frames.frame(frames.DATA, 0, 1, b"x" * 8000)
    client.sends(plain * 5)  # from here on it is read into slabs
    client.sends(plain + odd + plain + odd * 6 + frames.frame(frames.DATA, 1, 1, b""))
    assert len(served.body) == len(message("m", 50)) + 14 * 8000
    assert served.ended
