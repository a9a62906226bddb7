"""
The configuration file: YAML in, one frozen model out, every mistake named at once.

Unknown keys are errors and every default is sensible, so a list of slices is a complete
configuration. Relative paths are relative to the folder the gateway is started in. Limits and
timeouts are read off gateway.limits: a field added there is a key here.
"""

from dataclasses import Field as DataclassField
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    ValidationError,
    create_model,
)
from pydantic_core import core_schema

from contract.logs import LEVELS
from contract.slice_spec import NAME_PATTERN, Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.config_errors import ConfigError, messages, read_yaml
from gateway.config_relations import errors_between, warnings_between
from gateway.fleet.health import Thresholds
from gateway.limits import BODY_BYTES_CEILING, KIB, MIB, Limits, Timeouts
from gateway.quantities import duration_s, size_bytes

__all__ = ["Config", "ConfigError", "load", "parse"]

LOG_FORMATS: Final = ("auto", "json", "text")
DAY_S: Final = 86400.0
_INT32_MAX: Final = 2**31 - 1

# Least and most an operator may set; where nothing is said, 1 to 2**31 - 1.
_LIMIT_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "head_bytes": (1 * KIB, 16 * MIB),
    "request_line_bytes": (256, 1 * MIB),
    "body_bytes": (1, BODY_BYTES_CEILING),
    "pipelined_bytes": (0, 64 * MIB),
    "replay_bytes": (0, BODY_BYTES_CEILING),
    "buffered_bytes": (1 * MIB, 2**40),
    "waiting_per_slice": (0, 10**6),
    "frame_bytes": (16 * KIB, 16 * MIB - 1),  # RFC 9113 section 4.2
    "continuations": (0, 1024),
}


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no address: write "host:port", in quotes')
    return Endpoint.parse(value)


def _policy(value: object) -> str:
    if isinstance(value, str) and value in POLICIES:
        return value
    raise ValueError(f"{value!r} is no policy; known policies: {', '.join(POLICIES)}")


def _slice_name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(
            f"{value!r} is no slice name: letters, digits, '.', '_' and '-', 63 at most, "
            "a letter or digit first"
        )
    return value


def _listed(value: object) -> object:
    """One address stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path of a file")
    return Path(value)


EndpointField = Annotated[Endpoint, PlainValidator(_endpoint)]
PathField = Annotated[Path, PlainValidator(_path)]
Duration = Annotated[float, BeforeValidator(duration_s)]


class Section(BaseModel):
    """Part of the configuration: frozen, no unknown keys, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _limit_field(item: "DataclassField[Any]") -> tuple[str, Any]:
    low, high = _LIMIT_BOUNDS.get(item.name, (1, _INT32_MAX))
    if item.name.endswith("_window"):
        low = 64 * KIB - 1  # what HTTP/2 starts with, RFC 9113 section 6.9.2
    bounds = Field(ge=low, le=high)
    sized = item.name.endswith(("_bytes", "_window"))
    kind = Annotated[int, BeforeValidator(size_bytes), bounds] if sized else Annotated[int, bounds]
    return item.name, (kind, item.default)


def _timeout_field(item: "DataclassField[Any]") -> tuple[str, Any]:
    key = item.name.removesuffix("_s")
    return key, (Annotated[Duration, Field(le=DAY_S)], item.default)


class LimitsSection(Section):
    """The bounds; its keys are the fields of gateway.limits.Limits."""

    def values(self) -> Limits:
        return Limits(**dict(self))


class TimeoutsSection(Section):
    """The times; its keys are the fields of gateway.limits.Timeouts, without `_s`."""

    def values(self) -> Timeouts:
        return Timeouts(**{f"{key}_s": value for key, value in self})


_Limits = create_model(
    "LimitsSection", __base__=LimitsSection, **dict(_limit_field(item) for item in fields(Limits))
)
_Timeouts = create_model(
    "TimeoutsSection",
    __base__=TimeoutsSection,
    **dict(_timeout_field(item) for item in fields(Timeouts)),
)


@dataclass(frozen=True)
class ReadAs:
    """Validates a field with `section`: a model that is made at run time, and so is no type."""

    section: type[BaseModel]

    def __get_pydantic_core_schema__(
        self, _source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return handler.generate_schema(self.section)


class SliceSection(Section):
    """One Triton server, as the operator writes it down."""

    name: Annotated[str, AfterValidator(_slice_name)]
    http: EndpointField
    grpc: EndpointField
    metrics: EndpointField | None = None
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0

    @property
    def spec(self) -> SliceSpec:
        return SliceSpec(self.name, self.http, self.grpc, self.metrics, self.weight)


class AdminSection(Section):
    """Where the admin API listens: this machine only, unless the operator says otherwise."""

    listen: EndpointField = Endpoint("127.0.0.1", 9001)


class BalancingSection(Section):
    """Which slice takes the next request."""

    policy: Annotated[str, PlainValidator(_policy)] = "least_load"


class HealthSection(Section):
    """
    How slices are checked; times in seconds.

    Attributes:
        interval: Between two checks of a slice that is up.
        timeout: For one check.
        rise: Passes before a slice that was down is up again.
        fall: Failures before a slice is down, where the first does not settle it.
        fast_interval: Between two checks while results disagree with the slice's health.
        down_interval: Between two checks of a slice that is down.
    """

    interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 2.0
    timeout: Annotated[Duration, Field(ge=0.05, le=600)] = 1.0
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    fall: Annotated[int, Field(ge=1, le=100)] = 3
    fast_interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 0.5
    down_interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 1.0

    def thresholds(self) -> Thresholds:
        return Thresholds(rise=self.rise, fall=self.fall)


def _level(value: object) -> str:
    if value in LEVELS:
        return str(value)
    raise ValueError(f"{value!r} is no level; known levels: {', '.join(LEVELS)}")


def _log_format(value: object) -> str:
    if value in LOG_FORMATS:
        return str(value)
    raise ValueError(f"{value!r} is no log format; known formats: {', '.join(LOG_FORMATS)}")


class LogSection(Section):
    """What is logged, and how; see contract.logs."""

    level: Annotated[str, PlainValidator(_level)] = "info"
    format: Annotated[str, PlainValidator(_log_format)] = "auto"


class Config(Section):
    """
    The whole configuration.

    Attributes:
        listen: Where clients connect; HTTP/1.1 and HTTP/2 on each.
        slices: The fixed slices.
        inventory: The launcher's inventory file, watched for changes.
        state_file: Where the operator's choices are kept across restarts.
    """

    listen: Annotated[
        tuple[EndpointField, ...], BeforeValidator(_listed), Field(min_length=1, strict=False)
    ] = (Endpoint("0.0.0.0", 50050),)
    admin: AdminSection = AdminSection()
    balancing: BalancingSection = BalancingSection()
    slices: Annotated[tuple[SliceSection, ...], Field(strict=False, max_length=512)] = ()
    inventory: PathField | None = None
    health: HealthSection = HealthSection()
    limits: Annotated[LimitsSection, ReadAs(_Limits)] = _Limits()
    timeouts: Annotated[TimeoutsSection, ReadAs(_Timeouts)] = _Timeouts()
    state_file: PathField = Path("run/gateway-state.json")
    log: LogSection = LogSection()

    @property
    def specs(self) -> tuple[SliceSpec, ...]:
        """The fixed slices as the rest of the gateway knows them."""
        return tuple(member.spec for member in self.slices)

    @property
    def warnings(self) -> list[str]:
        """What is allowed and yet probably a mistake, one sentence each."""
        return warnings_between(self.specs)


def load(path: Path) -> Config:
    """
    Read the configuration file at `path`.

    Raises:
        ConfigError: The file cannot be read or used; it names every mistake found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"]
        ) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Config:
    """Read a configuration from `text`; `source` names it in errors. Raises ConfigError."""
    document = read_yaml(text, source)
    found: list[str] = []
    config = None
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        found = messages(error, document, Config)
    found += errors_between(document, Config())
    if config is None or found:
        raise ConfigError([f"{source}: {message}" for message in found])
    return config
