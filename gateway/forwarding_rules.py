"""What the configuration says about telling slices where a request came from."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

KEEP: Final = "pass"
MAKE: Final = "make"
OFF: Final = "off"
REQUEST_ID_CHOICES: Final = (KEEP, MAKE, OFF)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ForwardingRules:
    """
    What is added to requests.

    Attributes:
        via: `Via: 1.1 mig-gateway`, behind those that came. RFC 9110 section 7.6.3.
        x_forwarded_for: The client's address.
        forwarded: The same in the standard's form. RFC 7239.
        request_id: What becomes of X-Request-Id: `pass` leaves it alone, `make` adds one to a
            request without, `off` takes it out.
        trusted_proxies: Who may say where a request came from: what these peers send in
            X-Forwarded-For and Forwarded is kept and added to, what others send is replaced.
    """

    via: bool = False
    x_forwarded_for: bool = False
    forwarded: bool = False
    request_id: str = KEEP
    trusted_proxies: tuple[Network, ...] = ()
