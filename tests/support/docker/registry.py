"""
A registry of one image, on a free port of 127.0.0.1, which engines trust without TLS.

It serves what `docker save` writes (engines from 25 on: an OCI layout), which is all that a pull asks
for. Source: OCI Distribution Specification 1.1, "Pull".
"""

import contextlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from docker import DockerClient

PART_BYTES = 256 * 1024


@contextlib.contextmanager
def serving(client: DockerClient, image: str, name: str) -> Iterator[str]:
    """Serve an image of the engine under `name`; yields what to pull: `127.0.0.1:PORT/NAME:1`."""
    saved = io.BytesIO(b"".join(client.images.get(image).save()))
    blobs: dict[str, bytes] = {}
    with tarfile.open(fileobj=saved) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                blobs[member.name] = file.read()
    (top,) = json.loads(blobs["index.json"])["manifests"]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            _, _, what = self.path.partition(f"/v2/{name}/")
            kind, _, reference = what.partition("/")
            digest = top["digest"] if kind == "manifests" and reference == "1" else reference
            found = blobs.get(f"blobs/{digest.replace(':', '/')}") if what else b""
            self.send_response(200 if found is not None else 404)
            if kind == "manifests":
                self.send_header("Content-Type", top["mediaType"])
                self.send_header("Docker-Content-Digest", digest)
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            for at in range(0, len(found or b"") if self.command == "GET" else 0, PART_BYTES):
                self.wfile.write((found or b"")[at : at + PART_BYTES])

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}/{name}:1"
        finally:
            server.shutdown()
            thread.join()
