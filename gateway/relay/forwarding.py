"""
What a slice is told about where a request came from: Via, X-Forwarded-For, Forwarded, X-Request-Id.

All of it is off unless the configuration asks for it; a client's own fields of these names then
pass like any other. Values only, no protocol: each relay writes the fields in its own form.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from os import urandom
from typing import Final

from gateway.forwarding_rules import MAKE, OFF, ForwardingRules

VIA_NAME: Final = b"mig-gateway"
_FORWARDED_FOR: Final = b"x-forwarded-for"
_FORWARDED: Final = b"forwarded"
_REQUEST_ID: Final = b"x-request-id"

FieldPair = tuple[bytes, bytes]
"""(name in lower case, value)."""


class Came:
    """
    What a request's head said of its origin; remembered with the head.

    Attributes:
        x_forwarded_for: All its values, joined; b"" for none.
        forwarded: The same.
        request_id: It has one.
    """

    __slots__ = ("forwarded", "request_id", "x_forwarded_for")

    def __init__(self, x_forwarded_for: bytes, forwarded: bytes, request_id: bool) -> None:
        self.x_forwarded_for = x_forwarded_for
        self.forwarded = forwarded
        self.request_id = request_id


NOTHING_CAME: Final = Came(b"", b"", False)


class Forwarding:
    """
    The rules, ready to be followed.

    Attributes:
        on: Anything is to be added or taken out. While False nothing else here need be asked.
        replaced: Names, in lower case, of fields that are not passed on as they came.
    """

    __slots__ = ("on", "replaced", "rules")

    def __init__(self, rules: ForwardingRules) -> None:
        self.rules = rules
        self.replaced = frozenset(
            name
            for name, replaced in (
                (_FORWARDED_FOR, rules.x_forwarded_for),
                (_FORWARDED, rules.forwarded),
                (_REQUEST_ID, rules.request_id == OFF),
            )
            if replaced
        )
        self.on = bool(self.replaced) or rules.via or rules.request_id == MAKE

    def read(self, fields: Iterable[FieldPair]) -> Came:
        """Return what `fields` say: every field of one head, names in lower case."""
        found: dict[bytes, list[bytes]] = {_FORWARDED_FOR: [], _FORWARDED: [], _REQUEST_ID: []}
        for name, value in fields:
            if name in found and value:
                found[name].append(value)
        return Came(
            b", ".join(found[_FORWARDED_FOR]),
            b", ".join(found[_FORWARDED]),
            bool(found[_REQUEST_ID]),
        )

    def origin(self, host: str) -> "Origin":
        """Return what to add for the client at `host`, an IP address in text."""
        return Origin(self.rules, host)


class Origin:
    """What to add to every request of one client's connection."""

    __slots__ = ("_address", "_node", "_rules", "_trusted")

    def __init__(self, rules: ForwardingRules, host: str) -> None:
        self._rules = rules
        # An IPv4 client of a socket that takes both is the same client; a zone means nothing
        # to anyone but this machine.
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        self._trusted = any(address in network for network in rules.trusted_proxies)
        self._address = str(address).encode()
        is_v6 = isinstance(address, IPv6Address)
        self._node = b'"[%s]"' % self._address if is_v6 else self._address  # RFC 7239 section 6

    def fields(self, came: Came, version: bytes) -> list[FieldPair]:
        """
        Return the fields to add, in order.

        Args:
            came: What the head said, see Forwarding.read.
            version: The client's protocol as Via names it: b"1.0", b"1.1" or b"2.0".
        """
        rules = self._rules
        fields: list[FieldPair] = []
        if rules.x_forwarded_for:
            fields.append((_FORWARDED_FOR, self._after(came.x_forwarded_for, self._address)))
        if rules.forwarded:
            element = b"for=%s;proto=http" % self._node
            fields.append((_FORWARDED, self._after(came.forwarded, element)))
        if rules.via:
            fields.append((b"via", b"%s %s" % (version, VIA_NAME)))
        if rules.request_id == MAKE and not came.request_id:
            fields.append((_REQUEST_ID, urandom(16).hex().encode()))
        return fields

    def _after(self, before: bytes, value: bytes) -> bytes:
        return before + b", " + value if before and self._trusted else value
