"""`health:` and `ejection:`: when a slice is found down, and when its answers speak against it."""

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from gateway.config_fields import Duration, Section
from gateway.fleet.ejection import EjectionSettings
from gateway.fleet.health import Thresholds

PROBES: Final = ("triton", "grpc", "both")
MODELS_MAX: Final = 256
_DEFAULTS: Final = EjectionSettings()


def _probe(value: object) -> str:
    if value in PROBES:
        return str(value)
    raise ValueError(f"{value!r} is no probe; known probes: {', '.join(PROBES)}")


def _model(value: str) -> str:
    if not value or not value.isprintable() or "/" in value or len(value) > 256:
        raise ValueError(f"{value!r} is no model's name")
    return value


def _zero_if_off(value: object) -> object:
    """YAML reads `off` and `false` as False: the rule is off, as with 0."""
    return 0 if value is False else value


Count = Annotated[int, BeforeValidator(_zero_if_off), Field(ge=0, le=1_000_000)]
Rule = Annotated[float, BeforeValidator(_zero_if_off)]
OptionalTime = Annotated[Duration, BeforeValidator(_zero_if_off), Field(le=86400)]


class HealthSection(Section):
    """
    How slices are checked; times in seconds.

    A slice that stops answering is down within about `interval + fall x timeout`, 2.8 s.

    Attributes:
        probe: What is asked: Triton over HTTP, over gRPC, or both of them.
        models: Models that are asked one by one whether they are ready, beyond Triton's index.
        interval: Between two checks of a slice that is up.
        timeout: For one check.
        rise: Passes before a slice that was down is up again.
        fall: Failures before a slice is down, where the first does not settle it.
        fast_interval: Between two checks while results disagree with the slice's health.
        down_interval: Between two checks of a slice that is down.
    """

    probe: Annotated[str, PlainValidator(_probe)] = "triton"
    models: Annotated[
        tuple[Annotated[str, AfterValidator(_model)], ...],
        Field(strict=False, max_length=MODELS_MAX),
    ] = ()
    interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 1.0
    timeout: Annotated[Duration, Field(ge=0.05, le=600)] = 0.5
    rise: Annotated[int, Field(ge=1, le=100)] = 2
    fall: Annotated[int, Field(ge=1, le=100)] = 3
    fast_interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 0.5
    down_interval: Annotated[Duration, Field(ge=0.05, le=3600)] = 1.0

    def thresholds(self) -> Thresholds:
        return Thresholds(rise=self.rise, fall=self.fall)


class EjectionSection(Section):
    """When slices are set aside by what comes of their traffic; see EjectionSettings."""

    enabled: bool = _DEFAULTS.enabled
    consecutive: Count = _DEFAULTS.consecutive
    window: Annotated[Duration, Field(ge=1, le=3600)] = _DEFAULTS.window_s
    ratio: Annotated[Rule, Field(ge=0, le=1)] = _DEFAULTS.ratio
    samples: Annotated[int, Field(ge=1, le=1_000_000)] = _DEFAULTS.samples
    latency_factor: Annotated[Rule, Field(ge=0, le=1000)] = _DEFAULTS.latency_factor
    latency_min: OptionalTime = _DEFAULTS.latency_min_s
    duration: Annotated[Duration, Field(ge=0.1, le=86400)] = _DEFAULTS.duration_s
    duration_max: Annotated[Duration, Field(ge=0.1, le=86400)] = _DEFAULTS.duration_max_s
    jitter: Annotated[Rule, Field(ge=0, le=0.9)] = _DEFAULTS.jitter
    slow_start: OptionalTime = _DEFAULTS.slow_start_s
    panic: OptionalTime = _DEFAULTS.panic_s

    def values(self) -> EjectionSettings:
        timed = ("window", "latency_min", "duration", "duration_max", "slow_start", "panic")
        return EjectionSettings(**{f"{k}_s" if k in timed else k: v for k, v in self})
