"""
The configuration file: YAML in, one frozen model out, every mistake named at once.

Unknown keys are errors and every default is sensible, so a list of slices is a complete
configuration. Relative paths are relative to the folder the gateway is started in. Limits and
timeouts are read off gateway.limits: a field added there is a key here.
"""

from dataclasses import Field as DataclassField
from dataclasses import dataclass, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    create_model,
)
from pydantic_core import core_schema

from contract.files import read_whole
from contract.logs import LEVELS
from contract.slice_spec import NAME_PATTERN, Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.config_errors import ConfigError, messages, read_yaml
from gateway.config_fields import Duration, EndpointField, PathField, Section
from gateway.config_health import EjectionSection, HealthSection
from gateway.config_hedging import HedgingSection
from gateway.config_queue import InFlight, QueueSection
from gateway.config_relations import errors_between, warnings_between
from gateway.config_security import AdminSection, TlsSection, exposure_warnings
from gateway.config_triton import TritonSection
from gateway.forwarding_rules import KEEP, OFF, REQUEST_ID_CHOICES, ForwardingRules, Network
from gateway.limits import (
    BODY_BYTES_CEILING,
    KIB,
    MIB,
    REPLAY_ANY,
    REPLAY_CHOICES,
    Limits,
    Timeouts,
)
from gateway.quantities import size_bytes

__all__ = ["Config", "ConfigError", "load", "parse"]

LOG_FORMATS: Final = ("auto", "json", "text")
DAY_S: Final = 86400.0
FILE_BYTES_MAX: Final = 4 * MIB
WORKERS_MAX: Final = 64
_INT32_MAX: Final = 2**31 - 1

# Least and most an operator may set; where nothing is said, 1 to 2**31 - 1.
_LIMIT_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "head_bytes": (1 * KIB, 16 * MIB),
    "request_line_bytes": (256, 1 * MIB),
    "body_bytes": (1, BODY_BYTES_CEILING),
    "pipelined_bytes": (0, 64 * MIB),
    "replay_bytes": (0, BODY_BYTES_CEILING),
    "replay_percent": (0, 100),
    "replay_floor": (0, 10**6),
    "quarantined": (0, 4096),
    "buffered_bytes": (1 * MIB, 2**40),
    "waiting_per_slice": (0, 10**6),
    "frame_bytes": (16 * KIB, 16 * MIB - 1),  # RFC 9113 section 4.2
    "continuations": (0, 1024),
}


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
    max_in_flight: InFlight | None = None

    @property
    def spec(self) -> SliceSpec:
        return SliceSpec(
            self.name, self.http, self.grpc, self.metrics, self.weight,
            max_in_flight=self.max_in_flight,
        )  # fmt: skip


def _replay(value: object) -> str:
    if value in REPLAY_CHOICES:
        return str(value)
    raise ValueError(f"{value!r} is no choice; known choices: {', '.join(REPLAY_CHOICES)}")


class BalancingSection(Section):
    """Which slice takes the next request, and which requests go to another one when it fails."""

    policy: Annotated[str, PlainValidator(_policy)] = "least_load"
    replay: Annotated[str, PlainValidator(_replay)] = REPLAY_ANY


def _request_id(value: object) -> str:
    # YAML reads a bare `off` as false.
    value = OFF if value is False else value
    if value in REQUEST_ID_CHOICES:
        return str(value)
    raise ValueError(f"{value!r} is no choice; known choices: {', '.join(REQUEST_ID_CHOICES)}")


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no network: write "10.0.0.0/8", in quotes')
    try:
        return ip_network(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no network such as 10.0.0.0/8: {error}") from None


class ForwardingSection(Section):
    """What slices are told about where a request came from; see gateway.forwarding_rules."""

    via: bool = False
    x_forwarded_for: bool = False
    forwarded: bool = False
    request_id: Annotated[str, PlainValidator(_request_id)] = KEEP
    trusted_proxies: Annotated[
        tuple[Annotated[Network, PlainValidator(_network)], ...],
        BeforeValidator(_listed),
        Field(strict=False, max_length=1024),
    ] = ()

    def rules(self) -> ForwardingRules:
        return ForwardingRules(**dict(self))


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
        tls: For all of `listen`; plain text when it is not given.
        slices: The fixed slices.
        inventory: The launcher's inventory file, watched for changes.
        state_file: Where the operator's choices are kept across restarts.
        workers: Processes that serve clients; with 1 the gateway is a single process.
    """

    listen: Annotated[
        tuple[EndpointField, ...], BeforeValidator(_listed), Field(min_length=1, strict=False)
    ] = (Endpoint("0.0.0.0", 50050),)
    tls: TlsSection | None = None
    admin: AdminSection = AdminSection()
    balancing: BalancingSection = BalancingSection()
    slices: Annotated[tuple[SliceSection, ...], Field(strict=False, max_length=512)] = ()
    inventory: PathField | None = None
    health: HealthSection = HealthSection()
    ejection: EjectionSection = EjectionSection()
    queue: QueueSection = QueueSection()
    hedging: HedgingSection = HedgingSection()
    limits: Annotated[LimitsSection, ReadAs(_Limits)] = _Limits()
    timeouts: Annotated[TimeoutsSection, ReadAs(_Timeouts)] = _Timeouts()
    forwarding: ForwardingSection = ForwardingSection()
    triton: TritonSection = TritonSection()
    state_file: PathField = Path("run/gateway-state.json")
    log: LogSection = LogSection()
    workers: Annotated[int, Field(ge=1, le=WORKERS_MAX)] = 1
    _text: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """What it was read from, for processes that must have the very same."""
        return self._text

    @property
    def specs(self) -> tuple[SliceSpec, ...]:
        """The fixed slices as the rest of the gateway knows them."""
        return tuple(member.spec for member in self.slices)

    @property
    def warnings(self) -> list[str]:
        """What is allowed and yet probably a mistake, one sentence each."""
        return warnings_between(self.specs) + exposure_warnings(self.admin)


def load(path: Path, *, again: bool = False) -> Config:
    """
    Read the configuration file at `path`.

    Args:
        again: It has been read before, so it must be a regular file: a pipe would be waited for.

    Raises:
        ConfigError: The file cannot be read or used; it names every mistake found.
    """
    try:
        if again:
            data = read_whole(path, FILE_BYTES_MAX)
        else:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError([f"{path}: larger than {FILE_BYTES_MAX} bytes"])
        text = data.decode("utf-8")
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
    config._text = text
    return config
