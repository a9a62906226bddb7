"""How urgent a request says it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.priority import urgency_of


@pytest.mark.parametrize(
    ("value", "urgency"),
    [
        (b"u=0", 0), (b"u=5, i", 5), (b"i, u=2", 2), (b" u=7", 7), (b"u=1, u=6", 6), (b"1", 1),
        (b"u=3;q=1", 3), (b"", 3), (b"u=8", 3), (b"u=10", 3), (b"u", 3), (b"high", 3), (b"xu=1", 3),
    ],
)  # fmt: skip
def test_an_urgency_is_a_digit_from_0_to_7_and_3_where_nothing_is_said(
    value: bytes, urgency: int
) -> None:
    """RFC 9218 section 4.1; what cannot be read is passed over, section 4."""
    assert urgency_of(value) == urgency


@given(st.binary(max_size=200))
def test_any_value_tells_an_urgency(value: bytes) -> None:
    assert 0 <= urgency_of(value) <= 7
