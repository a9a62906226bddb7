"""HAProxy, from PATH."""

import os
import shutil
from dataclasses import dataclass
from typing import Final

from bench.proxies.base import Launch, Setup, first_line
from bench.standins import HEALTH_PATH

_CONFIG: Final = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    option http-keep-alive
    http-reuse always
    balance leastconn
    option httpchk GET {health_path}
    default-server check inter 2s rise 2 fall 3
frontend http_in
    bind 127.0.0.1:{http_port}
    default_backend http_slices
frontend grpc_in
    bind 127.0.0.1:{grpc_port} proto h2
    default_backend grpc_slices
frontend statistics
    bind 127.0.0.1:{stats_port}
    stats enable
    stats uri /
backend http_slices
{http_servers}
backend grpc_slices
{grpc_servers}
"""


@dataclass(frozen=True, slots=True)
class Haproxy:
    """One thread, leastconn, active health checks, connections reused, statistics on, no log."""

    name: str = "haproxy"

    def missing(self) -> str | None:
        if _program() is None:
            return "HAProxy: install it with `apt-get install haproxy`"
        return None

    def version(self) -> str:
        return first_line([str(_program()), "-v"]).split(" - ")[0]

    def prepare(self, setup: Setup) -> Launch:
        http_port, grpc_port = setup.take_port(), setup.take_port()
        file = setup.folder / "haproxy.cfg"
        file.write_text(
            _CONFIG.format(
                health_path=HEALTH_PATH,
                http_port=http_port,
                grpc_port=grpc_port,
                stats_port=setup.take_port(),
                http_servers="\n".join(f"    server {one.name} {one.http}" for one in setup.slices),
                # Checks go to the HTTP port: Triton is one process.
                grpc_servers="\n".join(
                    f"    server {one.name} {one.grpc} proto h2 "
                    f"check port {one.http.port} check-proto h1"
                    for one in setup.slices
                ),
            )
        )
        return Launch([str(_program()), "-db", "-f", str(file)], http_port, grpc_port)


def _program() -> str | None:
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
