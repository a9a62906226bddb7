"""
The flower client of the page at /flowers: each page that is open has a process of its own.

The process (gateway.flowers.session) sends pictures through the gateway's port like any client. Here
orders are judged and passed on, and what comes back is streamed: a few KiB a second, whatever the
load is.
"""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from contract.slice_spec import Endpoint
from gateway.control.auth import Caller
from gateway.control.gate import answered, refused
from gateway.flowers.loop import OUTSTANDING_MAX
from gateway.flowers.pictures import RGB_BYTES, SIDE, listed
from gateway.flowers.session import LINE_BYTES_MAX

log = structlog.get_logger()

SESSIONS_MAX: Final = 4
SEND_S: Final = 10.0
END_S: Final = 5.0
_BODY_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Front:
    """
    Where clients connect.

    Attributes:
        certificate: What the port shows; None where it speaks no TLS.
        asks_clients: It wants a certificate of its clients, which the flower client has not.
    """

    endpoint: Endpoint
    certificate: Path | None = None
    asks_clients: bool = False


class FlowerCalls:
    """The calls under /v1/flowers."""

    def __init__(self, front: Front, caller: Callable[[web.Request], Caller]) -> None:
        self._front = front
        self._caller = caller
        self._sessions: dict[str, asyncio.subprocess.Process] = {}
        self._starting = 0
        self._pictures = len(listed())

    def routes(self) -> list[web.RouteDef]:
        one = "/v1/flowers/{session}"
        return [
            web.post("/v1/flowers", self._open),
            web.put(one, self._keep),
            web.post(one + "/pictures/{picture}", self._ask),
            web.put(one + "/pictures/{picture}", self._replace),
        ]

    async def stop(self) -> None:
        """End all sessions."""
        for process in list(self._sessions.values()):
            await _end(process)

    # --- calls ------------------------------------------------------------------------------

    async def _open(self, request: web.Request) -> web.StreamResponse:
        if self._front.asks_clients:
            return refused(409, "the gateway's port asks clients for a certificate (tls.client_ca)")
        if len(self._sessions) + self._starting >= SESSIONS_MAX:
            return refused(503, f"{SESSIONS_MAX} flower clients are open already")
        name = secrets.token_hex(8)
        self._starting += 1
        try:
            process = await self._start()
        finally:
            self._starting -= 1
        self._sessions[name] = process
        log.info(
            "flowers.opened", session=name, pid=process.pid, asked_by=str(self._caller(request))
        )
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        try:
            await answer.prepare(request)
            hello = {"session": name, "side": SIDE, "outstanding_max": OUTSTANDING_MAX}
            await answer.write(f"event: hello\ndata: {json.dumps(hello)}\n\n".encode())
            await _pass_on(process, request, answer)
        except (ConnectionResetError, TimeoutError):
            pass  # the page was closed, which is how a session usually ends
        finally:
            del self._sessions[name]
            await asyncio.shield(_end(process))
            log.info("flowers.closed", session=name)
        return answer

    async def _keep(self, request: web.Request) -> web.Response:
        process = self._session(request)
        document = await _document(request)
        count = document.get("outstanding")
        if type(count) is not int or not 0 <= count <= OUTSTANDING_MAX:
            return refused(400, f"outstanding is a number from 0 to {OUTSTANDING_MAX}")
        _tell(process, {"do": "keep", "outstanding": count})
        return answered({"outstanding": count})

    async def _ask(self, request: web.Request) -> web.Response:
        process, picture = self._session(request), self._picture(request)
        _tell(process, {"do": "ask", "picture": picture})
        return answered({"picture": picture}, 202)

    async def _replace(self, request: web.Request) -> web.Response:
        process, picture = self._session(request), self._picture(request)
        if request.content_length != RGB_BYTES:
            return refused(400, f"the body is {SIDE} x {SIDE} pixels, 3 bytes each: {RGB_BYTES}")
        pixels = await request.content.readexactly(RGB_BYTES)
        rgb = base64.b64encode(pixels).decode()
        _tell(process, {"do": "picture", "picture": picture, "rgb": rgb})
        return answered({"picture": picture})

    # --- what they share --------------------------------------------------------------------

    async def _start(self) -> asyncio.subprocess.Process:
        front = self._front
        more = ["--certificate", str(front.certificate)] if front.certificate else []
        root = str(Path(__file__).parents[2])  # the very code that this process was started from
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "gateway.flowers", str(front.endpoint), *more,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )  # fmt: skip

    def _session(self, request: web.Request) -> asyncio.subprocess.Process:
        process = self._sessions.get(request.match_info["session"])
        if process is None:
            raise web.HTTPNotFound(text="this flower client is closed; open another one")
        return process

    def _picture(self, request: web.Request) -> int:
        text = request.match_info["picture"]
        if not (text.isascii() and text.isdigit() and int(text[:9]) < self._pictures):
            raise web.HTTPNotFound(text=f"there are pictures 0 to {self._pictures - 1}")
        return int(text)


async def _pass_on(
    process: asyncio.subprocess.Process, request: web.Request, answer: web.StreamResponse
) -> None:
    assert process.stdout is not None, "started with a pipe"
    while request.transport is not None:
        line = await process.stdout.readline()
        if not line:
            return
        async with asyncio.timeout(SEND_S):
            await answer.write(b"event: said\ndata: " + line + b"\n")


def _tell(process: asyncio.subprocess.Process, order: dict[str, Any]) -> None:
    assert process.stdin is not None, "started with a pipe"
    if process.stdin.transport.get_write_buffer_size() > LINE_BYTES_MAX:
        raise web.HTTPServiceUnavailable(text="the flower client is busy; ask again")
    process.stdin.write(json.dumps(order).encode() + b"\n")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _document(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > _BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(_BODY_BYTES_MAX, request.content_length or 0)
    try:
        document = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text='the body is no JSON; send {"outstanding": 8}') from None
    return document if isinstance(document, dict) else {}
