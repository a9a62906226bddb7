"""Frames from a byte stream: however it is cut, it means the same; whatever it is, it never raises."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.strategies import DataObject

from gateway.relay.http2 import frames
from gateway.relay.http2.budget import Budget
from gateway.relay.http2.frames import END_STREAM, frame
from gateway.relay.http2.framing import FrameReader
from tests.support.h2_peers import STATISTICS, STREAM_INFER, head, message
from tests.support.h2_stage import Stage


class Recorder(FrameReader):
    """Writes down what it is told; pieces of DATA are joined."""

    def __init__(self):
        super().__init__(65536, 8)
        self.told = []
        self.spent = []

    def on_headers(self, stream_id, block, ends):
        self.told.append(("headers", stream_id, block, ends))

    def on_data(self, stream_id, data, size, ends):
        data = bytes(data)
        if self.told and self.told[-1][:2] == ("data", stream_id) and not self.told[-1][4]:
            _, _, before, count, _ = self.told.pop()
            data, size = before + data, count + size
        self.told.append(("data", stream_id, data, size, ends))

    def on_reset(self, stream_id, code):
        self.told.append(("reset", stream_id, code))

    def on_settings(self, entries):
        self.told.append(("settings", entries))

    def on_ping(self, payload):
        self.told.append(("ping", payload))

    def on_goaway(self, last_stream_id, code):
        self.told.append(("goaway", last_stream_id, code))

    def on_window_update(self, stream_id, increment):
        self.told.append(("window", stream_id, increment))

    def is_idle_stream(self, stream_id):
        return False

    def spend(self, what):
        self.spent.append(what)


STREAM = b"".join(
    [
        frames.settings({4: 1000}),
        frame(frames.HEADERS, 4, 1, b"block"),
        frame(frames.DATA, 0, 1, b"x" * 40_000),
        frame(frames.HEADERS, 0x2C, 3, b"\2\0\0\0\0\1blockpp"),
        frame(frames.DATA, 8, 1, b"\5hello" + b"\0" * 5),
        frame(0x55, 0, 7, b"?" * 300),
        frame(frames.DATA, 8, 1, b"\0"),
        frame(frames.PING, 0, 0, b"12345678"),
        frame(frames.HEADERS, 0, 5, b"be"),
        frame(frames.CONTINUATION, 0, 5, b"gin"),
        frame(frames.CONTINUATION, 4, 5, b"end"),
        frame(frames.DATA, 8 | END_STREAM, 1, b"\x09" + b"\0" * 9),
        frame(0x55, 0, 0, b""),
        frame(frames.DATA, END_STREAM, 3, b""),
        frames.window_update(0, 5),
        frames.rst_stream(5, 8),
        frame(frames.PRIORITY, 0, 5, b"\0\0\0\1\0"),
        frames.goaway(5, 0, "bye"),
    ]
)


def told(pieces):
    reader = Recorder()
    for piece in pieces:
        reader.read_frames(piece)
    return reader.told, reader.spent


WHOLE = told([STREAM])


def test_the_whole_stream_is_understood():
    told, spent = WHOLE
    assert [t[0] for t in told] == [
        "settings", "headers", "data", "headers", "data", "ping", "headers", "data",
        "data", "window", "reset", "goaway",
    ]  # fmt: skip
    assert told[4] == ("data", 1, b"hello", 12, False)
    assert told[6] == ("headers", 5, b"beginend", False)
    assert told[7] == ("data", 1, b"", 10, True)
    assert spent == [
        "SETTINGS",
        "unknown frames",
        "empty DATA",
        "unknown frames",
        "PRIORITY",
        "GOAWAY",
    ]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_a_stream_of_frames_means_the_same_however_it_is_cut(cuts, as_views):
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges) if b > a]
    assert told(map(memoryview, pieces) if as_views else pieces) == WHOLE


def test_a_stream_of_frames_may_come_byte_by_byte():
    assert told(STREAM[i : i + 1] for i in range(len(STREAM))) == WHOLE


# --- whole connections ----------------------------------------------------------------------

relaxed = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
kinds = st.integers(0, 12)
random_frames = st.builds(
    frame,
    kinds,
    st.integers(0, 255),
    st.sampled_from([0, 1, 1, 2, 3, 5, 9]),
    st.binary(max_size=40),
)
sensible = st.sampled_from(
    [
        frames.settings({4: 10}),
        frames.settings({4: 100_000, 5: 20_000}),
        frames.window_update(1, 7),
        frames.window_update(0, 100_000),
        frame(frames.DATA, 0, 1, message("m")),
        frame(frames.DATA, 1, 1, b"x" * 30),
        frames.rst_stream(1, 8),
        frame(frames.HEADERS, 4, 1, b"\x88\x0f\x10\x10application/grpc"),
        frame(frames.HEADERS, 5, 1, b"\x00\x0bgrpc-status\x010"),
        frames.goaway(1, 0),
        frames.ping(b"drain\0\0\0", 1),
    ]
)
junk = st.lists(random_frames | sensible | st.binary(max_size=30), max_size=20)


@relaxed
@given(junk)
def test_nothing_a_client_sends_makes_the_relay_raise(pieces):
    stage = Stage("a")
    client = stage.raw_client()
    client.opens(1, ends=False, headers=head(STREAM_INFER))
    for piece in pieces:
        client.sends(piece)
    client.wire.cut()
    stage.settle()
    stage.assert_at_rest()


@relaxed
@given(junk)
def test_nothing_a_slice_sends_makes_the_relay_raise(pieces):
    stage = Stage("a", "b")
    stage.slice("a").silent = True
    client = stage.raw_client()
    client.opens(1, headers=head(STATISTICS))
    client.opens(3, ends=False, headers=head(STREAM_INFER))
    client.sends(frame(frames.DATA, 0, 3, message("m")))
    connection = stage.slice("a").connection
    connection.receive = lambda data: None
    connection.wire.feed(frames.settings({3: 10}))
    for piece in pieces:
        connection.wire.feed(piece)
        stage.settle()
    client.wire.cut()
    stage.settle()
    stage.assert_at_rest()


@relaxed
@given(strategies.data())
def test_a_client_s_bytes_mean_the_same_however_they_arrive(data: DataObject):
    """The slice receives the same calls, byte for byte."""

    def received(pieces):
        stage = Stage("a")
        client = stage.raw_client(greets=False)
        for piece in pieces:
            client.sends(piece)
        assert client.goaway is None
        seen = [(e.head, e.body, e.ended) for e in stage.slice("a").waiting()]
        client.wire.cut()
        stage.settle()
        stage.assert_at_rest()
        return seen

    maker = Stage("a").raw_client()
    whole = frames.PREFACE + frames.settings({})
    for stream_id in (1, 3, 5):
        whole += maker.head(stream_id, ends=False, headers=head(STREAM_INFER))
        whole += frame(frames.DATA, 0, stream_id, message("m", 6000))
        whole += frame(frames.DATA, 8, stream_id, b"\3padded\0\0\0")
    whole += frame(frames.DATA, END_STREAM, 3, b"")
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges) if b > a]
    assert sorted(received(pieces), key=str) == sorted(received([whole]), key=str)


# --- budget ---------------------------------------------------------------------------------


def test_a_budget_is_a_burst_and_a_rate():
    budget = Budget(3, 2, now_s=0.0)
    assert [budget.spend(0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(2.0)
    assert not all(budget.spend(2.0) for _ in range(3))


def test_a_budget_never_holds_more_than_its_burst():
    budget = Budget(3, 2, now_s=0.0)
    assert [budget.spend(1000.0) for _ in range(7)] == [True] * 6 + [False]


@pytest.mark.parametrize(("flags", "size"), [(0, 40_000), (4, 40_000)])
def test_header_frames_cut_a_block_to_the_peer_s_size(flags, size):
    block = bytes(range(250)) * (size // 250)
    reader = Recorder()
    reader._continuations_max = 100
    pieces = frames.header_frames(9, block, end_stream=True, frame_bytes_max=16384)
    whole = b""
    at = 0
    while at < len(pieces):
        length_kind, _, _ = frames.unpack_head(pieces, at)
        assert length_kind >> 8 <= 16384
        whole += pieces[at + 9 : at + 9 + (length_kind >> 8)]
        at += 9 + (length_kind >> 8)
    assert whole == block


@pytest.mark.parametrize("kind", [frames.DATA, 0x55])
def test_a_frame_told_in_pieces_is_waited_for_by_one_byte_only(kind):
    """Its head has come alone: what a slow sender adds must not lie here until it is whole."""
    reader = Recorder()
    whole = frame(kind, 8, 1, b"\x05" + b"x" * 20_000 + b"\0" * 5)
    reader.read_frames(whole[:9])
    reader.read_frames(whole[9:5000])
    assert len(reader._partial) == 0
    reader.read_frames(whole[5000:])
    if kind == frames.DATA:
        assert reader.told == [("data", 1, b"x" * 20_000, 20_006, False)]
