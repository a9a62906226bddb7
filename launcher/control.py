"""
How other programs talk to a launcher that is up: `apply` over a socket in the state folder, and, where
asked for, monitoring over TCP.

    POST /v1/apply    re-cut; answers with one JSON line for each event, the last `["up"]` or a failure
    GET  /v1/status   what `status --json` shows
    GET  /metrics     Prometheus
    GET  /livez, /readyz
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog
from aiohttp import web

from contract.slice_spec import Endpoint
from launcher import exposition, status
from launcher.config import LauncherConfig, amended
from launcher.errors import LauncherError, StartError
from launcher.progress import PipeProgress, Progress
from launcher.state import State

log = structlog.get_logger()

BODY_BYTES_MAX: Final = 1024 * 1024
STOP_S: Final = 1.0
EXIT_UNUSABLE: Final = 2
Reshape = Callable[[LauncherConfig, bool, bool, Progress], Awaitable[None]]


def socket_path(folder: Path) -> Path:
    """Return where a launcher listens; only its user may open it."""
    return folder / "launcher.sock"


@asynccontextmanager
async def serving(
    config: LauncherConfig,
    current: Callable[[], State | None],
    reshape: Reshape,
    is_up: Callable[[], bool],
) -> AsyncIterator[None]:
    """
    Answer until the block is left.

    Args:
        config: For the state folder, and the address for monitoring.
        current: Returns what is up.
        reshape: Re-cuts; see Session.reshape.
        is_up: Whether everything has been ready once.

    Raises:
        StartError: The address for monitoring cannot be had.
    """
    answers = _Answers(config, current, reshape, is_up)
    runner, monitoring = _runner(answers.application()), _runner(answers.monitoring())
    await runner.setup()
    await monitoring.setup()
    path = socket_path(config.state_dir)
    path.unlink(missing_ok=True)
    folder = os.open(config.state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # By way of the open folder the path is short: the kernel allows a socket's 107 bytes.
        before = os.umask(0o077)
        try:
            await web.UnixSite(runner, f"/proc/self/fd/{folder}/{path.name}").start()
        finally:
            os.umask(before)
        if config.metrics is not None:
            where = Endpoint.parse(config.metrics)
            try:
                await web.TCPSite(monitoring, where.host, where.port).start()
            except OSError as error:
                why = os.strerror(error.errno).lower() if error.errno else str(error)
                raise StartError(
                    f"metrics: {where} cannot be had: {why}; free it, or choose another with --metrics"
                ) from error
            log.info("monitoring.started", listen=str(where))
        yield
    finally:
        os.close(folder)
        await runner.cleanup()
        await monitoring.cleanup()
        path.unlink(missing_ok=True)


def _runner(app: web.Application) -> web.AppRunner:
    # A caller that goes away interrupts its re-cut; another completes it.
    return web.AppRunner(
        app, access_log=None, handle_signals=False, handler_cancellation=True,
        shutdown_timeout=STOP_S,
    )  # fmt: skip


class _Answers:
    def __init__(
        self,
        config: LauncherConfig,
        current: Callable[[], State | None],
        reshape: Reshape,
        is_up: Callable[[], bool],
    ) -> None:
        self._folder = config.state_dir
        self._current = current
        self._reshape = reshape
        self._is_up = is_up

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes([web.post("/v1/apply", self._apply), *self._readable()])
        return app

    def monitoring(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(self._readable())
        return app

    def _readable(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/status", self._status),
            web.get("/metrics", self._metrics),
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
        ]

    async def _apply(self, request: web.Request) -> web.StreamResponse:
        document = await request.json()
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        lines = _Lines()
        progress = PipeProgress(cast("TextIO", lines))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lines.send_to(answer))
            try:
                state = self._current()
                if state is None or not self._is_up():
                    raise StartError("the launcher is still starting; run this again when it is up")
                config = amended(state.settings, document["changes"])
                await self._reshape(config, document["force"], document["drain"], progress)
            except LauncherError as error:
                progress.failed(str(error), EXIT_UNUSABLE)
            finally:
                lines.end()
        return answer

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(await self._document())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=exposition.metrics(await self._document()))

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if not self._is_up():
            return web.Response(text="not ready: it is starting\n", status=503)
        members = (await self._document())["slices"]
        # A slice that is lent is where it is meant to be.
        waiting = [m["name"] for m in members if m["state"] not in ("ready", "lent")]
        if waiting:
            return web.Response(text=f"not ready: {', '.join(waiting)}\n", status=503)
        return web.Response(text="ok\n")

    async def _document(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._look)

    def _look(self) -> dict[str, Any]:
        return status.as_dict(status.seen(self._folder, self._current(), os.getpid()))


class _Lines:
    """Text that another task writes to an answer."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def write(self, text: str) -> int:
        self._queue.put_nowait(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def send_to(self, answer: web.StreamResponse) -> None:
        while (text := await self._queue.get()) is not None:
            await answer.write(text.encode())
