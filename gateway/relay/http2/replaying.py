"""
Calls that their slice does not answer: which go to another slice, and which are refused.

How often is decided by gateway.relay.replays; what broke two slices is remembered by
gateway.relay.quarantine.
"""

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import ANSWER_BROKEN, QUARANTINED, REPLAY_BUDGET, Fault
from gateway.fleet.line import anybody
from gateway.fleet.slices import Slice
from gateway.relay.http2.hedging import go_on_with, part
from gateway.relay.http2.queueing import go_elsewhere
from gateway.relay.http2.runs import Run
from gateway.relay.http2.stream import Chunk
from gateway.relay.quarantine import BREAKS_WITHIN_S
from gateway.relay.sequence_fields import PREFIX_BYTES

if TYPE_CHECKING:
    from gateway.relay.http2.call import Call

INFER: Final = b"/inference.GRPCInferenceService/ModelInfer"
"""Whose calls are one message each, and so can be known again."""
LOSSES_MAX: Final = 1
"""Slices that may be lost under a call before it is given up: what kills two might kill all."""


def pieces_of(item: Chunk | Run) -> Sequence[Chunk]:
    """
    Return the data of something kept.

    The frames of a run are not sent a second time as they lie: the first time may not be over, and
    their stream ids with it.
    """
    return item.pieces() if isinstance(item, Run) else (item,)


def is_movable(call: "Call") -> bool:
    """Say whether another slice could be sent the same, and there is one that has not been."""
    if call.rival is not None:
        return False
    if call.begun or call.kept is None or call.losses >= LOSSES_MAX or call.pool is None:
        return False
    if call.sticky is not None and call.sticky.bound:
        return False
    target = call.target
    return call.pool.has_other(call.tried if target is None else (*call.tried, target))


def lose(
    call: "Call", fault: Fault, unprocessed: bool, outcome: int, *, sent_s: float = 0.0
) -> None:
    """
    The slice will not answer `call`: try another, or tell the client.

    Args:
        fault: What the client is told if nobody else can answer.
        unprocessed: The slice has certainly not worked on it (connection refused, GOAWAY,
            REFUSED_STREAM), so it may move as often as there are slices.
        outcome: See gateway.fleet.outcomes.
        sent_s: When the last of the request went out on a connection that has broken since; 0
            when the slice was lost in another way.
    """
    target, core = call.target, call.client.core
    call.peer = None
    call.release(outcome)
    if call.rival is not None:
        _lose_one_of_two(call, call.rival, target, unprocessed, sent_s)
        return
    if call.sticky is not None and call.sticky.bound:
        call.fail(fault.because("its sequence cannot go on elsewhere; start it again"))
        return
    if target is not None:
        call.tried += (target,)
    if call.begun:
        name = "" if target is None else target.name
        call.fail(ANSWER_BROKEN.because(f"slice {name}"))
        return
    if call.kept is None or call.pool is None:
        call.fail(fault)
        return
    if not unprocessed and _has_lost(call, fault, sent_s):
        return
    if call.deadline_s and core.loop.time() >= call.deadline_s:
        call.fail_overdue()
        return
    if not anybody(call.pool, call.tried):
        call.fail(fault)
    elif not unprocessed and not core.replays.spend():
        call.fail(REPLAY_BUDGET)
    else:
        core.counters.replays += 1
        call.started_s = monotonic()  # how long the first hung is not the next one's latency
        go_elsewhere(call, call.pool)


def _lose_one_of_two(
    call: "Call", rival: "Call", target: Slice | None, unprocessed: bool, sent_s: float
) -> None:
    """One of two attempts at the same has failed: the other is the only one from now on."""
    part(call, rival)
    first = rival if call.second else call
    assert target is not None, "it was given to nobody"
    first.tried += (target,)
    if not unprocessed:  # as if it had been replayed: no third slice is asked
        first.losses += 1
        _is_banned_now(first, sent_s)
    if call.second:
        call.done = True
    else:
        go_on_with(first, rival)


def _has_lost(call: "Call", fault: Fault, sent_s: float) -> bool:
    """Count a slice that may have begun with `call`; say whether that was the end of it."""
    core = call.client.core
    call.losses += 1
    banned = _is_banned_now(call, sent_s)
    if call.losses > LOSSES_MAX:
        if banned:
            fault = fault.because(
                f"the second at this call, which is now refused for {core.quarantine.ban_s:g} s"
            )
        call.fail(fault)
    elif banned:
        call.fail(QUARANTINED)
    elif not core.replays.sent_too:
        call.fail(fault.because("it may have begun with the call"))
    else:
        return False
    return True


def _is_banned_now(call: "Call", sent_s: float) -> bool:
    """Say whether `call` is suspected of having broken the slice, and not for the first time."""
    core = call.client.core
    now_s = core.deadlines.now_s
    whole = call.ended_in and call.request.path == INFER
    if not sent_s or now_s - sent_s > BREAKS_WITHIN_S or not whole:
        call.suspect = None
        return False
    if call.suspect is None and call.losses == 1:
        call.suspect = core.quarantine.suspect(call.key, _body(call), now_s)
    if call.suspect is None:
        return False
    core.quarantine.lost(call.suspect, call.losses, now_s)
    return call.suspect.banned and not call.suspect.cleared


def may_bind(call: "Call") -> bool:
    """
    Say whether `call`, for the pool `call.key`, may be given to a slice now.

    Called while something is suspected. A call of the same size waits until all of it has come; one
    that is banned is answered.
    """
    core, kept = call.client.core, call.kept
    if not kept or call.request.path != INFER:
        return True
    start = pieces_of(kept[0])[0]
    if len(start) < PREFIX_BYTES:
        return True
    size = PREFIX_BYTES + int.from_bytes(start[1:PREFIX_BYTES], "big")
    if (call.key, size) not in core.suspects:
        return True
    if not call.ended_in:
        if size > core.limits.replay_bytes:
            return True
        call.connection.credit(call, call.held)  # or a closed window would keep the rest away
        return False
    call.suspect, may_go = core.quarantine.find(call.key, _body(call), core.deadlines.now_s)
    if not may_go:
        call.suspect = None
        call.fail(QUARANTINED)
    return may_go


def _body(call: "Call") -> bytes:
    return b"".join(piece for item in call.kept or () for piece in pieces_of(item))
