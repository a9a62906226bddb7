"""How users write shares of a GPU: pure."""

from typing import Final

SHARES_MAX: Final = 48
"""Clients that one MPS server has at most (Volta to Hopper; 60 on Blackwell)."""


def parse(text: str) -> tuple[float, ...]:
    """
    Read shares: a number of equal ones (`7`), or weights (`3,2,1,1`).

    Raises:
        ValueError: It is neither.
    """
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) == 1:
        count = weights[0]
        whole = count.is_integer() and 1 <= count <= SHARES_MAX
        weights = (1.0,) * int(count) if whole else ()
    if not 1 <= len(weights) <= SHARES_MAX or not all(0 < weight <= 1000 for weight in weights):
        raise ValueError(
            f"{text!r}: write a number of equal shares (7) or weights (3,2,1,1), "
            f"1 to {SHARES_MAX} of them"
        )
    return weights
