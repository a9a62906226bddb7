"""Calls that wait in their model's line while every slice has as much as it should."""

from typing import TYPE_CHECKING

from gateway.errors import NO_SLICE, Fault
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
    may_wait_s = 0.0
    if call.deadline_s:
        may_wait_s = max(1e-3, call.deadline_s - call.client.core.loop.time())
    got = line.enter(call, pool, call.request.urgency, call.kept_bytes, may_wait_s)
    if isinstance(got, Fault):
        call.fail(got)
    else:
        call.place = got


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
