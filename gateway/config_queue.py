"""`queue:`: how many requests a slice has at once, and how the others wait."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.config_fields import Duration, Section
from gateway.fleet.lanes import IN_FLIGHT_MAX
from gateway.fleet.places import QueueSettings
from gateway.quantities import size_bytes

MODELS_MAX: Final = 1024
_DEFAULTS: Final = QueueSettings()
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")

# What the gateway itself acts upon, or what tells where a message ends, is no priority.
_TAKEN: Final = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "transfer-encoding"}
)


def _no_if_off(value: object) -> object:
    """YAML reads `off` and `false` as False."""
    return "" if value is False else value


def _header(value: str) -> str:
    if value and (not _FIELD_NAME.fullmatch(value) or value.lower() in _TAKEN):
        raise ValueError(f"{value!r} is no name of a header that could tell a priority")
    return value.lower()


def _model(value: str) -> str:
    if not value or not value.isprintable() or "/" in value or len(value) > 256:
        raise ValueError(f"{value!r} is no model's name")
    return value


InFlight = Annotated[int, Field(ge=0, le=IN_FLIGHT_MAX)]


class QueueSection(Section):
    """
    Late binding; see gateway.fleet.places.QueueSettings. Times in seconds.

    Attributes:
        enabled: Off: each request is given to a slice at once.
        max_in_flight: Of a slice that has none of its own, over all models; 0 for no limit.
        models: Limits of a slice by model, in place of what follows from its configuration, for
            the slice with the smallest weight; 0 for no limit.
        length: Requests waiting for one model.
        bytes: What all that wait hold.
        timeout: For waiting; 0 for ever.
        priority_header: Which header tells how urgent a request is; off: all are alike.
        priority_step: By how much one step of urgency goes before others, in time of arrival.
    """

    enabled: bool = _DEFAULTS.enabled
    max_in_flight: InFlight = _DEFAULTS.max_in_flight
    models: Annotated[
        dict[Annotated[str, AfterValidator(_model)], InFlight], Field(max_length=MODELS_MAX)
    ] = {}  # noqa: RUF012 - frozen, and copied by pydantic
    length: Annotated[int, Field(ge=0, le=1_000_000)] = _DEFAULTS.length
    bytes: Annotated[int, BeforeValidator(size_bytes), Field(ge=0, le=2**40)] = _DEFAULTS.bytes
    timeout: Annotated[Duration, Field(le=86400)] = _DEFAULTS.timeout_s
    priority_header: Annotated[str, BeforeValidator(_no_if_off), AfterValidator(_header)] = (
        _DEFAULTS.priority_header
    )
    priority_step: Annotated[Duration, Field(le=3600)] = _DEFAULTS.step_s

    def values(self) -> QueueSettings:
        return QueueSettings(
            enabled=self.enabled,
            max_in_flight=self.max_in_flight,
            models=dict(self.models),
            length=self.length,
            bytes=self.bytes,
            timeout_s=self.timeout,
            priority_header=self.priority_header,
            step_s=self.priority_step,
        )
