"""
A second attempt at a call, on another slice, while the first is late.

It is a Call that its client knows nothing of; each is the other's `rival` until one is answered. The
first answer to begin is the client's, but an error from the second slice: that says little of what the
first will say. The other attempt is cancelled at once, by which a Triton drops what it has not begun.
Whether it had begun, nobody says: so its slice gets a charge that decays in place of its count, and an
answer that was too late counts with the time until it was cancelled, as the least that it would have
taken.
"""

from time import monotonic
from typing import TYPE_CHECKING, cast

from gateway.fleet.outcomes import REJECTED

if TYPE_CHECKING:
    from gateway.relay.http2.call import Call
    from gateway.relay.http2.half import Half


def prepare(hedge: "Call", first: "Call") -> None:
    """Make `hedge`, a new call, the second attempt at what `first` asks; it has all come."""
    hedge.second = True
    hedge.rival, first.rival = first, hedge
    hedge.ended_in = True
    hedge.kept = first.kept  # on whose account it stays
    hedge.request_trailers = first.request_trailers
    hedge.key, hedge.pool = first.key, first.pool
    hedge.opened_s, hedge.deadline_s = first.opened_s, first.deadline_s
    assert first.target is not None, "a second attempt before the first"
    hedge.tried = (first.target,)


def part(call: "Call", rival: "Call") -> "Call":
    """Let each go on, or end, without the other; return `rival`."""
    assert call.rival is rival, "not two attempts at the same"
    call.rival = rival.rival = None
    return rival


def end_in_vain(hedge: "Call", first: "Call", *, sent: bool) -> None:
    """The second attempt brings no answer to the client: the first goes on without it."""
    part(hedge, first)
    assert hedge.target is not None, "it was given to nobody"
    first.tried += (hedge.target,)
    if sent:  # as if it had been replayed: no third slice is asked
        first.losses += 1


def settle(call: "Call", rival: "Call", stream: "Half") -> "Call":
    """
    Give the client the answer that begins on `stream`, for `call`, and cancel the rival.

    Returns:
        The call that the client knows, which `stream` belongs to from now on.
    """
    part(call, rival)
    if not call.second:
        _outrun(rival)
        rival.cancel()
        return call
    first, hedge = rival, call
    target = first.target
    assert target is not None, "the first attempt has ended before"
    # How long it would have taken, nobody will know. It must not look as fast as the answers that
    # it has given in time.
    target.answered_grpc(monotonic() - first.started_s, first.key)
    _outrun(first)
    first.part_from_slice()
    first.release(REJECTED)
    go_on_with(first, hedge)
    first.client.core.counters.hedges_won += 1
    return first


def go_on_with(first: "Call", hedge: "Call") -> None:
    """`first`, whose own attempt has ended, goes on with what `hedge` has."""
    first.target, first.lane = hedge.target, hedge.lane
    hedge.target = hedge.lane = None
    hedge.done = True
    hedge.kept = None
    first.started_s, first.active_s = hedge.started_s, hedge.active_s
    stream, hedge.peer = cast("Half | None", hedge.peer), None
    if stream is None:  # its connection is still being opened
        assert first.target is not None, "nobody is at it"
        first.client.links.open(first.target, first)
        return
    stream.call = first
    stream.peer = first
    first.peer = stream


def _outrun(call: "Call") -> None:
    if call.target is not None and call.peer is not None:
        call.target.outrun()
