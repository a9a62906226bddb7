"""Late binding: who waits, who goes next, and who is refused."""

from dataclasses import replace

from gateway.fleet.health import Order
from gateway.fleet.lanes import NO_LIMIT, ModelLimit
from gateway.fleet.places import QueueSettings
from tests.gateway.fleet.waiting import LimitedFleet, Request
from tests.gateway.making import REFUSED, Fleet, live, make_spec


def test_a_request_waits_for_the_slice_that_is_free_first() -> None:
    fleet = LimitedFleet("a", "b")
    first, second, third = fleet.ask(), fleet.ask(), fleet.ask()
    assert (first.served, second.served, third.served) == (["a"], ["b"], [])
    second.end()
    fleet.pump()
    assert third.served == ["b"]
    assert fleet.queues.waiting == 0


def test_who_came_first_goes_first() -> None:
    fleet = LimitedFleet("a")
    busy, *waiting = [fleet.ask() for _ in range(4)]
    for request in waiting:
        busy.end()
        fleet.pump()
        assert request.served == ["a"]
        busy = request


def test_a_newcomer_does_not_take_a_slot_that_others_wait_for() -> None:
    """It may come in the same turn in which the slot becomes free."""
    fleet = LimitedFleet("a")
    busy, waiting = fleet.ask(), fleet.ask()
    busy.end()
    newcomer = fleet.ask()
    fleet.pump()
    assert (waiting.served, newcomer.served) == (["a"], [])


def test_without_a_limit_there_is_no_line() -> None:
    fleet = Fleet("a")
    assert fleet.registry.pool("infer/m").line is None
    fleet.registry.queues.follow("m", ModelLimit(2))
    assert fleet.registry.pool("infer/m").line is not None
    assert fleet.registry.pool("call/m").line is None, "calls that are no inference never wait"
    assert fleet.registry.pool("").line is None


def test_an_unbatched_model_has_its_instances_on_each_slice_and_a_batching_one_by_weight() -> None:
    """A limit of two batches on a slice of weight 1 is one of six on a slice of weight 3."""
    fleet = LimitedFleet("a", "b", at_once=4, weights=(1.0, 3.0))
    lanes = fleet.queues.lines["m"].lanes
    assert [lanes[fleet["a"]].limit, lanes[fleet["b"]].limit] == [4, 4]
    fleet.queues.follow("m", ModelLimit(16, batches=True))
    assert [lanes[fleet["a"]].limit, lanes[fleet["b"]].limit] == [16, 48]


def test_a_slices_own_limit_is_over_all_its_models() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(max_in_flight=2), at_once=0)
    fleet.learn("a", "m", "n")
    requests = [fleet.ask(key=key) for key in ("infer/m", "infer/n", "infer/m", "infer/n")]
    assert [len(request.served) for request in requests] == [1, 1, 0, 0]
    requests[1].end()
    fleet.pump()
    assert [len(request.served) for request in requests] == [1, 1, 1, 0], "the oldest of all lines"


def test_a_slice_may_have_a_limit_of_its_own_or_none() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(max_in_flight=2))
    fleet.registry.replace([make_spec("a", max_in_flight=5), make_spec("b", 18010)])
    assert [fleet[name].max_in_flight for name in "ab"] == [5, 2]
    fleet.registry.replace([make_spec("a", max_in_flight=0)])
    assert fleet["a"].max_in_flight == NO_LIMIT


def test_the_operators_limit_of_a_model_comes_before_its_configuration() -> None:
    fleet = LimitedFleet("a", at_once=1)
    fleet.queues.configure(QueueSettings(models={"m": 3}))
    assert [len(fleet.ask().served) for _ in range(4)] == [1, 1, 1, 0]
    fleet.queues.configure(QueueSettings(models={"m": 0}))
    assert fleet.registry.pool("infer/m").line is None


def test_a_slow_slice_is_left_idle_while_waiting_for_a_fast_one_is_shorter() -> None:
    """A 1g needs three times as long as a 3g: it is worth it once enough requests wait."""
    fleet = LimitedFleet("big", "small", weights=(3.0, 1.0))
    fleet.queues.lines["m"].pace_s = 1.0  # learned before
    first, second = fleet.ask(), fleet.ask()
    assert (first.served, second.served) == (["big"], [])
    fleet.pump()
    assert not second.served
    fleet.ask()
    fleet.pump()
    assert second.served == ["small"], "with two waiting the small one is worth it"


def test_a_slow_slice_is_not_left_idle_for_longer_than_was_expected() -> None:
    """The fast one may hang, or be at a long stream."""
    fleet = LimitedFleet("big", "small", weights=(3.0, 1.0))
    fleet.queues.lines["m"].pace_s = 1.0
    fleet.ask()
    waiting = fleet.ask()
    again_s = fleet.pump()
    assert 0 < again_s <= 0.1
    fleet.clock.now_s += 2.0
    fleet.pump()
    assert waiting.served == ["small"]


def test_round_robin_leaves_no_slice_idle() -> None:
    fleet = LimitedFleet("big", "small", weights=(3.0, 1.0), policy="round_robin")
    assert [len(fleet.ask().served) for _ in range(3)] == [1, 1, 0]


def test_a_request_that_is_sent_once_more_goes_first_and_to_another_slice() -> None:
    fleet = LimitedFleet("a", "b")
    first, second, urgent = fleet.ask(), fleet.ask(), fleet.ask(urgency=0)
    failed = first.end()
    fleet.ask_again(first, failed)
    fleet.pump()
    assert urgent.served == ["a"], "the slice it must not be given to is free for others"
    assert first.served == ["a"]
    other = fleet.ask(urgency=0)
    second.end()
    fleet.pump()
    assert (first.served, other.served) == (["a", "b"], [])


def test_urgent_requests_overtake_those_that_came_shortly_before_and_no_others() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(step_s=1.0))
    busy = fleet.ask()
    long_ago = fleet.ask("long ago", urgency=3)
    fleet.clock.now_s += 3.5
    just_now = fleet.ask("just now", urgency=3)
    urgent = fleet.ask("urgent", urgency=0)
    order = []
    for _ in range(3):
        busy.end()
        fleet.pump()
        busy = next(r for r in (long_ago, just_now, urgent) if r.lane is not None)
        order.append(busy.name)
    assert order == ["long ago", "urgent", "just now"]


def test_above_its_length_the_line_gives_up_the_least_urgent_last() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(length=2))
    fleet.ask()
    plain, lax = fleet.ask(urgency=3), fleet.ask(urgency=7)
    refused = fleet.ask(urgency=7)
    assert refused.faults == ["queue_full"]
    urgent = fleet.ask(urgency=1)
    assert (lax.faults, plain.faults, urgent.faults) == (["queue_full"], [], [])
    assert fleet.queues.figures.refused == {"m length": 1}
    assert fleet.queues.figures.ended == {"m displaced": 1}
    assert fleet.ask(urgency=3).faults == ["queue_full"], "nobody gives way to an equal"


def test_what_waits_holds_no_more_bytes_than_it_may() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(bytes=250))
    fleet.ask()
    first, second = fleet.ask(size=100), fleet.ask(size=200)
    assert (first.faults, second.faults) == ([], ["queue_full"])
    assert first.place is not None
    first.place.grow(120)
    assert fleet.ask(size=50).faults == ["queue_full"]
    first.place.leave()
    assert fleet.queues.common.bytes == 0
    assert fleet.queues.figures.refused == {"m bytes": 2}


def test_who_waits_for_too_long_is_refused() -> None:
    fleet = LimitedFleet("a", settings=QueueSettings(timeout_s=2.0))
    fleet.ask()
    waiting = fleet.ask()
    fleet.clock.now_s += 1.9
    fleet.pump()
    assert waiting.faults == []
    fleet.clock.now_s += 0.2
    fleet.pump()
    assert waiting.faults == ["queue_timeout"]
    assert fleet.queues.figures.ended == {"m timeout": 1}


def test_who_would_wait_for_too_long_is_refused_at_once() -> None:
    """Requests that time out in the line have waited for nothing, and made others wait."""
    fleet = LimitedFleet("a", settings=QueueSettings(timeout_s=3.0))
    busy = fleet.ask()
    waiting = [fleet.ask() for _ in range(3)]
    for request in waiting[:2]:
        fleet.clock.now_s += 1.0
        busy.end()
        fleet.pump()
        busy = request
    assert fleet.queues.lines["m"].pace_s == 1.0
    assert fleet.ask(may_wait_s=1.5).faults == ["queue_full"], "its own deadline counts as well"
    assert fleet.ask().faults == fleet.ask().faults == []
    late = fleet.ask()
    assert (late.faults, late.retry_after_s) == (["queue_full"], 3)
    assert fleet.queues.figures.refused == {"m late": 2}


def test_a_slow_hour_that_is_over_refuses_nobody() -> None:
    """What was learned while others waited says nothing once nobody waits."""
    fleet = LimitedFleet("a", settings=QueueSettings(timeout_s=5.0))
    busy, waiting = fleet.ask(), fleet.ask()
    fleet.clock.now_s += 4.9
    busy.end()
    fleet.pump()
    assert waiting.served
    assert all(not fleet.ask().faults for _ in range(10))


def test_a_model_that_is_served_in_no_time_has_one_request_ahead() -> None:
    """Else its slice stands idle between an answer and the next request."""
    fleet = LimitedFleet("a")
    line = fleet.queues.lines["m"]
    busy = fleet.ask()
    for _ in range(40):
        waiting = fleet.ask()
        fleet.clock.now_s += 0.0005
        busy.end()
        fleet.pump()
        busy = waiting
    assert line.lanes[fleet["a"]].limit == 2


def test_what_is_short_is_seen_from_the_time_of_a_check() -> None:
    """On a busy machine the way to a slice takes longer, and a slice stands idle for longer."""
    fleet = LimitedFleet("a")
    line = fleet.queues.lines["m"]
    for took_s, limit in ((0.001, 1), (0.02, 2), (0.001, 1)):
        fleet.registry.record(fleet["a"], replace(live("m"), took_s=took_s))
        requests = [fleet.ask() for _ in range(4)]
        for _ in range(60):
            fleet.clock.now_s += 0.05
            requests.pop(0).end()
            fleet.pump()
            requests.append(fleet.ask())
        assert line.lanes[fleet["a"]].limit == limit
        while requests:
            requests.pop(0).end()
            fleet.pump()


def test_slices_that_come_and_go_while_requests_wait() -> None:
    fleet = LimitedFleet("a", "b")
    first, second, third = fleet.ask(), fleet.ask(), fleet.ask()
    fleet.registry.order(fleet["b"], Order.DRAINED, "test")
    second.end()
    fleet.pump()
    assert not third.served, "a drained slice gets no new work"
    fleet.registry.order(fleet["b"], Order.ENABLED, "test")
    fleet.pump()
    assert third.served == ["b"]
    assert first.served == ["a"]


def test_waiting_requests_are_told_when_nobody_is_left() -> None:
    fleet = LimitedFleet("a")
    fleet.ask()
    waiting = fleet.ask()
    fleet.registry.record(fleet["a"], REFUSED)
    fleet.pump()
    assert waiting.faults == ["no_slice"]


def test_a_line_that_is_turned_off_lets_everybody_go() -> None:
    fleet = LimitedFleet("a")
    requests = [fleet.ask() for _ in range(5)]
    fleet.queues.configure(QueueSettings(enabled=False))
    fleet.pump()
    assert all(request.served == ["a"] for request in requests)
    assert fleet.registry.pool("infer/m").line is None
    for request in requests:
        request.end()
    assert fleet["a"].in_flight == 0


def test_a_larger_limit_lets_more_go_at_once_and_a_smaller_one_takes_nobody_back() -> None:
    fleet = LimitedFleet("a")
    requests = [fleet.ask() for _ in range(4)]
    fleet.queues.follow("m", ModelLimit(3))
    fleet.pump()
    assert [len(request.served) for request in requests] == [1, 1, 1, 0]
    fleet.queues.follow("m", ModelLimit(1))
    requests[0].end()
    fleet.pump()
    assert not requests[3].served
    requests[1].end()
    requests[2].end()
    fleet.pump()
    assert requests[3].served


def test_a_slice_that_comes_back_is_given_little_at_first() -> None:
    fleet = LimitedFleet("a", "b", at_once=10)
    fleet["a"].drag = 10.0
    served = [request.served for request in (fleet.ask() for _ in range(12))]
    assert served.count(["a"]) == 1
    assert served.count(["b"]) == 10
    assert served.count([]) == 1


def test_in_panic_the_limits_hold_as_well() -> None:
    """No slice is well: the one that may recover is asked, within its limit."""
    fleet = LimitedFleet("a", "b")
    fleet.registry.ejector.eject_slow(fleet["a"], "", "test", fleet.clock())
    fleet.registry.order(fleet["b"], Order.DRAINED, "test")
    first, second = fleet.ask(), fleet.ask()
    assert (first.served, second.served, second.faults) == (["a"], [], [])
    first.end()
    fleet.pump()
    assert second.served == ["a"]


def test_the_request_that_tries_a_slice_comes_out_of_the_line() -> None:
    fleet = LimitedFleet("a", "b")
    fleet.registry.ejector.eject_slow(fleet["a"], "", "test", fleet.clock())
    fleet.ask()
    waiting = fleet.ask()
    fleet.clock.now_s += 60.0
    fleet.registry.queues.configure(QueueSettings(timeout_s=0))
    fleet.registry.tick(0.1)
    fleet.pump()
    assert waiting.served == ["a"]


def test_versions_of_a_model_wait_for_their_own_slices() -> None:
    """The first in the line is for version 2, which is busy; the next is for any version."""
    fleet = LimitedFleet("a", "b")
    fleet.registry.record(fleet["b"], live("m", versions=("1", "2")))
    ones = [fleet.ask(key="infer/m") for _ in range(2)]
    by_slice = {request.served[0]: request for request in ones}
    second, plain = fleet.ask(key="infer/m/2"), fleet.ask(key="infer/m")
    by_slice["a"].end()
    fleet.pump()
    assert (second.served, plain.served) == ([], ["a"])
    by_slice["b"].end()
    fleet.pump()
    assert second.served == ["b"]


def test_slices_are_watched_only_while_somebody_waits() -> None:
    fleet = LimitedFleet("a")
    busy = fleet.ask()
    assert fleet["a"].on_free is None
    waiting = fleet.ask()
    fleet.pump()
    assert fleet["a"].on_free is not None
    busy.end()
    fleet.pump()
    assert fleet["a"].on_free is None
    assert waiting.end() is fleet["a"]


def test_a_client_that_leaves_makes_room_for_those_behind() -> None:
    fleet = LimitedFleet("a")
    busy, gone, next_one = fleet.ask(), fleet.ask(), fleet.ask()
    assert gone.place is not None
    gone.place.leave()
    gone.place.leave()
    busy.end()
    fleet.pump()
    assert (gone.served, next_one.served) == ([], ["a"])
    assert fleet.queues.figures.ended == {"m left": 1, "m served": 1}


def test_a_request_is_counted_where_it_began_whatever_becomes_of_the_limits() -> None:
    fleet = LimitedFleet("a")
    request: Request = fleet.ask()
    fleet.queues.configure(QueueSettings(enabled=False))
    fleet.queues.configure(QueueSettings())
    lane = request.lane
    request.end()
    assert lane is not None
    assert lane.in_flight == fleet["a"].in_flight == 0
