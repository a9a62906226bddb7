"""Durations and sizes as people write them: `500ms`, `2s`, `64KiB`."""

import re
from typing import Final

from gateway.limits import GIB, KIB, MIB

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_SIZE: Final = re.compile(r"([0-9]+)\s*(B|KiB|MiB|GiB|)")
_BYTES: Final = {"B": 1, "": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
TEXT_MAX: Final = 32
"""Characters looked at; longer digits would only cost time."""


def duration_s(value: object) -> float:
    """
    Read a duration: a number of seconds, or a number with `ms`, `s`, `m` or `h`.

    Returns:
        Seconds, 0 or more.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < float("inf"):
            return float(value)
    elif isinstance(value, str) and len(value) <= TEXT_MAX:
        match = _DURATION.fullmatch(value.strip())
        if match:
            return float(match[1]) * _SECONDS[match[2]]
    raise ValueError(
        f"{value!r} is no duration: a number of seconds, or a number with ms, s, m or h "
        "such as 500ms, 2s or 1.5m"
    )


def size_bytes(value: object) -> int:
    """
    Read a size: a number of bytes, or a whole number with `B`, `KiB`, `MiB` or `GiB`.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str) and len(value) <= TEXT_MAX:
        match = _SIZE.fullmatch(value.strip())
        if match:
            return int(match[1]) * _BYTES[match[2]]
    raise ValueError(
        f"{value!r} is no size: a number of bytes, or a whole number with KiB, MiB or GiB "
        "such as 64KiB"
    )
