"""Back-off doubles, has an end, and starts anew after a good run."""

from launcher.backoff import Backoff


def test_delays_double_up_to_the_longest():
    backoff = Backoff(first_s=0.5, max_s=3.0, reset_after_s=60.0)
    assert [backoff.delay_s(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_server_that_ran_well_starts_from_the_first_delay():
    backoff = Backoff(first_s=0.5, max_s=30.0, reset_after_s=60.0)
    for _ in range(4):
        backoff.delay_s(1.0)
    assert backoff.delay_s(59.9) == 8.0
    assert backoff.delay_s(60.0) == 0.5
    assert backoff.delay_s(0.0) == 1.0
