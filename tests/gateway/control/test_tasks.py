"""Background tasks neither vanish nor fail in silence."""

import asyncio
import gc

from structlog.testing import capture_logs

from gateway.control.tasks import Tasks
from tests.gateway.control.scripted import until


async def test_a_task_that_fails_is_logged_by_name() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with capture_logs() as logs:
        task = Tasks().start(fails(), "the name")
        await until(task.done)
        await until(lambda: bool(logs))
    assert (logs[0]["event"], logs[0]["task"]) == ("task.failed", "the name")


async def test_a_task_is_kept_until_it_is_stopped() -> None:
    tasks = Tasks()
    running = tasks.start(asyncio.Event().wait(), "waits")  # type: ignore[arg-type]
    await asyncio.sleep(0)
    gc.collect()
    assert not running.done()
    await tasks.stop()
    assert running.cancelled()
