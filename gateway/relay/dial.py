"""Opening connections to slices: the data plane's only await, once a connection."""

import asyncio
from collections.abc import Callable

from contract.slice_spec import Endpoint


class Dialer:
    """Opens TCP connections and keeps the tasks that do so."""

    __slots__ = ("_loop", "_tasks", "_timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s or None
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(
        self,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        on_failure: Callable[[str, bool], None],
    ) -> None:
        """
        Connect `protocol` to `endpoint`.

        Exactly one of two things follows: `protocol.connection_made()`, or
        `on_failure(reason, refused)`; `refused` says that nobody listens there, so that no second try is needed to know.
        """
        task = self._loop.create_task(self._dial(endpoint, protocol, on_failure), name="dial")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def configure(self, timeout_s: float) -> None:
        """Use another timeout for connections that are opened from now on; 0 for none."""
        self._timeout_s = timeout_s or None

    async def stop(self) -> None:
        """Give up what is still being opened."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _dial(
        self,
        endpoint: Endpoint,
        protocol: asyncio.BaseProtocol,
        on_failure: Callable[[str, bool], None],
    ) -> None:
        timeout_s = self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._loop.create_connection(lambda: protocol, endpoint.host, endpoint.port)
        except TimeoutError:
            on_failure(f"{endpoint}: no connection within {timeout_s:g} s", False)
        except OSError as error:
            on_failure(f"{endpoint}: {error.strerror or error}", isinstance(error, ConnectionError))
        except asyncio.CancelledError:
            on_failure(f"{endpoint}: the gateway is stopping", False)
            raise
