"""What is added to a request about its origin, whatever the client claims."""

from ipaddress import ip_network

import pytest

from gateway.forwarding_rules import ForwardingRules
from gateway.relay.forwarding import NOTHING_CAME, Came, Forwarding

ALL = ForwardingRules(via=True, x_forwarded_for=True, forwarded=True)
CLAIMED = Came(b"9.9.9.9, 8.8.8.8", b"for=9.9.9.9", False)


def added(rules: ForwardingRules, host: str = "192.0.2.7", came: Came = NOTHING_CAME) -> list:
    return Forwarding(rules).origin(host).fields(came, b"1.1")


def test_nothing_is_added_unless_it_is_asked_for():
    forwarding = Forwarding(ForwardingRules())
    assert not forwarding.on
    assert not forwarding.replaced
    assert added(ForwardingRules()) == []


@pytest.mark.parametrize("field", ["via", "x_forwarded_for", "forwarded"])
def test_each_is_turned_on_by_itself(field):
    rules = ForwardingRules(**{field: True})
    assert Forwarding(rules).on
    assert [name for name, _ in added(rules)] == [field.replace("_", "-").encode()]


def test_every_form_names_the_client():
    assert added(ALL) == [
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"forwarded", b"for=192.0.2.7;proto=http"),
        (b"via", b"1.1 mig-gateway"),
    ]


@pytest.mark.parametrize(
    ("host", "plain", "node"),
    [
        ("2001:db8::1", b"2001:db8::1", b'"[2001:db8::1]"'),
        ("fe80::1%eth0", b"fe80::1", b'"[fe80::1]"'),
        ("::ffff:192.0.2.7", b"192.0.2.7", b"192.0.2.7"),
    ],
)
def test_addresses_are_written_as_each_form_wants_them(host, plain, node):
    """RFC 7239 section 6: an IPv6 address stands in brackets and quotes."""
    assert added(ALL, host)[:2] == [
        (b"x-forwarded-for", plain),
        (b"forwarded", b"for=%s;proto=http" % node),
    ]


def test_what_a_stranger_claims_is_replaced():
    assert dict(added(ALL, came=CLAIMED))[b"x-forwarded-for"] == b"192.0.2.7"
    assert dict(added(ALL, came=CLAIMED))[b"forwarded"] == b"for=192.0.2.7;proto=http"


@pytest.mark.parametrize("host", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::5"])
def test_what_a_trusted_proxy_says_is_added_to(host):
    trusted = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    rules = ForwardingRules(x_forwarded_for=True, forwarded=True, trusted_proxies=trusted)
    values = dict(added(rules, host, CLAIMED))
    assert values[b"x-forwarded-for"].startswith(b"9.9.9.9, 8.8.8.8, ")
    assert values[b"forwarded"].startswith(b"for=9.9.9.9, for=")


def test_a_request_id_is_made_for_a_request_without_one():
    made = ForwardingRules(request_id="make")
    [(name, first)], [(_, second)] = added(made), added(made)
    assert name == b"x-request-id"
    assert len(first) == 32
    assert first != second
    assert added(made, came=Came(b"", b"", True)) == []


def test_fields_are_read_from_a_head():
    came = Forwarding(ALL).read(
        [
            (b"x-forwarded-for", b"1.1.1.1"),
            (b"host", b"a"),
            (b"x-forwarded-for", b""),
            (b"x-forwarded-for", b"2.2.2.2"),
            (b"x-request-id", b"7"),
        ]
    )
    assert (came.x_forwarded_for, came.forwarded) == (b"1.1.1.1, 2.2.2.2", b"")
    assert came.request_id
