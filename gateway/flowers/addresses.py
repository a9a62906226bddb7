"""How a client on this machine reaches the gateway's port."""

import ssl
from pathlib import Path
from typing import Final

from contract.slice_spec import Endpoint

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def near(endpoint: Endpoint) -> Endpoint:
    """Return where to connect to for a port that may listen on every address."""
    return Endpoint(_ANY.get(endpoint.host, endpoint.host), endpoint.port)


def pinned(certificate: Path) -> ssl.SSLContext:
    """
    Return how to speak TLS to a server that has exactly this certificate, under whatever name.

    The gateway's own is known: neither who has signed it nor for which name says more than that.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context
