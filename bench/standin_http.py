"""
A stand-in for the HTTP side of Triton slices that costs almost nothing, so that a proxy in front
of it is the bottleneck: `python -m bench.standin_http PORT...`.

One process plays every slice: it reads each body to its end (into one buffer that all connections
share, and looks at none of it), then answers like Triton and keeps the connection. Measured on the
machine of the first comparison: 6.5 us for 512 B, 60 us for 602 kB; an nginx that is made to read
the body first needs 10 and 48.
"""

import asyncio
import json
import re
import sys
from typing import Final, cast

import uvloop

from bench.cells import MODEL

_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"
_HEAD_BYTES_MAX: Final = 64 * 1024
_SCRATCH: Final = memoryview(bytearray(1024 * 1024))
"""Every connection receives into this: what is in it is used up before the next read."""


def answer(status: bytes, body: bytes = b"") -> bytes:
    """Return a whole HTTP/1.1 answer with the header lines that Triton sends."""
    kind = b"Content-Type: application/json\r\n" if body else b""
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)


def _json(value: object) -> bytes:
    return answer(b"200 OK", json.dumps(value).encode())


INFER_ANSWER: Final = _json(
    {
        "model_name": MODEL,
        "model_version": "1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}
        ],
    }
)
NOT_FOUND: Final = answer(b"404 Not Found", b'{"error":"the stand-in does not know this path"}')


def answers(dynamic_batching: bool) -> dict[bytes, bytes]:
    """
    Return the answer to each request target that a gateway or its checks ask for.

    Args:
        dynamic_batching: What the model's configuration says. With it a slice takes many
            requests at once, as the stand-in does; without it one per instance.
    """
    config: dict[str, object] = {
        "name": MODEL,
        "platform": "",
        "backend": "python",
        "max_batch_size": 32 if dynamic_batching else 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}],
        "instance_group": [{"name": MODEL, "kind": "KIND_CPU", "count": 1}],
    }
    if dynamic_batching:
        config["dynamic_batching"] = {"preferred_batch_size": [32]}
    metadata = {"name": MODEL, "versions": ["1"], "platform": "", "inputs": [], "outputs": []}
    model = f"/v2/models/{MODEL}".encode()
    return {
        model + b"/infer": INFER_ANSWER,
        b"/v2/health/live": answer(b"200 OK"),
        b"/v2/health/ready": answer(b"200 OK"),
        model + b"/ready": answer(b"200 OK"),
        model: _json(metadata),
        model + b"/config": _json(config),
        b"/v2": _json({"name": "triton", "version": "2.0.0", "extensions": []}),
        b"/v2/repository/index": _json([{"name": MODEL, "version": "1", "state": "READY"}]),
    }


class StandIn(asyncio.BufferedProtocol):
    """One connection of a proxy to a slice."""

    def __init__(self, by_target: dict[bytes, bytes]) -> None:
        self.by_target = by_target
        self.transport: asyncio.Transport
        # Per request.
        self.head = b""  # the part of a head that came so far
        self.body_left = 0
        self.reply = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes: nothing to ask isinstance() about.
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self.body_left:
                taken = min(self.body_left, nbytes - at)
                self.body_left -= taken
                at += taken
            else:
                at = self._read_head(at, nbytes)
                if not self.reply:
                    return  # the head goes on in the next read
            if not self.body_left:
                self.transport.write(self.reply)
                self.reply = b""

    def _read_head(self, at: int, end: int) -> int:
        """Take a head that starts at `at`; return where its body starts."""
        before = len(self.head)
        data = self.head + bytes(_SCRATCH[at : min(end, at + _HEAD_BYTES_MAX)])
        head_end = data.find(_HEAD_END)
        if head_end < 0:
            assert len(data) < _HEAD_BYTES_MAX, "a head without an end"
            self.head = data
            return end
        self.head = b""
        head = data[:head_end]
        assert b"chunked" not in head, "the stand-in reads bodies of known length only"
        length = _CONTENT_LENGTH.search(head)
        self.body_left = int(length[1]) if length else 0
        self.reply = self.by_target.get(head.split(b" ", 2)[1], NOT_FOUND)
        return at + head_end + len(_HEAD_END) - before


async def serve(ports: list[int], by_target: dict[bytes, bytes]) -> None:
    """Listen on 127.0.0.1 at each of `ports` until the process is told to end."""
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: StandIn(by_target), "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]], answers(dynamic_batching=True)))
