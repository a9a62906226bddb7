"""What all HTTP/1.1 connections of one process share."""

from typing import TYPE_CHECKING, Final

from gateway.limits import KIB
from gateway.relay.core import RelayCore
from gateway.relay.http1.answer_head import AnswerHead
from gateway.relay.http1.head import RequestHead
from gateway.relay.http1.memo import Memo
from gateway.relay.slabs import Slabs

if TYPE_CHECKING:
    from gateway.relay.http1.stock import Stocks

WRITE_HIGH_BYTES: Final = 256 * KIB
"""Unsent bytes of one connection above which its source is paused; resumed below WRITE_LOW_BYTES.
uvloop's own low mark is 16 bytes, by a slip, which lets the pipe run dry each time."""
WRITE_LOW_BYTES: Final = 64 * KIB
NEVER_S: Final = 1e9


class Shared:
    """
    Attributes:
        requests: Request heads judged before.
        answers: The slices' answer heads judged before.
        stocks: Connections to slices.
    """

    __slots__ = (
        "answers",
        "core",
        "counters",
        "deadlines",
        "idle_s",
        "requests",
        "response_s",
        "slabs",
        "stocks",
        "upstream_idle_s",
    )

    def __init__(self, core: RelayCore, slabs: Slabs, stocks: "Stocks") -> None:
        self.core = core
        self.counters = core.counters
        self.deadlines = core.deadlines
        # As a deadline in the far future, so that the short path need not ask whether it is off.
        self.upstream_idle_s = core.timeouts.upstream_idle_s or NEVER_S
        self.idle_s = core.timeouts.idle_s or NEVER_S
        self.response_s = core.timeouts.response_s or NEVER_S
        self.slabs = slabs
        self.stocks = stocks
        self.requests: Memo[RequestHead] = Memo()
        self.answers: Memo[AnswerHead] = Memo()
