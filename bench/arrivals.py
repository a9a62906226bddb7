"""When requests arrive and how much work each is: drawn once, the same for every proxy."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.cells import http_json

_ID_START: Final = b'{"id": "'
_ID_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it arrives, in seconds from the start, and its work at speed 1."""

    at_s: float
    work_s: float


def poisson(
    count: int, load: float, speeds: Sequence[float], mean_s: float, sigma: float, seed: int
) -> list[Arrival]:
    """
    Draw Poisson arrivals with log-normal work.

    Args:
        count: Requests.
        load: Offered work as a share of what all slices together can do; above 1 it piles up.
        speeds: Of the slices; 1.0 does one second of work per second.
        mean_s: Mean work.
        sigma: Standard deviation of the work's logarithm: 0 is constant work, 1.0 has a 99th
            percentile of 6.2 means.
        seed: The same seed draws the same.
    """
    draw = random.Random(seed)
    rate_per_s = load * sum(speeds) / mean_s
    # The mean of the distribution whose logarithm has mean mu is exp(mu + sigma^2 / 2).
    mu = math.log(mean_s) - sigma**2 / 2
    at_s = 0.0
    found = []
    for _ in range(count):
        at_s += draw.expovariate(rate_per_s)
        found.append(Arrival(at_s, draw.lognormvariate(mu, sigma)))
    return found


def request_body(work_s: float) -> bytes:
    """
    Return a KServe v2 request of 512 bytes that tells a timed slice how long to take.

    The work is the request's id, so that heads are the same for all and sizes as well.
    """
    number = f"{work_s:.9f}"[:_ID_DIGITS].encode()
    _, plain = http_json(512 - len(_ID_START) - _ID_DIGITS - len(b'", ') + 1)
    return _ID_START + number.ljust(_ID_DIGITS) + b'", ' + plain[1:]


def work_s_of(body: bytes) -> float:
    """Read back what `request_body` wrote."""
    assert body.startswith(_ID_START), "not a request of this benchmark"
    return float(body[len(_ID_START) : len(_ID_START) + _ID_DIGITS])
