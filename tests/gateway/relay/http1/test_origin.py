"""Via, X-Forwarded-For, Forwarded and X-Request-Id on the way to a slice; RFC 9110 7.6.3, RFC 7239."""

from ipaddress import ip_network

import pytest

from gateway.forwarding_rules import ForwardingRules
from tests.gateway.relay.http1.stage import INFER, OK, Stage, took

ALL = ForwardingRules(via=True, x_forwarded_for=True, forwarded=True, request_id="make")
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
TRACE = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"


def reached(
    rules: ForwardingRules, request: bytes, host: str = "192.0.2.7", times: int = 1
) -> list:
    """Send `request` so often; return what reached the slice each time."""
    stage = Stage(forwarding=rules)
    client = stage.client(host)
    found = []
    for _ in range(times):
        client.sends(request)
        found.append(took(stage.slice()))
        stage.slice().sends(OK)
        assert took(client) == OK
    assert stage.idle
    return found


def fields(message: bytes, name: bytes) -> list[bytes]:
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.partition(b":") for line in lines]
    return [value.strip() for field, _, value in pairs if field.lower() == name]


def test_with_everything_off_a_request_passes_byte_for_byte():
    claimed = HEAD + TRACE + b"X-Forwarded-For: 9.9.9.9\r\nX-Request-Id: 7\r\n\r\nbody"
    assert reached(ForwardingRules(), claimed, times=2) == [claimed, claimed]


def test_fields_are_added_to_a_new_head_and_to_a_remembered_one():
    for got in reached(ALL, INFER, times=3):
        assert got.endswith(b"\r\n\r\nbody")
        assert got.startswith(HEAD)
        assert fields(got, b"x-forwarded-for") == [b"192.0.2.7"]
        assert fields(got, b"forwarded") == [b"for=192.0.2.7;proto=http"]
        assert fields(got, b"via") == [b"1.1 mig-gateway"]


def test_each_request_gets_an_id_of_its_own():
    ids = [fields(got, b"x-request-id") for got in reached(ALL, INFER, times=3)]
    assert len({value for [value] in ids}) == 3


def test_a_request_id_that_came_is_passed_on():
    [got] = reached(ALL, HEAD + b"X-Request-ID: mine\r\n\r\nbody")
    assert fields(got, b"x-request-id") == [b"mine"]


def test_a_request_id_can_be_taken_out():
    [got] = reached(ForwardingRules(request_id="off"), HEAD + b"X-Request-ID: mine\r\n\r\nbody")
    assert got == INFER


def test_the_trace_passes_unchanged():
    [got] = reached(ALL, HEAD + TRACE + b"\r\nbody")
    assert TRACE in got


def test_what_a_client_claims_is_replaced():
    [got] = reached(ALL, HEAD + b"x-forwarded-for: 9.9.9.9\r\nForwarded: for=evil\r\n\r\nbody")
    assert fields(got, b"x-forwarded-for") == [b"192.0.2.7"]
    assert fields(got, b"forwarded") == [b"for=192.0.2.7;proto=http"]


def test_what_a_trusted_proxy_says_is_added_to():
    rules = ForwardingRules(x_forwarded_for=True, trusted_proxies=(ip_network("192.0.2.0/24"),))
    claimed = HEAD + b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\n\r\nbody"
    [got] = reached(rules, claimed)
    assert fields(got, b"x-forwarded-for") == [b"9.9.9.9, 8.8.8.8, 192.0.2.7"]


def test_a_client_cannot_nominate_our_fields_away():
    """`Connection: X-Forwarded-For` takes out what the client sent, not what we add."""
    [got] = reached(ALL, HEAD + b"Connection: x-forwarded-for, via, x-request-id\r\n"
                    b"X-Forwarded-For: 9.9.9.9\r\nX-Request-Id: 7\r\n\r\nbody")  # fmt: skip
    assert fields(got, b"x-forwarded-for") == [b"192.0.2.7"]
    assert fields(got, b"via") == [b"1.1 mig-gateway"]
    assert fields(got, b"x-request-id") not in ([], [b"7"])


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.0\r\nContent-Length: 100000\r\n\r\n",
    ],
    ids=["length", "chunked", "1.0"],
)
def test_a_request_in_pieces_gets_them_too(request_):
    stage = Stage(forwarding=ALL)
    stage.client("2001:db8::1").sends(request_)
    got = took(stage.slice())
    assert fields(got, b"x-forwarded-for") == [b"2001:db8::1"]
    assert fields(got, b"via") == [
        b"1.0 mig-gateway" if b"/1.0" in request_ else b"1.1 mig-gateway"
    ]


def test_a_replayed_request_keeps_its_id():
    stage = Stage("a", "b", forwarding=ALL)
    stage.client().sends(INFER)
    stage.run()
    first, second = sorted("ab", key=lambda name: -stage.fleet[name].in_flight)
    got = took(stage.slice(first))
    stage.slice(first).resets()
    assert took(stage.slice(second)) == got
