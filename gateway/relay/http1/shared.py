"""What all HTTP/1.1 connections of one process share."""

from typing import TYPE_CHECKING, Final

from gateway.limits import KIB
from gateway.relay.core import RelayCore
from gateway.relay.http1.answer_head import AnswerHead
from gateway.relay.http1.head import RequestHead
from gateway.relay.http1.memo import Memo
from gateway.relay.quarantine import Suspect
from gateway.relay.slabs import Slabs

if TYPE_CHECKING:
    from gateway.relay.http1.stock import Stocks

WRITE_HIGH_BYTES: Final = 256 * KIB
"""Unsent bytes of one connection above which its source is paused; resumed below WRITE_LOW_BYTES.
uvloop's own low mark is 16 bytes, by a slip, which lets the pipe run dry each time."""
WRITE_LOW_BYTES: Final = 64 * KIB
ANSWER_READ_BYTES: Final = 256 * KIB
"""Of one read of an answer. What a client does not take of it must be held."""
ANSWER_SLAB_BYTES: Final = 512 * KIB
"""Answers have slabs of their own, small ones: what slow clients have not taken lies together there,
not one piece in each slab full of requests that were relayed long ago."""
CLIENT_WRITE_HIGH_BYTES: Final = 128 * KIB
"""The same towards clients, which may be many, and slow on purpose."""
NEVER_S: Final = 1e9


class Shared:
    """
    Attributes:
        requests: Request heads judged before.
        answers: The slices' answer heads judged before.
        stocks: Connections to slices.
        suspects: What may have to be refused; empty but for a while after a slice was lost.
        forwarding: None while nothing is to be added to heads.
        priority_header: Tells how urgent a request is; empty for none.
    """

    __slots__ = (
        "answer_slabs",
        "answers",
        "core",
        "counters",
        "deadlines",
        "forwarding",
        "idle_s",
        "priority_header",
        "requests",
        "response_s",
        "slabs",
        "stocks",
        "suspects",
        "upstream_idle_s",
    )

    def __init__(self, core: RelayCore, slabs: Slabs, stocks: "Stocks") -> None:
        self.core = core
        self.counters = core.counters
        self.deadlines = core.deadlines
        self.forwarding = core.forwarding if core.forwarding.on else None
        self.suspects: dict[tuple[str, int], list[Suspect]] = core.suspects
        self.slabs = slabs
        self.answer_slabs = Slabs(core.limits.buffered_bytes // 4, ANSWER_SLAB_BYTES)
        self.stocks = stocks
        self.configure()

    def configure(self) -> None:
        """Follow core.limits and core.timeouts, at first and whenever a reload has changed them."""
        limits, timeouts = self.core.limits, self.core.timeouts
        # As a deadline in the far future, so that the short path need not ask whether it is off.
        self.upstream_idle_s = timeouts.upstream_idle_s or NEVER_S
        self.idle_s = timeouts.idle_s or NEVER_S
        self.response_s = timeouts.response_s or NEVER_S
        self.priority_header = self.core.registry.queues.settings.priority_header.encode()
        self.answer_slabs.configure(limits.buffered_bytes // 4)
        # What was judged by other limits is judged anew.
        self.requests: Memo[RequestHead] = Memo()
        self.answers: Memo[AnswerHead] = Memo()
