"""The memo forgets by generations and stays within its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.http1.memo import Memo


def test_what_was_remembered_is_found():
    memo: Memo[int] = Memo()
    memo.remember(b"a", 1)
    assert memo.recall(b"a") == 1
    assert memo.hot.get(b"a") == 1
    assert memo.recall(b"b") is None


def test_what_is_used_survives_and_what_is_not_is_forgotten():
    memo: Memo[int] = Memo(entries_max=4)
    memo.remember(b"used", 1)
    memo.remember(b"unused", 2)
    for n in range(20):
        memo.remember(b"%d" % n, n)
        assert memo.recall(b"used") == 1
    assert memo.recall(b"unused") is None


@given(st.lists(st.tuples(st.binary(max_size=30), st.integers()), max_size=60))
def test_the_bounds_hold_whatever_comes(entries):
    memo: Memo[int] = Memo(entries_max=8, bytes_max=100)
    for raw, value in entries:
        if memo.recall(raw) is None:
            memo.remember(raw, value)
        assert len(memo.hot) + len(memo.old) <= 8
        assert sum(map(len, memo.hot)) + sum(map(len, memo.old)) <= 100
