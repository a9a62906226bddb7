"""The gateway and its peers, each as a user would set it up: one small class a file."""

from bench.proxies.base import Launch, Proxy, Setup
from bench.proxies.envoy import Envoy
from bench.proxies.gateway import Gateway
from bench.proxies.haproxy import Haproxy
from bench.proxies.nginx import Nginx

__all__ = ["Envoy", "Gateway", "Haproxy", "Launch", "Nginx", "Proxy", "Setup", "known_proxies"]


def known_proxies() -> tuple[Proxy, ...]:
    """Return one of each, in the order in which tables show them; Envoy is the yardstick."""
    return (
        Envoy(),
        Envoy("envoy-replaying", replaying=True),
        Nginx(),
        Nginx("nginx-streaming", streaming=True),
        Haproxy(),
        Gateway(),
    )
