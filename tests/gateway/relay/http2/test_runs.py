"""Large bodies: frames that follow each other in memory are passed on as they lie there."""

import itertools
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.limits import KIB, Limits
from gateway.relay.http2 import frames
from gateway.relay.http2 import reading as reading_module
from gateway.relay.http2.runs import Run, run_at
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


def test_a_run_stops_at_whatever_is_not_plain_data_of_its_stream():
    plain = frames.frame(frames.DATA, 0, 1, b"x" * 10)
    last = frames.frame(frames.DATA, frames.END_STREAM, 1, b"y")
    for stop in (
        frames.frame(frames.DATA, 0, 3, b"z"),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\0z"),
        frames.frame(frames.DATA, 0, 1, b""),
        frames.frame(frames.HEADERS, 0, 1, b"z"),
        plain[:12],
        plain[:4],
    ):
        memory = memoryview(bytearray(plain + plain + stop))
        run = run_at(memory, 0, len(memory), 1)
        assert (bytes(run.view), run.payload, run.largest, run.ends) == (plain * 2, 20, 10, False)
    memory = memoryview(bytearray(plain + last + plain))
    run = run_at(memory, 0, len(memory), 1)
    assert (bytes(run.view), run.payload, run.ends) == (plain + last, 11, True)


@given(
    sizes=st.lists(st.sampled_from([1, 10, 10, 10, 10, 10, 11]), min_size=1, max_size=30),
    odd=st.sampled_from(["", "flag", "stream", "kind", "reserved", "end"]),
    at=st.integers(0, 29),
)
def test_a_run_is_all_plain_frames_up_to_the_first_odd_one(sizes, odd, at):
    listed = [(frames.DATA, 0, 1, body_of(size)) for size in sizes]
    kind, flags, stream_id, body = listed[at % len(sizes)]
    listed[at % len(sizes)] = {
        "": (kind, flags, stream_id, body),
        "flag": (kind, 2, stream_id, body),
        "stream": (kind, flags, 3, body),
        "kind": (frames.HEADERS, flags, stream_id, body),
        "reserved": (kind, flags, 1 << 31 | 1, body),
        "end": (kind, frames.END_STREAM, stream_id, body),
    }[odd]
    wanted = []
    for each in listed:
        if each[0] != frames.DATA or each[1] > 1 or each[2] & 0x7FFFFFFF != 1:
            break
        wanted.append(each)
        if each[1]:
            break
    memory = memoryview(bytearray(b"".join(frames.frame(*each) for each in listed)))
    if not wanted:
        return  # whoever asks for a run has looked at its first frame
    run = run_at(memory, 0, len(memory), 1)
    assert bytes(run.view) == b"".join(frames.frame(*each) for each in wanted)
    assert run.payload == sum(len(each[3]) for each in wanted)
    assert run.largest == max(len(each[3]) for each in wanted)
    assert run.ends == bool(wanted[-1][1])
    run.readdress(0x01020304)
    anew = [frames.frame(kind, flags, 0x01020304, body) for kind, flags, _, body in wanted]
    assert bytes(run.view) == b"".join(anew)


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


def test_a_run_readdressed_is_the_same_frames_of_another_stream():
    whole = b"".join(frames.frame(frames.DATA, 0, 1, body_of(n)) for n in (1, 10, 500))
    run = Run(memoryview(bytearray(whole)), 511, 500, False)
    run.readdress(77)
    wanted = b"".join(frames.frame(frames.DATA, 0, 77, body_of(n)) for n in (1, 10, 500))
    assert bytes(run.view) == wanted
    assert b"".join(run.pieces()) == body_of(1) + body_of(10) + body_of(500)
