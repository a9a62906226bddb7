"""nginx, from PATH."""

import os
import shutil
from dataclasses import dataclass
from typing import Final

from bench.proxies.base import Launch, Setup, first_line

# Without keepalive_requests nginx closes a connection after 1,000 requests, and the load
# generators would measure reconnecting.
_CONFIG: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    proxy_request_buffering {buffering};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    upstream http_slices {{
        zone http_slices 64k;
        least_conn;
{http_servers}
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    upstream grpc_slices {{
        zone grpc_slices 64k;
        least_conn;
{grpc_servers}
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{http_port};
        location / {{
            proxy_pass http://http_slices;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
        location = /stub_status {{ stub_status; }}
    }}
    server {{
        listen 127.0.0.1:{grpc_port} http2;
        location / {{ grpc_pass grpc://grpc_slices; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """
    One worker process, least_conn, kept-alive upstream connections, stub_status, no access log.

    The free nginx has no active health checks; its passive ones (`max_fails`) are on by default.

    Attributes:
        name: As tables show it.
        streaming: False is nginx's default, which takes a whole request body before it chooses a
            slice, and so can send it to another one; it gets a buffer of 1 MiB, as with the
            default of 16 KiB each picture goes through a file. True passes a body on as it
            arrives, and cannot; 128 KiB at a time was the cheapest of 16 KiB to 1 MiB.
    """

    name: str = "nginx"
    streaming: bool = False

    def missing(self) -> str | None:
        if _program() is None:
            return "nginx: install it with `apt-get install nginx-light`"
        return None

    def version(self) -> str:
        return first_line([str(_program()), "-v"]).removeprefix("nginx version: ")

    def prepare(self, setup: Setup) -> Launch:
        http_port, grpc_port = setup.take_port(), setup.take_port()
        file = setup.folder / "nginx.conf"
        file.write_text(
            _CONFIG.format(
                folder=setup.folder,
                http_port=http_port,
                buffer="128k" if self.streaming else "1m",
                buffering="off" if self.streaming else "on",
                grpc_port=grpc_port,
                http_servers="\n".join(f"        server {one.http};" for one in setup.slices),
                grpc_servers="\n".join(f"        server {one.grpc};" for one in setup.slices),
            )
        )
        command = [str(_program()), "-p", str(setup.folder), "-e", "stderr", "-c", str(file)]
        # What streaming changes is HTTP: gRPC is passed on as it arrives in either case.
        return Launch(command, http_port, None if self.streaming else grpc_port)


def _program() -> str | None:
    # Debian puts it where only root's PATH looks.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
