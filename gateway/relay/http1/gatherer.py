"""
Gatherer: an Exchange whose body is waited for, whole or in part, before it is known who answers.

That is so for composed calls, for models that batch sequences, and for what looks like a request that
is in quarantine, and for no other request.
"""

from typing import TYPE_CHECKING

from gateway.errors import BAD_REQUEST, COMPOSER_FAILED, NO_SLICE, OVERLOADED, QUARANTINED
from gateway.fleet.outcomes import REJECTED
from gateway.fleet.pools import SlicePool
from gateway.fleet.sequences import TableFullError
from gateway.limits import BODY_BYTES_CEILING
from gateway.relay.composed import HttpAnswer
from gateway.relay.http1.gathering import body_of, question_of, sequence_of
from gateway.relay.http1.own_answers import CONTINUE, composed_answer
from gateway.relay.http1.replaying import Replayer

if TYPE_CHECKING:
    from gateway.relay.http1.shared import Shared


class Gatherer(Replayer):
    """
    Attributes:
        gathering: The body is waited for.
    """

    __slots__ = ("_enough_bytes", "_looked_at", "gathering")

    def __init__(self, shared: "Shared") -> None:
        super().__init__(shared)
        self.gathering = False
        self._enough_bytes = 0
        self._looked_at = 0  # bytes kept at the last look: they may come one by one

    def bind(self) -> None:
        request, core = self.request, self.shared.core
        assert request is not None, "bind() without a request"
        if request.route.composed and core.composer is not None:
            if self.body_left:
                self.wait_for_more()
            else:
                self._compose()
            return
        pool = core.registry.pool(request.route.key)
        if pool.sequences is not None:
            self._bind_by_sequence(pool)
        elif (request.route.key, request.length) in self.shared.suspects:
            self._bind_if_harmless()
        else:
            self.gathering = False
            super().bind()

    def gather(self) -> None:
        """Look whether what has come of the body says by now who answers."""
        assert self.request is not None, "nothing to gather"
        core = self.shared.core
        if core.buffered_bytes > core.limits.buffered_bytes:
            self.fail(OVERLOADED)
            return
        much_came = self.kept_bytes >= 2 * self._looked_at and not self.request.route.composed
        if much_came or not self.body_left or self.kept_bytes > self._enough_bytes:
            self.bind()

    def let_go(self, outcome: int = REJECTED) -> None:
        self.gathering = False
        if self.request is not None and self.request.route.composed:
            self.shared.core.composed.cancel(self)
        super().let_go(outcome)

    # --- inside -------------------------------------------------------------------------------

    def wait_for_more(self, enough_bytes: int = BODY_BYTES_CEILING) -> None:
        self.gathering = True
        self._enough_bytes = enough_bytes
        self._looked_at = self.kept_bytes
        self.deadline_s = self.shared.deadlines.after(self.shared.core.timeouts.body_idle_s)
        if not self.continued:
            self.continued = True
            self.transport.write(CONTINUE)
        self.update_reading()

    def _bind_by_sequence(self, pool: SlicePool) -> None:
        request, kept, table, core = self.request, self.kept, pool.sequences, self.shared.core
        assert request is not None, "no request"
        assert kept is not None, "its body is gone"
        assert table is not None, "not a model of sequences"
        fields = sequence_of(request, body_of(request, kept), complete=not self.body_left)
        if fields is None:
            self.wait_for_more()
            return
        self.gathering = False
        try:
            self.sequence = table.begin(fields, pool.members, self.shared.deadlines.now_s)
        except TableFullError:
            self.shared.counters.limit("sequences")
            self.fail(OVERLOADED.because("too many live sequences of one model"))
            return
        if self.sequence is None:
            # Whoever belongs to no sequence is told so by a slice.
            target = pool.pick() or core.registry.everywhere.pick()
            if target is None:
                self.fail(NO_SLICE)
            else:
                self.go_to(target)
            return
        self.table = table
        self.plain = False
        self.go_to(self.sequence.member)

    def _bind_if_harmless(self) -> None:
        """Its size is that of a request that breaks slices: bind unless it is the same."""
        request, kept, core = self.request, self.kept, self.shared.core
        assert request is not None, "no request"
        assert kept is not None, "its body is gone"
        if self.body_left and request.length <= core.limits.replay_bytes:
            self.wait_for_more()
            return
        self.gathering = False
        if not self.body_left:
            body = body_of(request, kept)
            now_s = core.deadlines.now_s
            self.suspect, may_go = core.quarantine.find(request.route.key, body, now_s)
            if not may_go:
                self.suspect = None
                self.fail(QUARANTINED)
                return
            if self.suspect is not None:
                self._mark()
        super().bind()

    def _compose(self) -> None:
        """Hand the whole request to the composer."""
        request, kept, core = self.request, self.kept, self.shared.core
        assert request is not None, "no request"
        assert kept is not None, "its body is gone"
        assert core.composer is not None, "collected for nobody"
        self.gathering = False
        question = question_of(request, body_of(request, kept))
        if question is None:
            self.fail(BAD_REQUEST.because("the body cannot be decompressed, or is too large then"))
        elif len(core.composed) >= core.limits.composed_calls:
            self.shared.counters.limit("composed_calls")
            self.fail(OVERLOADED)
        else:
            self.deadline_s = self.shared.deadlines.after(core.timeouts.response_s)
            core.composed.begin(self, core.composer.http(*question), self._composed)

    def _composed(self, answer: HttpAnswer | None) -> None:
        request = self.request
        assert request is not None, "composed for nobody"
        if answer is None:
            self.fail(COMPOSER_FAILED)
            return
        self.transport.write(
            composed_answer(
                answer,
                http10=request.http10,
                keep_alive=not self.closing,
                is_head=request.is_head,
            )
        )
        self.let_go()
        self.end_request()
