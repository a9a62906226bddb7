"""Request heads: what is accepted means what llhttp says, what is dangerous is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import Fault
from gateway.limits import Limits
from gateway.relay.http1.grammar import CHUNKED
from gateway.relay.http1.head import RequestHead, judge_request
from gateway.relay.router import BALANCED, LIVE, READY
from tests.gateway.relay.http1.corpus import HOST, SMUGGLING, request
from tests.gateway.relay.http1.llhttp import Request

LIMITS = Limits()


def accepted(raw: bytes) -> RequestHead:
    head = judge_request(raw, LIMITS)
    assert isinstance(head, RequestHead), head
    return head


def refused(raw: bytes, limits: Limits = LIMITS) -> Fault:
    fault = judge_request(raw, limits)
    assert isinstance(fault, Fault), raw
    return fault


@pytest.mark.parametrize("name", SMUGGLING)
def test_an_ambiguous_head_is_a_bad_request(name):
    assert refused(SMUGGLING[name]).code == "bad_request"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (request(line=b"CONNECT a:80 HTTP/1.1"), "method_not_allowed"),
        (request(line=b"TRACE / HTTP/1.1"), "method_not_allowed"),
        (request(line=b"BREW / HTTP/1.1"), "not_implemented"),
        (request(line=b"get / HTTP/1.1"), "not_implemented"),
        (request(b"Expect: 200-ok", b"Content-Length: 3"), "expectation_failed"),
        (request(b"Content-Length: 268435457"), "body_too_large"),
        (request(line=b"GET /%s HTTP/1.1" % (b"a" * 8200)), "uri_too_long"),
        (request(*[b"X: a"] * 128), "head_too_large"),
        (request(b"X: " + b"a" * 65536), "head_too_large"),
    ],
)
def test_what_is_clear_but_not_possible_has_a_fault_of_its_own(raw, code):
    assert refused(raw).code == code


def test_limits_are_reached_before_they_are_passed():
    assert accepted(request(*[b"X: a"] * 127)).length == 0
    assert accepted(request(b"Content-Length: 268435456")).length == 256 * 1024 * 1024


def test_an_ordinary_head_passes_as_the_bytes_that_came():
    raw = request(b"Content-Type: application/json", b"x-Odd-CASE:  \t v ", b"Content-Length: 3")
    head = accepted(raw)
    assert head.unchanged
    assert head.upstream is raw
    assert head.plain
    assert head.length == 3


def test_hop_by_hop_fields_and_what_connection_names_are_taken_out():
    head = accepted(
        request(
            b"A: 1", b"Connection: keep-alive, B , TE", b"b: 2", b"TE: trailers", b"Keep-Alive: 5",
            b"Proxy-Connection: x", b"Upgrade: h2c", b"HTTP2-Settings: AAA", b"C: 3",
        )
    )  # fmt: skip
    assert head.upstream == request(b"A: 1", b"C: 3")
    assert not head.unchanged
    assert head.keep_alive


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Authorization", b"Content-Type"])
def test_connection_cannot_take_out_what_both_sides_must_see(name):
    lines = (b"Authorization: x", b"Content-Type: y", b"Content-Length: 3")
    head = accepted(request(*lines, b"Connection: " + name))
    assert head.upstream == request(*lines)


def test_transfer_encoding_is_made_anew():
    head = accepted(request(b"transfer-encoding: CHUNKED", b"A: 1"))
    assert head.upstream == request(b"A: 1", b"Transfer-Encoding: chunked")
    assert head.length == CHUNKED


def test_an_expectation_is_ours_to_meet():
    head = accepted(request(b"Expect: 100-Continue", b"Content-Length: 3"))
    assert head.expect_continue
    assert head.upstream == request(b"Content-Length: 3")
    assert not accepted(request(b"Expect: 100-continue")).expect_continue, "no body to wait for"


def test_an_expectation_in_http_1_0_is_ignored():
    head = accepted(request(b"Expect: 100-continue", line=b"POST / HTTP/1.0"))
    assert not head.expect_continue


@pytest.mark.parametrize(
    ("line", "connection", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"close", False),
        (b"GET / HTTP/1.1", b"a, CLOSE", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Keep-Alive", True),
        (b"GET / HTTP/1.0", b"keep-alive, close", False),
    ],
)
def test_the_version_and_connection_say_whether_more_follows(line, connection, keep_alive):
    assert accepted(request(b"Connection: " + connection, line=line)).keep_alive is keep_alive


def test_an_absolute_target_becomes_a_path():
    raw = request(line=b"GET http://A:80/v2?x=1 HTTP/1.1", host=b"Host: a:80\r\n")
    assert accepted(raw).upstream == b"GET /v2?x=1 HTTP/1.1\r\nHost: a:80\r\n\r\n"
    assert accepted(request(line=b"GET http://a HTTP/1.1")).upstream.startswith(b"GET / HTTP")
    assert accepted(request(line=b"OPTIONS http://a HTTP/1.1")).upstream.startswith(b"OPTIONS * H")


def test_http_1_0_without_a_host_is_given_one():
    head = accepted(request(line=b"GET /v2 HTTP/1.0", host=b""))
    assert head.upstream == b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert head.http10


@pytest.mark.parametrize("host", [b"a", b"a.b-c:1", b"127.0.0.1:8000", b"[::1]:8000", b"a:"])
def test_hosts_of_all_kinds_are_accepted(host):
    assert accepted(request(host=b"Host: " + host + b"\r\n")).unchanged


def test_the_route_comes_with_the_head():
    assert accepted(request(line=b"GET /v2/health/live HTTP/1.1")).route.kind is LIVE
    assert accepted(request(line=b"GET /v2/health/ready HTTP/1.1")).route.kind is READY
    head = accepted(request(line=b"POST /v2/models/m/infer HTTP/1.1"))
    assert (head.route.kind, head.route.key) == (BALANCED, "infer/m")


def test_only_simple_requests_are_plain():
    for raw in [
        request(line=b"HEAD / HTTP/1.1"),
        request(line=b"GET / HTTP/1.0"),
        request(b"Connection: close"),
        request(b"Content-Length: 16385"),
        request(b"Transfer-Encoding: chunked"),
        request(b"Expect: 100-continue", b"Content-Length: 3"),
        request(line=b"GET /v2/health/live HTTP/1.1"),
    ]:
        assert not accepted(raw).plain, raw


# --- properties -----------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [b"GET", b"POST", b" ", b"/", b"/v2", b"http://a/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r",
     b"\n", b"Host: a", b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"0", b"3", b",",
     b":", b"\t", b"\x00", b"\x0b", b"\xff", b"Connection: ", b"close", b"keep-alive", b"X", b"a",
     b"Expect: 100-continue", b"\x7f", b"_", b"-"]
)  # fmt: skip
LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"A: 1", b"B:\t2 ", b"Content-Length: 3", b"content-length:0", b"Connection: close",
             b"Connection: keep-alive", b"Transfer-Encoding: chunked", b"Accept: */*", b"X: \xe4",
             b"Expect: 100-continue"]
        ),
        st.lists(PIECES, max_size=5).map(b"".join),
    ),
    max_size=6,
)  # fmt: skip
REQUEST_LINES = st.one_of(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /v2/models/m/infer HTTP/1.1", b"HEAD /x HTTP/1.0"]),
    st.lists(PIECES, max_size=6).map(b"".join),
)


@given(st.builds(lambda line, lines: request(*lines, line=line), REQUEST_LINES, LINES))
@example(request(b"Transfer-Encoding: chunked", b"Connection: close"))
@example(request(b"Connection: close", b"Connection: keep-alive", line=b"HEAD /x HTTP/1.0"))
def test_what_we_accept_llhttp_accepts_with_the_same_meaning(raw):
    """An independent parser reads the same request in what came and in what is passed on."""
    if raw.find(b"\r\n\r\n") != len(raw) - 4:
        return
    head = judge_request(raw, LIMITS)
    if isinstance(head, Fault):
        return
    body = b"0\r\n\r\n" if head.length == CHUNKED else b"x" * head.length
    for data in (raw, head.upstream):
        theirs = Request(data + body)
        assert theirs.complete == 1
        assert theirs.body == (b"" if head.length == CHUNKED else body)
    if not (b"Connection: close" in raw and b"Connection: keep-alive" in raw):
        # Where both are said we close, as RFC 9112 section 9.3 asks; llhttp goes by the last.
        assert Request(raw + body).keep_alive == head.keep_alive
    again = accepted(head.upstream)
    assert (again.length, again.route, again.unchanged) == (head.length, head.route, True)


@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(b"".join)))
def test_no_bytes_raise(data):
    assert isinstance(judge_request(data + b"\r\n\r\n", LIMITS), RequestHead | Fault)


def test_judging_takes_time_in_proportion_to_size():
    """A run of spaces, the classic trap of two character classes that overlap."""
    raw = request(b"X:" + b" " * 60000 + b"\x00")
    assert refused(raw).code == "bad_request"
    assert HOST in raw
