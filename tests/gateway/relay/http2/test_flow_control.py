"""Windows, both ways: nobody is sent more than it allows, and who is slow holds up only itself."""

from gateway.limits import KIB, Limits
from gateway.relay.http2 import frames
from tests.support.h2_peers import ANSWER_HEAD, INFER, OK_TRAILERS, STREAM_INFER, message
from tests.support.h2_stage import Stage

LARGE_FRAMES = Limits(frame_bytes=256 * KIB)


def test_a_large_body_flows_both_ways_in_frames_that_each_peer_allows(make_stage):
    """The client announces 16 KiB and so does the slice; the gateway takes up to 256 KiB."""
    stage = make_stage("a", "b", limits=LARGE_FRAMES)
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    body = bytes(range(256)) * 12_000  # 3 MB
    call.sends_all(body, ends=True)
    assert served.body == message("m") + body
    assert max(served.sizes) <= 16384
    served.sends_head(ANSWER_HEAD)
    served.sends_all(body)
    served.sends_head(OK_TRAILERS, ends=True)
    assert call.body == body
    assert max(call.sizes) <= 16384
    stage.assert_at_rest()


def test_peers_that_allow_large_frames_are_sent_large_frames(make_stage):
    stage = make_stage("a", "b", limits=LARGE_FRAMES)
    for name in "ab":
        stage.slice(name).settings = {
            frames.SETTING_MAX_FRAME_SIZE: 1 << 20,
            frames.SETTING_INITIAL_WINDOW_SIZE: 1 << 20,
        }
    client = stage.client(max_frame_size=1 << 20, initial_window_size=1 << 20)
    warm = client.infers()
    stage.slice("a").call().answers()
    assert warm.ended
    connection = stage.slice("a").connection
    connection.conn.increment_flow_control_window(1 << 20)
    client.conn.increment_flow_control_window(1 << 20)
    stage.slice("b").member.charge = 5.0  # so that the next goes to `a`
    call = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    call.sends(b"q" * 200_000)
    assert max(served.sizes) == 200_000
    served.sends_head(ANSWER_HEAD)
    served.sends(b"r" * 200_000)
    assert max(call.sizes) == 200_000


def test_a_slow_client_stops_its_slice_and_nobody_else(stage):
    """What the slice may be ahead is the answer window; other calls of both peers go on."""
    slow, quick = stage.client(), stage.client()
    slow.reads = False
    stuck = slow.calls(STREAM_INFER, message("m"))
    stuck_served = stage.slice("a").call()
    stage.slice("b").member.charge = 50.0  # all to the same connection
    other = quick.calls(STREAM_INFER, message("m"))
    other_served = stage.slice("a").call()
    assert stuck_served.peer is other_served.peer
    for served in (stuck_served, other_served):
        served.sends_head(ANSWER_HEAD)
    window = stage.core.limits.answer_window
    sent = 0
    while stuck_served.window > 0:
        piece = b"x" * min(16384, stuck_served.window)
        stuck_served.sends(piece)
        sent += len(piece)
    assert len(stuck.body) == 65535
    assert sent <= window + 65535
    assert stage.core.buffered_bytes == sent - 65535
    other_served.sends_all(b"y" * 1_000_000)
    assert len(other.body) == 1_000_000
    slow.reads = True
    stuck.reads()
    assert len(stuck.body) == sent
    assert stage.core.buffered_bytes == 0
    assert stuck_served.window > window // 4
    stuck_served.sends_head(OK_TRAILERS, ends=True)
    assert stuck.grpc_status == 0


def test_a_slow_slice_stops_its_client_s_stream_and_no_other(make_stage):
    stage = make_stage("a", limits=Limits(replay_bytes=0))
    client = stage.client()
    stuck = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.peer.reads = False
    other = client.calls(STREAM_INFER, message("m"))
    other_served = stage.slice("a").call()
    sent = len(message("m"))
    while stuck.window > 0:
        piece = b"x" * min(16384, stuck.window)
        stuck.sends(piece)
        sent += len(piece)
    assert len(served.body) + len(other_served.body) == 65535  # the slice's connection window
    assert sent <= stage.core.limits.stream_window + 65535
    assert stuck.window == 0
    served.peer.reads = True
    served.reads()
    other_served.reads()
    stage.settle()
    assert len(served.body) == sent
    assert stuck.window > 0
    other.sends_all(b"y" * 500_000)
    assert len(other_served.body) == 500_000 + len(message("m"))


def test_a_client_that_reads_nothing_from_its_socket_stops_its_slice(stage):
    client = stage.client(initial_window_size=2**31 - 1)
    client.conn.increment_flow_control_window(2**31 - 1 - 65535)
    call = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    client.stalls()
    sent = 0
    while served.window > 0:
        piece = b"x" * min(16384, served.window)
        served.sends(piece)
        sent += len(piece)
    assert sent <= stage.core.limits.answer_window * 2 + 65536
    client.stalls(False)
    assert len(call.body) == sent
    assert served.window > 0
    assert stage.core.buffered_bytes == 0


def test_trailers_wait_behind_data_that_waits(stage):
    client = stage.client(initial_window_size=10)
    client.reads = False
    call = client.infers()
    served = stage.slice("a").call()
    served.answers(b"x" * 25)
    assert (call.body, call.trailers) == (b"x" * 10, None)
    assert stage.in_flight == 0  # the slice has done its part
    assert stage.core.buffered_bytes == 15
    call.reads()
    call.reads()
    assert (call.body, call.grpc_status) == (b"x" * 25, 0)
    stage.assert_at_rest()


def test_a_window_of_one_byte_is_kept(stage):
    """RFC 9113 section 6.9.2; a client may open it later."""
    client = stage.client(initial_window_size=1)
    client.reads = False
    call = client.infers()
    stage.slice("a").call().answers(b"reply")
    assert call.body == b"r"
    client.change({frames.SETTING_INITIAL_WINDOW_SIZE: 3})
    assert call.body == b"rep"
    call.reads()
    assert call.body == b"reply"
    assert call.grpc_status == 0


def test_a_window_made_smaller_may_become_negative(stage):
    """RFC 9113 section 6.9.2: what was sent counts; the peer opens it above zero first."""
    client = stage.client()
    client.reads = False
    call = client.infers()
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"x" * 1000)
    client.change({frames.SETTING_INITIAL_WINDOW_SIZE: 100})  # 900 below zero
    served.sends(b"y" * 50)
    assert len(call.body) == 1000
    client.conn.increment_flow_control_window(900, call.id)
    stage.settle()
    assert len(call.body) == 1000
    client.conn.increment_flow_control_window(50, call.id)
    stage.settle()
    assert call.body == b"x" * 1000 + b"y" * 50
    served.sends_head(OK_TRAILERS, ends=True)
    assert call.grpc_status == 0


def test_an_empty_end_passes_a_shut_window_and_waits_at_a_negative_one(stage):
    """RFC 9113 section 6.9.1 lets it pass; h2 4.4 takes one below zero for a breach."""
    client = stage.client()
    client.reads = False
    call = client.infers()
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"x" * 1000)
    client.change({frames.SETTING_INITIAL_WINDOW_SIZE: 100})
    served.sends(b"", ends=True)
    assert not call.ended
    client.conn.increment_flow_control_window(900, call.id)
    stage.settle()
    assert call.ended
    stage.assert_at_rest()


def test_an_empty_end_waits_behind_data_at_a_negative_window(stage):
    client = stage.client()
    client.reads = False
    call = client.infers()
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    served.sends(b"x" * 1000)
    client.change({frames.SETTING_INITIAL_WINDOW_SIZE: 100})
    served.sends(b"y")
    served.sends(b"", ends=True)
    assert len(call.body) == 1000
    assert not call.ended
    client.change({frames.SETTING_INITIAL_WINDOW_SIZE: 5000})
    assert call.ended
    assert len(call.body) == 1001


def test_a_slice_that_makes_its_windows_smaller_is_obeyed(stage):
    call = stage.client().calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.peer.reads = False
    call.sends(b"x" * 1000)
    served.peer.change({frames.SETTING_INITIAL_WINDOW_SIZE: 10})
    call.sends(b"y" * 100, ends=True)
    assert len(served.body) == len(message("m")) + 1000
    served.peer.change({frames.SETTING_INITIAL_WINDOW_SIZE: 65535})
    assert served.body.endswith(b"y" * 100)
    assert served.ended


def test_frames_follow_a_frame_size_that_changes(make_stage):
    stage = make_stage("a", "b", limits=LARGE_FRAMES)
    client = stage.client(initial_window_size=1 << 20)
    client.conn.increment_flow_control_window(1 << 20)
    call = client.calls(STREAM_INFER, message("m"))
    served = stage.slice("a").call()
    served.sends_head(ANSWER_HEAD)
    client.change({frames.SETTING_MAX_FRAME_SIZE: 100_000})
    served.sends(b"x" * 90_000)
    assert max(call.sizes) == 90_000
    client.change({frames.SETTING_MAX_FRAME_SIZE: 16384})
    call.sizes.clear()
    served.sends(b"x" * 90_000)
    assert max(call.sizes) == 16384


def test_the_connection_window_is_shared_fairly(stage):
    """Streams that wait for the connection's window take turns at it."""
    client = stage.client(initial_window_size=1 << 20)
    client.reads = False
    calls = [client.calls(STREAM_INFER, message("m")) for _ in range(4)]
    for name in "abab":
        served = stage.slice(name).call()
        served.sends_head(ANSWER_HEAD)
        served.sends(b"x" * 60_000)
    assert sum(len(call.body) for call in calls) == 65535
    for _ in range(20):
        client.conn.increment_flow_control_window(16384)
        stage.settle()
    assert [len(call.body) for call in calls] == [60_000] * 4


def test_a_refused_upload_gives_the_connection_s_window_back(make_stage):
    """A call answered early leaves data on its way; the connection must not run dry of it."""
    stage = make_stage("a", limits=LARGE_FRAMES)
    client = stage.client()
    for _ in range(40):
        call = client.calls(STREAM_INFER, message("m"))
        served = stage.slice("a").call()
        served.peer.reads = False
        # The data crosses the answer on the wire: the gateway reads both in one go.
        client.conn.send_data(call.id, b"x" * 200_000)
        served.peer.conn.send_headers(served.id, [*ANSWER_HEAD, *OK_TRAILERS], end_stream=True)
        served.peer.reads = True
        served.reads()
        stage.settle()
        assert call.grpc_status == 0
    assert client.conn.outbound_flow_control_window > 1_000_000
    stage.assert_at_rest()


def test_small_windows_in_the_configuration_work(make_stage):
    """Until a peer has read our SETTINGS it may use the protocol's 65,535 bytes."""
    limits = Limits(stream_window=1024, answer_window=1024, connection_window=65535)
    stage: Stage = make_stage("a", limits=limits)
    client = stage.raw_client(greets=False)
    block = client.head(1, ends=False, headers=_stream_head())
    body = b"".join(frames.frame(frames.DATA, 0, 1, message("m", 16000)) for _ in range(4))
    client.sends(frames.PREFACE + frames.settings({}) + block + body)
    served = stage.slice("a").call()
    assert len(served.body) == 4 * len(message("m", 16000))
    served.sends_head(ANSWER_HEAD)
    served.sends_all(b"x" * 30_000)
    assert client.goaway is None


def _stream_head():
    from tests.support.h2_peers import head

    return head(STREAM_INFER)


def test_a_body_that_arrives_before_the_connection_is_open_is_held(make_stage):
    stage = make_stage("a")
    peer = stage.slice("a")
    peer.holding = True
    client = stage.client()
    call = client.calls(INFER, message("m"))
    while call.window > 0:
        call.sends(b"x" * min(16384, call.window))
    window = stage.core.limits.stream_window
    assert window <= stage.core.buffered_bytes < window * 1.01
    peer.holding = False
    peer.answer_dials()
    stage.settle()
    served = peer.call()
    assert len(served.body) == stage.core.limits.stream_window
    call.sends_all(b"y" * 2_000_000, ends=True)
    assert served.ended
    served.answers()
    stage.assert_at_rest()


def test_many_bodies_at_once_for_a_slow_slice_wait_and_break_nothing(make_stage):
    """One turn may bring more than a connection should hold; the rest waits with its clients."""
    stage = make_stage("a", limits=LARGE_FRAMES)
    peer = stage.slice("a")
    peer.settings = {frames.SETTING_INITIAL_WINDOW_SIZE: 4 << 20}
    clients = [stage.client() for _ in range(8)]
    calls = [client.calls(STREAM_INFER, message("m")) for client in clients]
    served = [peer.call() for _ in calls]
    peer.connection.conn.increment_flow_control_window(1 << 30)
    stage.settle()
    peer.connection.stalls()
    for call in calls:
        for start in range(0, 1_000_000, 250_000):
            call.peer.conn.send_data(call.id, b"x" * 250_000, end_stream=start == 750_000)
    stage.settle()
    assert peer.connection.wire._buffer
    assert len(peer.connection.wire._buffer) < 2 << 20
    assert stage.core.buffered_bytes >= 5_000_000
    peer.connection.stalls(False)
    assert [len(each.body) for each in served] == [len(message("m")) + 1_000_000] * 8
    assert all(each.ended for each in served)
    for each in served:
        each.answers()
    assert [call.grpc_status for call in calls] == [0] * 8
    assert "unread_bytes" not in stage.counters.limits
