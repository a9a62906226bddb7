"""Data planes in other processes, as tests play them."""

from collections.abc import Callable

from gateway.control.processes import AWAY, SERVING, UpgradeError, Worker
from gateway.fleet.queue_report import QueueReport, merged


class Played:
    """
    Two workers, one of them away.

    Attributes:
        on_sync: Called with each sync: what the workers tell then.
        asked_by: Who has asked for an upgrade.
        why_not: Why an upgrade fails; "" for one that does not.
    """

    def __init__(self) -> None:
        self.on_sync: Callable[[], None] = lambda: None
        self.asked_by: list[str] = []
        self.why_not = ""
        self.found = [Worker(0, 4711, SERVING, 3, 2, 0), Worker(1, 0, AWAY, 0, 0, 5)]

    async def sync(self) -> None:
        self.on_sync()

    def workers(self) -> list[Worker]:
        return self.found

    def queues(self) -> QueueReport:
        return merged([])

    async def upgrade(self, asked_by: str) -> int:
        self.asked_by.append(asked_by)
        if self.why_not:
            raise UpgradeError(self.why_not)
        return 4712
