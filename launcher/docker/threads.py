"""Waiting in asyncio for what the SDK does, which blocks."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run something that blocks; when this is cancelled its thread is left to end by itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            # It is one, as nothing was raised.
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Result | None = None
        failed: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # the waiting task raises it
            failed = error
        try:
            loop.call_soon_threadsafe(tell, result, failed)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    # A daemon: a process that is told to end does not wait for a download.
    threading.Thread(target=run, name="docker", daemon=True).start()
    return await done
