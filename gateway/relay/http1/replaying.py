"""
Replayer: an Exchange that goes to another slice when the first one does not answer.

What may go where, and how often, is decided here and in gateway.relay.replays; what broke two slices
is remembered by gateway.relay.quarantine; what is late and goes to two slices is told in
gateway.relay.http1.hedging.
"""

from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import (
    ANSWER_TIMEOUT,
    NO_SLICE,
    QUARANTINED,
    REPLAY_BUDGET,
    SLICE_LOST,
    SLICE_REFUSED,
    Fault,
)
from gateway.fleet.lanes import Lane
from gateway.fleet.line import anybody
from gateway.fleet.outcomes import CONNECT_FAILED, LOST, REJECTED, TIMEOUT
from gateway.fleet.slices import Slice
from gateway.relay.http1.answer_head import AnswerHead
from gateway.relay.http1.gathering import body_of
from gateway.relay.http1.hedging import Hedge
from gateway.relay.http1.queuer import Queuer
from gateway.relay.quarantine import BREAKS_WITHIN_S, Suspect

if TYPE_CHECKING:
    from gateway.relay.http1.shared import Shared

STALE_MAX: Final = 2
"""Kept-alive connections that may turn out closed before a request counts its slice as lost."""
LOST_MAX: Final = 1
"""Slices that may break a connection without an answer before the request fails."""


class Replayer(Queuer):
    """
    Attributes:
        marked: There is something here that let_go() must forget.
        hedge: The second attempt, on another slice, while neither has been answered.
        suspect: What the request is watched for; None for almost all.
    """

    __slots__ = ("_broke", "_lost", "_moved_s", "_stale", "_tried", "hedge", "marked", "suspect")

    def __init__(self, shared: "Shared") -> None:
        super().__init__(shared)
        self.marked = False
        self.hedge: Hedge | None = None
        self.suspect: Suspect | None = None
        self._tried: tuple[Slice, ...] = ()
        self._stale = 0
        self._lost = 0
        self._broke = False  # the connection to `target` that it was sent on; another is opened
        self._moved_s = 0.0  # coarse time of going to another slice

    # --- what becomes of an attempt -----------------------------------------------------------

    def on_dial_failed(self, outcome: int = CONNECT_FAILED) -> None:
        stock, self.waiting = self.waiting, None
        if self.sequence is not None and stock is not None and stock.retired:
            # Its slice gets nothing new, but brings to an end what it has begun.
            self._acquire(self.sequence.member, fresh=False)
            return
        if self.hedge is not None:
            self._wait_for_hedge(self.hedge, outcome)
            return
        if self._broke:
            # So it was not the connection that was stale: the slice has gone with the request.
            self._slice_gone(SLICE_REFUSED, outcome, charged=True)
        else:
            self._try_another(SLICE_REFUSED, outcome)

    def upstream_lost(self, fresh: bool) -> None:
        self.upstream = None
        target = self.target
        assert target is not None, "lost without a slice"
        core = self.shared.core
        self._mark()
        may_repeat = self.kept is not None and self.sequence is None and target.routable
        may_repeat = may_repeat and self.hedge is None
        may_repeat = may_repeat and self._stale < STALE_MAX and core.replays.sent_too
        # Whether the slice has seen the request, nobody knows.
        if not fresh and may_repeat and core.replays.spend():
            self._stale += 1
            self._broke = True
            self.shared.counters.replays += 1
            self._acquire(target, fresh=True)
            return
        core.slice_lost(target)
        self._slice_gone(SLICE_LOST, LOST, charged=False)

    def slice_hangs(self, target: Slice) -> None:
        if target is not self.target or self.answering or self.kept is None or not self.request:
            return
        if self.hedge is not None:
            return  # somebody else is at it already
        core = self.shared.core
        pool = core.registry.pool(self.request.route.key)
        if not pool.has_other((*self._tried, target)):
            return  # nobody else could answer either: it waits, within its timeout
        if self.sequence is not None:
            return  # the slice may come back with what it knows
        upstream = self.upstream
        if upstream is not None:
            if self._lost >= LOST_MAX or not core.replays.sent_too:
                return
            if not core.replays.spend():
                self.shared.counters.limit("replay_percent")
                return
            self._lost += 1
            self.upstream = None
            if upstream.client is self:
                upstream.close()
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.give_up(self)
        self._try_another(ANSWER_TIMEOUT, TIMEOUT)

    def answer_begins(self, head: AnswerHead) -> bytes:
        if self.suspect is not None:
            self.shared.core.quarantine.answered(self.suspect)
        hedge, self.hedge = self.hedge, None
        if hedge is not None:
            hedge.lose()
        return super().answer_begins(head)

    def on_turn(self, lane: Lane) -> None:
        if self.marked:
            self._moved_s = self.shared.core.deadlines.now_s
        super().on_turn(lane)

    def let_go(self, outcome: int = REJECTED) -> None:
        super().let_go(outcome)
        if self.marked:
            hedge, self.hedge = self.hedge, None
            if hedge is not None:
                hedge.lose()
            self.marked = self._broke = False
            self.suspect = None
            self._tried = ()
            self._stale = self._lost = 0
            self._moved_s = 0.0

    # --- two attempts at once -----------------------------------------------------------------

    def hedge_if_late(self, now_s: float) -> None:
        request, hedges, target = self.request, self.shared.core.hedges, self.target
        # What is marked has been sent again already, or has been seen to break a slice.
        if request is None or target is None or self.marked or not request.route.infers:
            return
        if self.body_left or self.kept is None or self.answering or self.sequence is not None:
            return
        key = request.route.key
        if now_s - max(self.began_s, self.whole_s) < hedges.after_s(key):
            return
        found = hedges.second(key, target)
        if found is None:
            return
        self._mark()
        self.hedge = hedge = Hedge(self)
        hedge.go_to(*found)

    def hedge_failed(self, member: Slice, outcome: int, sent: bool) -> None:
        """
        The second attempt, at `member`, has come to nothing; the first goes on.

        Args:
            sent: The slice may have begun with it, so that no third is asked.
        """
        self.hedge = None
        self._tried += (member,)
        if sent:
            self._lost += 1
            if outcome == LOST:
                self._is_banned_now(outcome)

    def fail(self, fault: Fault, outcome: int = REJECTED) -> None:
        hedge = self.hedge
        if hedge is None or outcome != LOST:
            super().fail(fault, outcome)
            return
        # The slice has answered what cannot be relayed, and another is at the request as well.
        self.upstream = None
        self._lost += 1
        self._wait_for_hedge(hedge, outcome)

    def _wait_for_hedge(self, hedge: Hedge, outcome: int) -> None:
        """The first attempt has ended without an answer: the second is the only one from now on."""
        target = self.target
        assert target is not None, "no first attempt"
        self._end_attempt(outcome)
        self._tried += (target,)
        self._broke = False
        self._moved_s = hedge.sent_s
        self.hedge = None
        hedge.become_first()

    # --- inside -------------------------------------------------------------------------------

    def _mark(self) -> None:
        self.marked = True
        self.plain = False  # what is plain ends without let_go()

    def _slice_gone(self, fault: Fault, outcome: int, charged: bool) -> None:
        """
        The slice broke off with the request in its hands.

        Args:
            fault: What the client is told if nobody else can answer.
            charged: Sending it once more has been paid for.
        """
        self._lost += 1
        core = self.shared.core
        banned = self._is_banned_now(outcome)
        if self.hedge is not None:
            self._wait_for_hedge(self.hedge, outcome)
        elif self._lost > LOST_MAX:
            if banned:
                fault = fault.because(
                    "it was the second at this request, which is now refused for "
                    f"{core.quarantine.ban_s:g} s"
                )
            self.fail(fault, outcome)
        elif banned:
            self.fail(QUARANTINED, outcome)
        elif not core.replays.sent_too:
            self.fail(fault.because("it may have begun with the request"), outcome)
        else:
            self._try_another(fault, outcome, sent=not charged)

    def _is_banned_now(self, outcome: int) -> bool:
        """Say whether the request is suspected of having broken the slice, and not for the first time."""
        request, core = self.request, self.shared.core
        assert request is not None, "no request was lost"
        now_s = core.deadlines.now_s
        took_s = now_s - self._moved_s if self._moved_s else monotonic() - self.began_s
        whole = not self.body_left and request.length > 0 and self.kept is not None
        # REJECTED: somebody has taken the slice out of service.
        if (
            not whole
            or took_s > BREAKS_WITHIN_S
            or self.sequence is not None
            or outcome == REJECTED
        ):
            self.suspect = None
            return False
        if self.suspect is None and self._lost == 1:
            assert self.kept is not None, "not whole"
            body = body_of(request, self.kept)
            self.suspect = core.quarantine.suspect(request.route.key, body, now_s)
        if self.suspect is None:
            return False
        core.quarantine.lost(self.suspect, self._lost, now_s)
        return self.suspect.banned and not self.suspect.cleared

    def _try_another(self, fault: Fault, outcome: int, sent: bool = False) -> None:
        """
        Go to a slice that was not tried, if the request can still be sent; else fail.

        Args:
            fault: What the client is told then.
            outcome: Of the attempt that ends here.
            sent: The slice may have begun with it, so that it costs a part of the budget.
        """
        target = self.target
        assert target is not None, "no slice was tried"
        assert self.request is not None, "no request to try again"
        self._end_attempt(outcome)
        self._mark()
        self._broke = False
        if self.sequence is not None:
            self.fail(fault.because("its sequence cannot go on elsewhere; start it again"))
            return
        if self.kept is None:
            self.fail(fault)
            return
        self._tried += (target,)
        core = self.shared.core
        pool = core.registry.pool(self.request.route.key)
        if not anybody(pool, self._tried):
            self.fail(fault if pool.members else NO_SLICE)
        elif sent and not core.replays.spend():
            self.fail(REPLAY_BUDGET)
        else:
            self.shared.counters.replays += 1
            self._moved_s = core.deadlines.now_s
            self.began_s = monotonic()  # how long the first one hung is not the next one's latency
            self.go_elsewhere(pool, self._tried)
