"""How urgent a request says it is: RFC 9218, or the urgency's digit alone. Pure."""

import re
from typing import Final

from gateway.fleet.places import URGENCY_DEFAULT

_URGENCY: Final = re.compile(rb"(?:(?:.*,)?[ \t]*u=)?([0-7])[ \t]*(?:[;,].*)?", re.DOTALL)


def urgency_of(value: bytes) -> int:
    """
    Return the urgency that a priority header tells: 0, the most urgent, to 7.

    Args:
        value: Such as `u=1`, `u=5, i` or `1`. What is none of that says nothing, as RFC 9218
            section 4 has it; where `u` is told twice, the last counts (RFC 8941 section 4.2.2).
    """
    match = _URGENCY.fullmatch(value)
    return int(match[1]) if match else URGENCY_DEFAULT
