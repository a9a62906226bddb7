"""Arrivals and timed slices of the tail experiment."""

import json
from statistics import mean

import pytest

from bench import arrivals, open_loop, tail
from bench.tail_slice import TimedSlice


def draw(**changes):
    arguments = {"count": 20_000, "load": 0.85, "speeds": (3.0, 2.0, 1.0, 1.0)}
    arguments |= {"mean_s": 0.02, "sigma": 1.0, "seed": 1}
    return arrivals.poisson(**(arguments | changes))


def test_the_same_seed_draws_the_same():
    assert draw(count=50) == draw(count=50)
    assert draw(count=50) != draw(count=50, seed=2)


def test_the_offered_work_is_the_load_that_was_asked_for():
    found = draw()
    assert mean(one.work_s for one in found) == pytest.approx(0.02, rel=0.05)
    offered = sum(one.work_s for one in found) / found[-1].at_s
    assert offered / 7 == pytest.approx(0.85, rel=0.05)


def test_a_request_is_512_bytes_of_json_and_carries_its_work():
    for work_s in (0.000001, 0.02, 1.23456789, 123.4):
        body = arrivals.request_body(work_s)
        assert len(body) == 512
        assert json.loads(body)["inputs"]
        assert arrivals.work_s_of(body) == pytest.approx(work_s, abs=1e-8)


def test_a_slice_serves_one_request_at_a_time_in_order():
    member = TimedSlice(speed=2.0)
    assert member.finish_s(now_s=10.0, work_s=1.0) == 10.5
    assert member.finish_s(now_s=10.1, work_s=1.0) == 11.0
    assert member.finish_s(now_s=20.0, work_s=1.0) == 20.5


def test_a_slice_may_be_slow_for_some_requests_by_its_own_mood():
    member = TimedSlice(speed=1.0, slow_share=0.02, slow_factor=20.0, seed=7)
    took = [member.finish_s(now_s=100.0 * n, work_s=1.0) - 100.0 * n for n in range(5000)]
    assert set(took) == {1.0, 20.0}
    assert mean(one == 20.0 for one in took) == pytest.approx(0.02, abs=0.006)


async def test_a_proxy_that_is_not_there_counts_as_errors(unused_tcp_port):
    (outcome,) = await open_loop.send_all([unused_tcp_port], [arrivals.Arrival(0.0, 0.01)] * 3, 0)
    assert (outcome.errors, outcome.latencies_s) == (3, [])


def test_an_unknown_layout_is_refused():
    assert tail.main(["--layouts", "round"]) == 2
