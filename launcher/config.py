"""
What an operator may set: a YAML file, and flags that override it.

Every default is sensible, so that `gpu` alone is a complete configuration. Unknown keys are
errors. Relative paths are relative to where the launcher was started.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from contract.slice_spec import Endpoint
from launcher import layout
from launcher.docker.settings import DockerSettings
from launcher.errors import ConfigError
from launcher.job_settings import JobSettings
from launcher.weights import parse as parse_shares

FILE_BYTES_MAX: Final = 1024 * 1024
OWN_ARGUMENTS: Final = {
    "--model-repository": "model_repository",
    "--model-store": "model_repository",
    "--http-address": "host",
    "--grpc-address": "host",
    "--metrics-address": "host",
    "--http-port": "port_base",
    "--grpc-port": "port_base",
    "--metrics-port": "port_base",
    "--backend-directory": "tritonserver",
}
"""Triton arguments that the launcher sets itself, and the key that decides them."""

OWN_SETTING: Final = "shm-region-prefix-name"
"""By which the launcher recognises its servers."""


class Strict(BaseModel):
    """A mapping without unknown keys that never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Restart(Strict):
    """
    How fast a server that died is started again: after `first_delay_s`, doubled each time up to
    `max_delay_s`; from the beginning once it was ready for `reset_after_s`.
    """

    first_delay_s: PositiveFloat = 0.2
    max_delay_s: PositiveFloat = 30.0
    reset_after_s: PositiveFloat = 60.0

    @model_validator(mode="after")
    def _ordered(self) -> "Restart":
        if self.max_delay_s < self.first_delay_s:
            raise ValueError("max_delay_s must not be below first_delay_s")
        return self


class LauncherConfig(Strict):
    """
    Attributes:
        gpu: Indexes or UUIDs of real GPUs, `all` (when not given), `simulated:BOARD`, `mps`.
        layout: `all-1g`, `balanced`, or a list of profiles; for all GPUs, or by GPU.
        mig_parted: A configuration file of NVIDIA's mig-parted, instead of a layout.
        mig_config: Which of its configurations.
        shares: With `gpu: mps`: a number of equal shares of each GPU, or weights.
        mps_memory_limit: Limit each share's memory to its part, too.
        host: Address that servers listen on.
        port_base: HTTP port of slice 0; see launcher/plan.py.
        model_repository: Triton's model repository, the same for every slice: a folder, or a URL
            such as `s3://…` that Triton reads itself.
        triton_args: More arguments for every server.
        tritonserver: The program; found on PATH or in nvidia-pytriton when not given.
        runtime: What servers run as.
        docker: About containers; see launcher/docker/settings.py.
        jobs: What runs on slices instead of a server; see launcher/job_settings.py.
        state_dir: Where the launcher keeps what it must remember, and logs.
        inventory: The file for the gateway; `slices.json` in the state folder when not given.
        ready_timeout_s: From the start of a server until it must be ready.
        stop_timeout_s: From SIGTERM until SIGKILL.
        gateway_admin: Where the gateway's admin API listens, for live re-cuts.
        gateway_token_file: Holds the bearer token for it.
        drain_timeout_s: For requests in flight to end, when a slice is re-cut.
        metrics: Where the launcher answers `/metrics`, `/livez` and `/readyz`; nowhere if not given.
        restart: Back-off.
        log_level, log_format: See contract/logs.py.
    """

    gpu: str | None = None
    layout: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)] = {"all": ("all-1g",)}
    mig_parted: Path | None = None
    mig_config: str | None = None
    shares: str = "7"
    mps_memory_limit: bool = False
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port_base: Annotated[int, Field(ge=1, le=65533)] = 8000
    model_repository: Annotated[str, Field(min_length=1)] = "configs/models"
    triton_args: tuple[str, ...] = ()
    tritonserver: Path | None = None
    runtime: Literal["process", "docker"] = "process"
    docker: DockerSettings = DockerSettings()
    jobs: tuple[JobSettings, ...] = ()
    state_dir: Path = Path("run")
    inventory: Path | None = None
    ready_timeout_s: PositiveFloat = 120.0
    stop_timeout_s: PositiveFloat = 20.0
    gateway_admin: str = "127.0.0.1:9001"
    gateway_token_file: Path | None = None
    drain_timeout_s: PositiveFloat = 30.0
    metrics: str | None = None
    restart: Restart = Restart()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"

    @field_validator("layout", mode="before")
    @classmethod
    def _layout(cls, value: object) -> object:
        return layout.from_document(value)

    @field_validator("shares", mode="before")
    @classmethod
    def _shares(cls, value: object) -> object:
        if isinstance(value, int | list | tuple):
            value = str(value) if isinstance(value, int) else ",".join(map(str, value))
        if isinstance(value, str):
            parse_shares(value)
        return value

    @field_validator("gateway_admin", "metrics")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return value if value is None else str(Endpoint.parse(value))

    @field_validator("triton_args")
    @classmethod
    def _triton_args(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for argument in value:
            name = argument.partition("=")[0]
            if name in OWN_ARGUMENTS:
                raise ValueError(f"{name} is set by the launcher; use {OWN_ARGUMENTS[name]}")
            if OWN_SETTING in argument:
                raise ValueError(f"{OWN_SETTING} is set by the launcher")
        return value

    @model_validator(mode="after")
    def _bindable(self) -> "LauncherConfig":
        if self.runtime == "docker" and (self.gpu or "").partition(":")[0] == "mps":
            raise ValueError(
                "runtime docker binds MIG devices; the shares of gpu mps run as processes"
            )
        return self

    @model_validator(mode="after")
    def _jobs(self) -> "LauncherConfig":
        names = [job.name for job in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError("two jobs have the same name")
        shares = (self.gpu or "").partition(":")[0] == "mps"
        if shares and any(job.image for job in self.jobs):
            raise ValueError(
                "a container does not see the shares of gpu mps; leave out the job's image"
            )
        return self

    @property
    def inventory_file(self) -> Path:
        """Where the inventory is written."""
        return self.inventory or self.state_dir / "slices.json"


INNER: Final[dict[str, type[BaseModel]]] = {
    "restart": Restart,
    "docker": DockerSettings,
    "jobs": JobSettings,
}
"""What is inside a key."""


def load(path: Path | None, flags: Mapping[str, Any]) -> LauncherConfig:
    """
    Read the file, if any, and lay the flags over it.

    Args:
        path: YAML file.
        flags: Values by key, `docker.image` for one inside a mapping; those that are None were
            not given.

    Raises:
        ConfigError: One entry for each thing that is wrong, with its path in the file.
    """
    document = _read(path) if path else {}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return LauncherConfig.model_validate(_laid_over(document, given))
    except ValidationError as error:
        raise ConfigError([_problem(entry, path, given) for entry in error.errors()]) from error


def amended(settings: str, changes: Mapping[str, Any]) -> LauncherConfig:
    """
    Return a configuration that was written down, with some keys changed.

    Args:
        settings: JSON of a LauncherConfig.
        changes: Values by key; those that are None leave the key as it is.

    Raises:
        ConfigError: One entry for each thing that is wrong.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    document = {**json.loads(settings), **given}
    if "layout" in given:
        document["mig_parted"] = given.get("mig_parted")
    try:
        return LauncherConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError([_problem(entry, None, given) for entry in error.errors()]) from error


def _laid_over(document: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in flags.items():
        outer, _, inner = key.rpartition(".")
        if outer and isinstance(merged.get(outer, {}), dict):
            merged[outer] = {**merged.get(outer, {}), inner: value}
        elif not outer:
            merged[key] = value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError([f"{path}: larger than {FILE_BYTES_MAX} bytes"])
    try:
        document = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: must be a mapping of keys, not {type(document).__name__}"])
    return document


def _problem(entry: Any, path: Path | None, flags: Mapping[str, Any]) -> str:
    keys = [str(part) for part in entry["loc"]]
    message = entry["msg"].removeprefix("Value error, ")
    if not keys:  # about several keys at once
        return f"{path}: {message}" if path else message
    source = "flag" if {keys[0], ".".join(keys)} & flags.keys() or path is None else str(path)
    where = f"{source}: {'.'.join(keys)}"
    if entry["type"] == "extra_forbidden":
        model = INNER.get(keys[0], LauncherConfig)
        return f"{where}: unknown key; known keys: {', '.join(model.model_fields)}"
    return f"{where}: {message} (it is {entry['input']!r})"
