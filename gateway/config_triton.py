"""The `triton` section: what concerns all slices together, answering as one server."""

from typing import Annotated

from pydantic import Field, PlainValidator

from gateway.config_fields import Duration, Section
from gateway.fleet.readiness import ANY, READY_CHOICES


def _ready(value: object) -> str:
    if value in READY_CHOICES:
        return str(value)
    raise ValueError(f"{value!r} is no choice; known choices: {', '.join(READY_CHOICES)}")


class TritonSection(Section):
    """
    One big Triton; times in seconds.

    Attributes:
        ready: When clients are told that the server is ready: `any` slice takes work, or `all` that
            are enabled do.
        call_timeout: For one slice to answer a call that the gateway puts to all.
        load_timeout: The same for loading or unloading a model.
    """

    ready: Annotated[str, PlainValidator(_ready)] = ANY
    call_timeout: Annotated[Duration, Field(ge=0.05, le=600)] = 5.0
    load_timeout: Annotated[Duration, Field(ge=1, le=86400)] = 600.0
