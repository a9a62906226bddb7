"""
Hedge: a second attempt at a request, on another slice, while the first is late.

The first answer to begin is the client's, but an error from the second slice: that says little of what
the first will say. A Triton does not stop for an HTTP client that has gone, so whoever loses keeps its
connection until its slice has answered, and its slice's count with it. What became of it, and how long
it took, says as much of its slice as any other answer.
"""

from time import monotonic
from typing import TYPE_CHECKING, cast

from gateway.errors import OVERLOADED, Fault
from gateway.fleet.outcomes import CONNECT_FAILED, LOST, OK, REJECTED, TIMEOUT
from gateway.fleet.slices import Slice
from gateway.relay.http1.answer_head import AnswerHead
from gateway.relay.http1.exchange import Exchange
from gateway.relay.http1.upstream import Upstream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from gateway.relay.http1.replaying import Replayer


class Nowhere:
    """The transport of who has no client."""

    def write(self, data: bytes) -> None:
        """Nobody reads it."""


class Hedge(Exchange):
    """
    Attributes:
        first: Whose request it is, while neither attempt has been answered; None from then on: it
            has lost, and reads what nobody wants.
        sent_s: Coarse time of its beginning.
    """

    __slots__ = ("first", "sent_s")

    def __init__(self, first: "Replayer") -> None:
        super().__init__(first.shared)
        self.transport = cast("asyncio.Transport", Nowhere())
        self.first: Replayer | None = first
        self.request = first.request
        self.kept = first.kept  # on whose account it stays
        self.continued = True
        self.began_s = monotonic()
        self.sent_s = first.shared.deadlines.now_s

    def on_upstream(self, upstream: Upstream) -> None:
        super().on_upstream(upstream)
        self.kept = None

    # --- how it ends --------------------------------------------------------------------------

    def lose(self) -> None:
        """The other attempt is answered, or nobody waits for an answer any more."""
        self.first = None
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.give_up(self)
            self._end_attempt(REJECTED)
        else:
            self._read_on()

    def become_first(self) -> None:
        """The first attempt has failed: its exchange goes on with what this one has."""
        first, self.first = self.first, None
        assert first is not None, "there is no other attempt"
        self._hand_over(first)
        first.deadline_s = self.deadline_s or first.deadline_s
        stock, self.waiting = self.waiting, None
        if stock is not None:
            stock.give_up(self)
            first.waiting = stock
            if not stock.wait(first, first=True):
                first.waiting = None
                first.fail(OVERLOADED)

    def answer_begins(self, head: AnswerHead) -> bytes:
        first = self.first
        if first is None:
            return b""
        self.first = None
        target, upstream = self.target, self.upstream
        assert target is not None, "an answer from nobody"
        if head.outcome != OK:
            first.hedge_failed(target, head.outcome, sent=True)
            self._read_on()
            return b""
        self.shared.counters.hedges_won += 1
        first.hedge = None
        lane, began_s = self.lane, self.began_s
        waiting, first.waiting = first.waiting, None
        if waiting is not None:
            waiting.give_up(first)
            first._end_attempt(REJECTED)
            self._hand_over(first)
        else:
            # It changes places with the first, to read on there.
            self.target, self.lane, self.upstream = first.target, first.lane, first.upstream
            self.began_s = first.began_s
            first.target, first.lane, first.upstream = target, lane, upstream
            first.began_s = began_s
            assert self.upstream is not None, "neither waiting nor sent"
            assert upstream is not None, "an answer on no connection"
            self.upstream.client, upstream.client = self, first
            self._read_on()
        return first.answer_begins(head)

    def upstream_lost(self, fresh: bool) -> None:
        target = self.target
        assert target is not None, "lost without a slice"
        self.upstream = None
        self.shared.core.slice_lost(target)
        self._failed(LOST, sent=True)

    def on_dial_failed(self, outcome: int = CONNECT_FAILED) -> None:
        self.waiting = None
        self._failed(outcome, sent=False)

    def fail(self, fault: Fault, outcome: int = REJECTED) -> None:
        self.upstream = None
        self._failed(outcome, sent=outcome == LOST)

    def answer_ended(self, outcome: int) -> None:
        target = self.target
        assert target is not None, "answered by nobody"
        self.upstream = None
        assert self.request is not None, "an answer to nothing"
        key = self.request.route.key if outcome == OK else ""
        target.answered_http(monotonic() - self.began_s, key)
        self._failed(outcome, sent=True)

    def answer_broken(self, outcome: int) -> None:
        self.upstream = None
        self._failed(outcome, sent=True)

    def on_deadline(self, now_s: float) -> None:
        """A Timed: its slice has not answered in time."""
        self.deadline_s = 0.0
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()
        self._failed(TIMEOUT, sent=True)

    # --- what does not concern it -------------------------------------------------------------

    def relay(self, pieces: "Sequence[bytes | memoryview]") -> None:
        """Nobody wants it."""

    def slice_hangs(self, target: Slice) -> None:
        """The first attempt goes on; or nobody waits for this one."""

    def hedge_if_late(self, now_s: float) -> None:
        """Nothing is sent a third time."""

    def update_reading(self) -> None:
        """It has been sent whole."""

    # --- inside -------------------------------------------------------------------------------

    def _hand_over(self, first: "Replayer") -> None:
        """Give `first`, which has ended its own attempt, this one."""
        first.target, first.lane = self.target, self.lane
        first.began_s = self.began_s
        upstream, self.upstream = self.upstream, None
        self.target = self.lane = None
        if upstream is not None:
            first.upstream = upstream
            upstream.client = first

    def _read_on(self) -> None:
        """Wait for the answer, for the slice's sake."""
        target = self.target
        assert target is not None, "there is no answer to wait for"
        target.abandoned += 1
        core = self.shared.core
        self.deadline_s = core.deadlines.after(core.timeouts.response_s)
        core.deadlines.add(self)

    def _failed(self, outcome: int, sent: bool) -> None:
        """Its attempt is over, and has brought no answer to the client."""
        first, self.first = self.first, None
        target = self.target
        assert target is not None, "it has ended before"
        if first is None:
            target.abandoned -= 1
            self.shared.core.deadlines.discard(self)
        else:
            first.hedge_failed(target, outcome, sent)
        self._end_attempt(outcome)
