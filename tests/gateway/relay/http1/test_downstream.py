"""One client's connection: requests in order, heads however they arrive, and its ways to end."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.readiness import ALL
from gateway.limits import Limits
from gateway.relay.http1.upstream import INTERIM_MAX
from tests.gateway.making import make_spec
from tests.gateway.relay.http1.corpus import (
    BAD_ANSWER_BODIES,
    BAD_ANSWERS,
    SMUGGLING,
    SMUGGLING_IN_BODIES,
)
from tests.gateway.relay.http1.stage import INFER, OK, Stage, status, took

CHUNKED = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: 1\r\n\r\n"
)


@pytest.fixture
def stage():
    return Stage()


def test_a_request_and_its_answer_pass_unchanged(stage):
    client = stage.client()
    for _ in range(3):  # the first judges the heads, the others find them in the memo
        client.sends(INFER)
        assert took(stage.slice()) == INFER
        stage.slice().sends(OK)
        assert took(client) == OK
    assert stage.opened() == 1
    assert stage.counters.head_misses == 1
    assert stage.counters.head_hits == 2
    assert stage.fleet["a"].http_latency.count == 3
    assert stage.fleet["a"].http_requests == 3
    assert stage.idle


def test_without_a_slice_the_answer_says_so_and_the_connection_stays(stage):
    stage.fleet.registry.replace([])
    client = stage.client()
    client.sends(INFER * 2)
    answer = took(client)
    assert answer.count(b"HTTP/1.1 503 Service Unavailable") == 2
    assert b"Retry-After: 1\r\n" in answer
    assert b'{"error": "no slice is ready to take this request"}' in answer
    assert not client.closing


@pytest.mark.parametrize(
    ("live", "expected"), [(True, (200, 200)), (False, (200, 400))], ids=["a slice", "none"]
)
def test_the_gateways_own_health_is_answered_here(stage, live, expected):
    if not live:
        stage.fleet.registry.replace([])
    client = stage.client()
    got = []
    for path in (b"live", b"ready"):
        client.sends(b"GET /v2/health/%s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        got.append(status(client))
    assert tuple(got) == expected
    assert stage.opened() == 0


def test_a_server_that_is_to_be_ready_with_all_slices_is_not_without_one(stage):
    stage.fleet.registry.ready_when = ALL
    client = stage.client()
    ask = b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n"
    client.sends(ask)
    assert took(client) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
    ), "as Triton says it"
    up = next(iter(stage.fleet.registry.slices.values()))
    stage.fleet.registry.replace([up.spec, make_spec("new")])
    client.sends(ask)
    assert status(client) == 400
    client.sends(INFER)
    assert took(stage.slice()) == INFER, "and takes requests all the same"


def test_while_leaving_health_says_that_the_server_exits(stage):
    client = stage.client()
    stage.core.leaving = True
    client.sends(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
    assert took(client).endswith(b'{"error": "Server exiting"}')


@given(data=st.data())
@pytest.mark.parametrize("request_bytes", [INFER, CHUNKED], ids=["length", "chunked"])
def test_a_request_means_the_same_however_its_bytes_arrive(request_bytes, data):
    cuts = data.draw(st.lists(st.integers(0, 2 * len(request_bytes)), max_size=6))
    both = request_bytes * 2
    stage = Stage()
    client = stage.client()
    for a, b in pairwise([0, *sorted(cuts), len(both)]):
        client.sends(both[a:b])
    for _ in range(2):
        sent = took(stage.slice())
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head + b"\r\n\r\n" == request_bytes.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        if request_bytes is CHUNKED:
            assert body.endswith(b"0\r\nA: 1\r\n\r\n")
            assert b"x=y" not in body
        else:
            assert body == b"body"
        stage.slice().sends(OK)
        assert took(client) == OK
    assert stage.idle


@given(cuts=st.lists(st.integers(0, 300), max_size=6))
@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n1\r\n!\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
    ids=["length", "chunked", "after 100", "no body"],
)
def test_an_answer_means_the_same_however_its_bytes_arrive(answer, cuts):
    stage = Stage()
    client = stage.client()
    client.sends(INFER)
    slice_side = stage.slice()
    for a, b in pairwise([0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]):
        slice_side.sends(answer[a:b])
    got = took(client)
    if b"chunked" in answer:
        assert got.startswith(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert got.endswith(b"0\r\n\r\n")
        assert b"".join(got.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]) == b"event!"
    else:
        assert got == answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not slice_side.closing
    assert stage.idle


ALL_SMUGGLING = {**SMUGGLING, **{f"chunks: {k}": v for k, v in SMUGGLING_IN_BODIES.items()}}


@pytest.mark.parametrize("name", ALL_SMUGGLING)
@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
def test_no_smuggling_gets_past_the_gateway(stage, name, bytewise):
    """400, the connection closes, and of a bad head not a byte reaches a slice."""
    client = stage.client()
    raw = ALL_SMUGGLING[name] + INFER
    for piece in [bytes([byte]) for byte in raw] if bytewise else [raw]:
        client.sends(piece)
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"\r\n\r\n") == 1, "one answer"
    assert client.eof_sent or client.closing
    if name in SMUGGLING:
        assert stage.opened() == 0
    elif stage.opened():
        assert stage.slice().closing
        assert b"/infer" not in took(stage.slice())
    stage.pass_time(3)
    assert client.closed
    assert stage.idle


@pytest.mark.parametrize("name", [*BAD_ANSWERS, *BAD_ANSWER_BODIES])
def test_a_bad_answer_becomes_502_and_its_connection_closes(stage, name):
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends((BAD_ANSWERS | BAD_ANSWER_BODIES)[name])
    assert status(client) == 502
    assert stage.slice().closing
    assert not client.closing
    assert stage.fleet["a"].failures == 1
    assert stage.idle


def test_switching_protocols_is_refused(stage):
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
    assert status(client) == 502


def test_endless_interim_answers_are_refused(stage):
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(b"HTTP/1.1 102 Processing\r\n\r\n" * 40)
    assert took(client).split(b"\r\n\r\n")[INTERIM_MAX].startswith(b"HTTP/1.1 502")


def test_interim_answers_are_passed_on(stage):
    """RFC 9110 section 15.2; 100 is the gateway's own answer to `Expect`, which it takes out."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(b"HTTP/1.1 100 Continue\r\n\r\n" + hints)
    assert took(client) == hints
    stage.slice().sends(OK)
    assert took(client) == OK
    client.sends(INFER.replace(b"HTTP/1.1", b"HTTP/1.0"))
    stage.slice().sends(hints + OK)
    assert took(client).startswith(b"HTTP/1.1 200")
    assert stage.idle


def test_a_method_that_is_not_allowed_is_told_which_are(stage):
    client = stage.client()
    client.sends(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n" in answer


def test_pipelined_requests_are_answered_in_order(stage):
    client = stage.client()
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    client.sends(INFER + live * 2 + INFER)
    assert took(stage.slice()) == INFER, "a slice gets one request at a time"
    assert took(client) == b""
    stage.slice().sends(OK)
    alive = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"
    assert took(client) == OK + alive * 2
    assert took(stage.slice()) == INFER
    stage.slice().sends(OK)
    assert took(client) == OK
    assert stage.idle


def test_what_is_read_ahead_is_bounded(stage):
    client = stage.client()
    client.sends(INFER)
    for _ in range(100):
        client.sends(b"x" * 4096)
    assert not client.reading
    assert len(client.protocol.ahead) <= stage.core.limits.pipelined_bytes + 4096


def test_many_pipelined_local_requests_need_no_deep_stack(stage):
    client = stage.client()
    client.sends(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
    assert took(client).count(b"HTTP/1.1 200 OK") == 5000


def test_empty_lines_before_a_request_are_ignored(stage):
    client = stage.client()
    client.sends(b"\r\n")
    client.sends(b"\r\n" + INFER)
    assert took(stage.slice()) == INFER


def test_a_client_that_says_close_is_closed_after_its_answer(stage):
    client = stage.client()
    client.sends(INFER.replace(b"Host: a", b"Connection: close\r\nHost: a"))
    assert took(stage.slice()) == INFER
    stage.slice().sends(OK)
    assert took(client) == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert client.closed
    assert not stage.slice().closing, "the slice's connection is its own"


def test_an_http_1_0_client_gets_no_chunks(stage):
    client = stage.client()
    client.sends(b"GET /v2 HTTP/1.0\r\n\r\n")
    assert took(stage.slice()) == b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    stage.slice().sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    stage.slice().sends(b"1\r\nc\r\n0\r\n\r\n")
    assert took(client) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert client.closed
    assert stage.idle


def test_an_http_1_0_client_may_keep_its_connection(stage):
    client = stage.client()
    client.sends(b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    stage.slice().sends(OK)
    assert b"Connection: keep-alive\r\n" in took(client)
    assert not client.closing


def test_the_answer_to_head_has_no_body(stage):
    client = stage.client()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    for _ in range(2):
        client.sends(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        stage.slice().sends(head)
        assert took(client) == head
    assert stage.opened() == 1


def test_continue_is_sent_when_a_slice_was_found(stage):
    client = stage.client()
    client.sends(INFER[:-4].replace(b"Host: a", b"Expect: 100-continue\r\nHost: a"))
    assert took(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert took(stage.slice()) == INFER[:-4]
    client.sends(b"body")
    assert took(stage.slice()) == b"body"
    stage.slice().sends(OK)
    assert took(client) == OK


def test_continue_is_not_sent_when_there_is_no_slice(stage):
    stage.fleet.registry.replace([])
    client = stage.client()
    client.sends(INFER[:-4].replace(b"Host: a", b"Expect: 100-continue\r\nHost: a"))
    assert status(client) == 503


def test_an_answer_that_ends_with_its_connection_is_framed(stage):
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(b"HTTP/1.1 200 OK\r\n\r\nab")
    stage.slice().sends(b"c")
    stage.slice().sends_eof()
    assert took(client) == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    )
    assert not client.closing
    assert stage.idle


def test_bytes_after_an_answer_poison_the_connection(stage):
    """They could only be taken for the answer to the next request (response desync)."""
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(OK + OK)
    assert took(client) == OK
    assert stage.slice().closing
    client.sends(INFER)
    assert stage.opened() == 2


def test_bytes_on_an_idle_connection_close_it(stage):
    client = stage.client()
    client.sends(INFER)
    stage.slice().sends(OK)
    stage.slice().sends(OK)
    assert stage.slice().closing
    assert took(client) == OK


def test_an_early_answer_is_relayed_before_the_connection_closes(stage):
    client = stage.client()
    client.sends(INFER[:-4].replace(b"Length: 4", b"Length: 100000") + b"x" * 10)
    stage.slice().sends(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert took(client) == (
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    assert client.eof_sent, "our side is shut down, theirs is still read"
    assert not client.closing
    client.sends(b"x" * 50000)
    assert stage.slice().closing, "the rest of the body has no place to go"
    client.sends_eof()
    stage.run()
    assert client.closed
    assert stage.idle


def test_half_a_close_still_gets_the_answer(stage):
    client = stage.client()
    client.sends(INFER * 2)
    client.sends_eof()
    for _ in range(2):
        stage.slice().sends(OK)
        assert took(client).startswith(b"HTTP/1.1 200 OK")
    stage.run()
    assert client.closed
    assert stage.idle


def test_draining_closes_idle_clients_and_lets_the_others_finish(stage):
    idle, busy = stage.client(), stage.client()
    busy.sends(INFER)
    stage.run()
    for client in list(stage.core.clients):
        client.drain()
    stage.run()
    assert idle.closed
    stage.slice().sends(OK)
    assert b"Connection: close\r\n" in took(busy)
    assert busy.closed
    assert stage.idle


def test_too_large_a_body_is_refused_before_it_is_read():
    stage = Stage(limits=Limits(body_bytes=10))
    client = stage.client()
    client.sends(INFER.replace(b"Length: 4", b"Length: 11"))
    assert status(client) == 413
    assert stage.opened() == 0


def test_a_large_body_is_refused_when_the_gateway_holds_all_it_may():
    stage = Stage(limits=Limits(buffered_bytes=1000))
    stage.core.buffered_bytes = 2000
    client = stage.client()
    client.sends(INFER[:-4].replace(b"Length: 4", b"Length: 100000"))
    assert status(client) == 503
    stage.core.buffered_bytes -= 2000
    assert stage.idle
