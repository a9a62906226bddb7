"""Durations and sizes, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantities import duration_s, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5.0), (0, 0.0), (0.5, 0.5), ("5", 5.0), ("5s", 5.0), ("500ms", 0.5), ("2m", 120.0),
     ("1.5 m", 90.0), ("1h", 3600.0), (" 3s ", 3.0)],
    ids=repr,
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "5 weeks", "-1", -1, -0.5, True, None, [], float("inf"), float("nan"), "1e3", "\u0663s",
     "9" * 100, "5S"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(ValueError, match=r"such as 500ms, 2s or 1\.5m"):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("17B", 17),
        ("64KiB", 65536),
        ("1 MiB", 2**20),
        ("2GiB", 2**31),
    ],
    ids=repr,
)
def test_sizes(text: object, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "1.5MiB", "64KB", "64k", -1, True, None, 1.0, "9" * 100], ids=repr
)
def test_what_is_no_size_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(ValueError, match="such as 64KiB"):
        size_bytes(text)


@given(st.text(max_size=12) | st.integers() | st.floats() | st.booleans() | st.none())
def test_anything_is_a_quantity_or_a_value_error(value: object) -> None:
    for read in (duration_s, size_bytes):
        try:
            assert read(value) >= 0
        except ValueError:
            pass
