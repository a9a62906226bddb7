"""Calls that wait in their model's line while every slice has as much as it should."""

from typing import TYPE_CHECKING

from gateway.errors import NO_SLICE, Fault
from gateway.fleet.lanes import HASTE_S, SLOW_S
from gateway.fleet.line import Line, anybody
from gateway.fleet.pools import SlicePool

if TYPE_CHECKING:
    from gateway.relay.http2.call import Call


def bind_in_line(call: "Call", pool: SlicePool, line: Line) -> None:
    """Give `call` to a slice that has room for it, or let it wait for one."""
    lane = line.admit(pool)
    if lane is not None:
        call.give_to(lane.member, NO_SLICE, lane)
        return
    if not anybody(pool, ()):
        call.fail(NO_SLICE)
        return
    if not call.ended_in and not call.streams and not _is_much(call):
        call.gathers = True
        call.connection.credit(call, call.held)
        return
    may_wait_s = 0.0
    if call.deadline_s:
        may_wait_s = max(1e-3, call.deadline_s - call.client.core.loop.time())
    got = line.enter(call, pool, call.request.urgency, call.kept_bytes, may_wait_s)
    if isinstance(got, Fault):
        call.fail(got)
    else:
        call.place = got


def gather(call: "Call") -> None:
    """
    More has come of a call that is to be whole before it waits.

    It is credited at once: it waits for nobody but the client.
    """
    call.connection.credit(call, call.held)
    if call.ended_in or _is_much(call):
        call.gathers = False
        call.bind(call.key)


def _is_much(call: "Call") -> bool:
    return call.kept_bytes > call.client.core.limits.replay_bytes


def go_elsewhere(call: "Call", pool: SlicePool) -> None:
    """Give `call` to a slice of `pool` that has not been tried, before all that wait; there is one."""
    line = pool.line
    if line is None:
        call.give_to(pool.pick_other(call.tried), NO_SLICE)
        return
    lane = line.choose(pool, call.tried, 1, 0.0)
    if lane is not None:
        call.give_to(lane.member, NO_SLICE, lane)
    else:
        call.place = line.enter_again(call, pool, call.tried, call.kept_bytes)


def hold_lane(call: "Call", now_s: float) -> None:
    """
    Give the place on the slice back while that has nothing to do.

    Called now and then for as long as more of the request is to come. A request that does not come to
    its end, or a stream on which nothing is answered, would else keep all others from a model.
    """
    held_s = now_s - call.lane_s
    if call.lane is not None and (held_s > SLOW_S or (held_s > HASTE_S and _others_wait(call))):
        call.parked, call.lane = call.lane, None
        call.parked.end()


def _others_wait(call: "Call") -> bool:
    pool = call.pool
    return pool is not None and pool.line is not None and pool.line.waiting > 0 and not call.streams


def take_lane(call: "Call") -> None:
    """The slice has all of the request, or answers: it counts, whether there is room or not."""
    if call.parked is not None:
        call.lane, call.parked = call.parked, None
        call.lane.begin()
