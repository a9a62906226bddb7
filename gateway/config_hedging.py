"""`hedging:`: requests that are late are sent to a second slice as well."""

import re
from typing import Annotated, Final

from pydantic import Field, PlainValidator

from gateway.config_fields import Section
from gateway.hedging_rules import HedgingRules
from gateway.quantities import duration_s

OFF: Final = "off"
AFTER_MIN_S: Final = 0.001
AFTER_MAX_S: Final = 3600.0
_DEFAULTS: Final = HedgingRules()
_QUANTILE: Final = re.compile(r"p([5-9][0-9](?:\.[0-9]{1,2})?)")


def is_off(value: object) -> bool:
    """Say whether `after` turns hedging off; YAML reads `off` as False."""
    return value is None or value is False or value == OFF


def _after(value: object) -> str | float:
    """Return OFF, a quantile as it was written, or seconds. Raises ValueError."""
    if is_off(value) and value is not None:
        return OFF
    if isinstance(value, str) and _QUANTILE.fullmatch(value):
        return value
    try:
        seconds = duration_s(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither a duration such as 50ms, nor a share of the model's own answers "
            "from p50 to p99.99 such as p95, nor off"
        ) from None
    if not AFTER_MIN_S <= seconds <= AFTER_MAX_S:
        raise ValueError(f"{value!r} is not within 1ms and 1h; off turns hedging off")
    return seconds


class HedgingSection(Section):
    """
    Hedging; see gateway.hedging_rules.

    Attributes:
        after: When a request without an answer is late: a time, or a quantile such as `p95` of what
            its model's answers took of late; off: nothing is sent twice.
        percent: Of all requests, how many may be sent twice.
    """

    after: Annotated[str | float, PlainValidator(_after)] = OFF
    percent: Annotated[float, Field(gt=0, le=100)] = _DEFAULTS.percent

    def rules(self) -> HedgingRules:
        if isinstance(self.after, float):
            return HedgingRules(after_s=self.after, percent=self.percent)
        quantile = 0.0 if self.after == OFF else float(self.after[1:]) / 100
        return HedgingRules(quantile=quantile, percent=self.percent)
