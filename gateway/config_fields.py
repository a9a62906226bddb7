"""The kinds of values that a configuration is made of."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator

from contract.slice_spec import Endpoint
from gateway.quantities import duration_s


class Section(BaseModel):
    """Part of the configuration: frozen, no unknown keys, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def endpoint(value: object) -> Endpoint:
    """Read `host:port`. Raises ValueError."""
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no address: write "host:port", in quotes')
    return Endpoint.parse(value)


def path(value: object) -> Path:
    """Read the name of a file. Raises ValueError."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path of a file")
    return Path(value)


EndpointField = Annotated[Endpoint, PlainValidator(endpoint)]
PathField = Annotated[Path, PlainValidator(path)]
Duration = Annotated[float, BeforeValidator(duration_s)]
