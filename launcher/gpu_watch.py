"""
Follows the GPUs while servers run on them: makes again what vanishes, starts again what an error of
the GPU has hit, and says once, in a sentence, what is wrong and what cures it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from launcher import xid
from launcher.backoff import Backoff
from launcher.cures import sentence
from launcher.errors import LauncherError
from launcher.fleet import Fleet
from launcher.mig import GpuEvent, MigCode, MigError, words
from launcher.partition import Affected, Partitioner
from launcher.state import StateStore
from launcher.xid import Cure

log = structlog.get_logger()

POLL_S: Final = 2.0
RETRY_MAX_S: Final = 60.0
EVENT_WAIT_S: Final = 0.25
"""A cut waits as long, at most, for the thread that waits for events."""
EVENTS_RETRY_S: Final = 30.0
REPEATED_S: Final = 10.0
"""One error is told about many times; within this time it is logged once."""
WITHOUT_EVENTS: Final = (MigCode.NOT_SUPPORTED, MigCode.FUNCTION_NOT_FOUND)


class GpuWatch:
    """Watches the GPUs of one launcher."""

    def __init__(
        self,
        partitioner: Partitioner,
        fleet: Fleet,
        store: StateStore,
        is_cutting: Callable[[], bool],
        make_again: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            partitioner: Whose GPUs.
            fleet: The servers on them.
            store: What is to be there.
            is_cutting: Whether somebody cuts the GPUs now: then they are left alone.
            make_again: Brings about once more what is wanted. Raises LauncherError.
        """
        self._partitioner = partitioner
        self._fleet = fleet
        self._store = store
        self._is_cutting = is_cutting
        self._make_again = make_again
        self._look_now = asyncio.Event()
        self._told_at_s: dict[GpuEvent, float] = {}

    async def run(self) -> None:
        """Watch, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            tasks.create_task(self._listen())

    async def _look(self) -> None:
        """Make again what vanishes: after a reset, or when somebody else cut the GPU."""
        backoff = Backoff(POLL_S, RETRY_MAX_S, RETRY_MAX_S)
        wait_s, wrong = POLL_S, ""
        while True:
            await self._pause(wait_s)
            wait_s = POLL_S
            state = self._store.state
            if state is None or self._is_cutting():
                continue
            try:
                gone = await asyncio.to_thread(self._partitioner.missing, state)
                if gone and not self._is_cutting():
                    log.error("slices.vanished", slices=gone, hint="they are made again")
                    await self._make_again()
                    log.info("slices.restored", slices=gone)
            except LauncherError as error:
                wait_s = backoff.delay_s(0.0)
                if str(error) != wrong:
                    log.error("gpus.not_as_wanted", reason=str(error), again_in_s=wait_s)
                wrong = str(error)
            else:
                if wrong:
                    log.info("gpus.as_wanted")
                wrong = ""

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._look_now.wait()
        except TimeoutError:
            pass
        self._look_now.clear()

    async def _listen(self) -> None:
        """Take what the GPUs tell; where the driver tells nothing, looking must do."""
        wrong = ""
        while True:
            try:
                event = await asyncio.to_thread(self._partitioner.wait_event, EVENT_WAIT_S)
            except MigError as error:
                self._look_now.set()
                if str(error) != wrong and error.code in WITHOUT_EVENTS:
                    log.info("gpu_events.none", reason=words(error.code))
                elif str(error) != wrong:
                    log.warning("gpu_events.not_heard", reason=sentence(error))
                wrong = str(error)
                await asyncio.sleep(EVENTS_RETRY_S)
                continue
            wrong = ""
            if event is not None:
                self._take(event)

    def _take(self, event: GpuEvent) -> None:
        state = self._store.state
        if event.xid is None or state is None:
            self._look_now.set()
            return
        about = self._partitioner.affected(event, state)
        error = xid.explain(event.xid)
        hit = frozenset(about.slices)
        text = error.sentence(about.gpu_index)
        # A dead context answers errors for ever, and Triton goes on saying that it is ready.
        of_program = error.cure is Cure.RESTART and about.surely
        of_instance = error.cure in (Cure.RESET, Cure.REBOOT) and event.gpu_instance_id is not None
        if error.cure in (Cure.RESET, Cure.REBOOT):
            self._fleet.warn(hit, text)
        ended = self._fleet.restart(hit, error.name) if of_program or of_instance else frozenset()
        self._look_now.set()
        self._log(event, about, text, ended, error.cure is Cure.NOTHING)

    def _log(
        self, event: GpuEvent, about: Affected, text: str, ended: frozenset[str], harmless: bool
    ) -> None:
        now_s = asyncio.get_running_loop().time()
        recent = {e: at for e, at in self._told_at_s.items() if now_s - at < REPEATED_S}
        self._told_at_s = {**recent, event: now_s}
        if event in recent and not ended:
            return
        say = log.warning if harmless else log.error
        say(
            "gpu.told_error",
            gpu=about.gpu_index,
            gpu_instance=event.gpu_instance_id,
            compute_instance=event.compute_instance_id,
            slices=list(about.slices),
            restarted=sorted(ended),
            error=text,
        )
