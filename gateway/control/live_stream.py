"""`GET /v1/live`: the live feed as server-sent events. Source: HTML Living Standard, section 9.2."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from gateway.control.auth import Caller
from gateway.control.live import LiveFeed

READERS_MAX: Final = 64
SILENCE_S: Final = 5.0
"""A reader is looked after so often, though a feed that lives says something each second."""
SEND_S: Final = 10.0
"""A reader that takes nothing for so long has gone."""


class LiveStream:
    """Answers the call; a reader has only its place in the feed, so a slow one holds nothing."""

    def __init__(self, feed: LiveFeed, caller: Callable[[web.Request], Caller]) -> None:
        self._feed = feed
        self._caller = caller

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send everything once, and from then on what changes."""
        if self._feed.readers >= READERS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{READERS_MAX} readers are connected already")
        caller = self._caller(request)
        you = {"name": caller.name, "how": caller.how, "may_write": caller.may_write}
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        woken = await self._feed.join()
        try:
            await answer.prepare(request)
            number, text = self._feed.snapshot(you)
            while not self._feed.closed and request.transport is not None:
                if text:
                    async with asyncio.timeout(SEND_S):
                        await answer.write(text)
                woken.clear()
                found = self._feed.since(number)
                number, text = found if found is not None else self._feed.snapshot(you)
                if not text:
                    await _woken(woken)
        except (ConnectionResetError, TimeoutError):
            pass  # the reader has gone, which is how such a call usually ends
        finally:
            self._feed.leave(woken)
        return answer


async def _woken(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(SILENCE_S):
            await event.wait()
    except TimeoutError:
        pass
