"""
`GET /v1/events`: the changes of slices as server-sent events, for pages and scripts.

Source: HTML Living Standard, section 9.2 "Server-sent events".
"""

import asyncio
from typing import Final

from aiohttp import web

from gateway.control.events import EventLog

READERS_MAX: Final = 64
HEARTBEAT_S: Final = 15.0
"""A comment line while nothing happens, so that no proxy between takes the stream for dead."""
LOOK_S: Final = 1.0
"""How soon a reader that has gone is noticed; nobody tells a handler that only waits."""
RETRY_MS: Final = 1000
ID_CHARS_MAX: Final = 64


class EventStream:
    """Answers the call; each reader has only its place in the log, so a slow one holds nothing."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._readers = 0

    async def get(self, request: web.Request) -> web.StreamResponse:
        """
        Stream what happens from now on, or from after `Last-Event-ID`.

        An identifier that is not known any more is answered with all that is kept; `0` asks for it.
        """
        if self._readers >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{READERS_MAX} readers are connected already")
        asked = request.headers.get("Last-Event-ID", "")[:ID_CHARS_MAX]
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        self._readers += 1
        try:
            await answer.prepare(request)
            await self._stream(request, answer, asked or self._events.last_id)
        except ConnectionResetError:
            pass  # the reader has gone, which is how such a call usually ends
        finally:
            self._readers -= 1
        return answer

    async def _stream(self, request: web.Request, answer: web.StreamResponse, last_id: str) -> None:
        events, now_s = self._events, asyncio.get_running_loop().time
        await answer.write(f"retry: {RETRY_MS}\n\n".encode())
        written_s = now_s()
        while not events.closed and request.transport is not None:
            found = events.since(last_id)
            text = "".join(f"id: {i}\nevent: {event}\ndata: {data}\n\n" for i, event, data in found)
            if not text and now_s() - written_s >= HEARTBEAT_S:
                text = ": nothing new\n\n"
            if text:
                await answer.write(text.encode())
                written_s = now_s()
            # Nothing is between the look and this: what is new from here on wakes us.
            last_id = found[-1][0] if found else events.last_id
            await events.wait(last_id, LOOK_S)
