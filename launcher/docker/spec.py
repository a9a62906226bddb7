"""A server and the operator's settings → what is asked of the engine: pure."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.slice_spec import Endpoint, SliceSpec
from launcher.docker.binding import CDI_KIND, Way
from launcher.docker.settings import DockerSettings
from launcher.runtime import ServerSpec

PREFIX: Final = "mig-gateway"
MARKER: Final = f"{PREFIX}.marker"
LOG: Final = f"{PREFIX}.log"
OWNER: Final = f"{PREFIX}.owner"
HTTP_PORT: Final = 8000
GRPC_PORT: Final = 8001
METRICS_PORT: Final = 8002
MODELS: Final = "/models"
NANOSECONDS: Final = 1_000_000_000
LOG_OPTIONS: Final = {"max-size": "10m", "max-file": "3"}
TMP: Final = "rw,exec,nosuid,nodev,mode=1777"
"""Python models may unpack their own environment there, with libraries: not Docker's noexec."""


@dataclass(frozen=True, slots=True)
class Device:
    """The way a container is given its device, and what it is asked by."""

    way: Way
    mig_uuid: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where the engine finds the model repository: a folder of its machine, or a volume."""

    kind: str
    name: str


def container_name(marker: str) -> str:
    """Return the name of the container of one start: what the engine finds it by."""
    return marker.rstrip("_")


def fingerprint(settings: DockerSettings, image_id: str) -> str:
    """Return a text that differs when containers would be made otherwise."""
    made_of = f"{settings.model_dump_json()} {image_id}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def labels(spec: ServerSpec, marker: str, log: Path, owner: str) -> dict[str, str]:
    """Return what people and later launchers know the container by."""
    member = spec.member
    return {
        OWNER: owner,
        MARKER: marker,
        LOG: str(log),
        f"{PREFIX}.slice": member.name,
        f"{PREFIX}.mig-uuid": member.mig_uuid,
        f"{PREFIX}.profile": member.profile,
        f"{PREFIX}.simulated": str(member.simulated).lower(),
    }


def container(
    spec: ServerSpec,
    marker: str,
    log: Path,
    settings: DockerSettings,
    device: Device,
    source: Source | None,
    address: str,
    owner: str,
) -> dict[str, Any]:
    """
    Return the arguments of the engine's `create`, as the SDK's low-level client takes them.

    Args:
        spec: The server.
        marker: Of this start.
        log: The launcher's own log of it.
        settings: The operator's.
        device: What it is bound to.
        source: The model repository; None when Triton reads it from a URL itself.
        address: The IP address that ports are published on: the member's host.
        owner: Sign of the launcher's state folder.
    """
    on_host = settings.network == "host"
    inside = [HTTP_PORT, GRPC_PORT, METRICS_PORT] if not on_host else None
    host_config: dict[str, Any] = {
        "network_mode": settings.network,
        "restart_policy": {"Name": settings.restart},
        "shm_size": None if settings.ipc == "host" else settings.shm_size,
        "ipc_mode": settings.ipc,
        "mem_limit": settings.memory,
        "cpuset_cpus": spec.cpus or None,
        "read_only": settings.read_only,
        "tmpfs": {"/tmp": TMP},  # noqa: S108 - in the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "log_config": {"Type": "json-file", "Config": LOG_OPTIONS},
        "mounts": [_mount(source)] if source else [],
        "port_bindings": None if on_host else _published(spec, address),
        **device_fields(device),
    }
    return {
        "image": settings.image,
        "name": container_name(marker),
        "command": command(spec, marker, on_host, source is not None),
        "user": settings.user,
        "labels": labels(spec, marker, log, owner),
        "environment": {
            "HOME": "/tmp",  # noqa: S108 - CUDA keeps its cache there
            **visible(spec.member, device),
            **settings.environment,
        },
        "ports": inside,
        "healthcheck": _health(spec.member.http.port if on_host else HTTP_PORT, settings),
        "host_config": host_config,
    }


def command(spec: ServerSpec, marker: str, on_host: bool, mounted: bool) -> list[str]:
    """Return the command line of Triton inside the container."""
    member = spec.member
    everywhere = "0.0.0.0"

    def listening(name: str, endpoint: Endpoint, inside: int) -> list[str]:
        host, port = (endpoint.host, endpoint.port) if on_host else (everywhere, inside)
        return [f"--{name}-address={host}", f"--{name}-port={port}"]

    arguments = [
        "tritonserver",
        f"--model-repository={MODELS if mounted else spec.model_repository}",
        # Unique for this start, also where containers share the host's memory.
        f"--backend-config=python,shm-region-prefix-name={marker}",
        *listening("http", member.http, HTTP_PORT),
        *listening("grpc", member.grpc, GRPC_PORT),
        # Triton's GPU metrics do not work on MIG devices.
        "--allow-gpu-metrics=false",
    ]
    if member.metrics:
        arguments += listening("metrics", member.metrics, METRICS_PORT)
    return [*arguments, *spec.arguments]


def _published(spec: ServerSpec, address: str) -> dict[int, tuple[str, int]]:
    member = spec.member
    ends = {HTTP_PORT: member.http, GRPC_PORT: member.grpc}
    if member.metrics:
        ends[METRICS_PORT] = member.metrics
    return {inside: (address, end.port) for inside, end in ends.items()}


def _mount(source: Source) -> dict[str, Any]:
    # Not a `volume`: for a bind that does not exist the engine would make an empty folder.
    return {"Type": source.kind, "Source": source.name, "Target": MODELS, "ReadOnly": True}


def device_fields(device: Device) -> dict[str, Any]:
    if device.way == "runtime":
        return {"runtime": "nvidia"}
    if device.way == "gpus":
        request = {"Driver": "nvidia", "DeviceIDs": [device.mig_uuid], "Capabilities": [["gpu"]]}
        return {"device_requests": [request]}
    if device.way == "cdi":
        name = f"{CDI_KIND}={device.mig_uuid}"
        return {"device_requests": [{"Driver": "cdi", "DeviceIDs": [name]}]}
    return {}


def visible(member: SliceSpec, device: Device) -> dict[str, str]:
    """Return the variables that go with a device."""
    given = {}
    if device.way == "runtime":
        given["NVIDIA_VISIBLE_DEVICES"] = device.mig_uuid
        given["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    elif device.way == "none":
        # The image says `all`, which would be every GPU where `nvidia` is the default runtime.
        given["NVIDIA_VISIBLE_DEVICES"] = "void"
    if member.simulated:
        given["CUDA_VISIBLE_DEVICES"] = member.mig_uuid  # by which the simulated GPU sees its users
    return given


def _health(port: int, settings: DockerSettings) -> dict[str, Any]:
    if not settings.health_interval_s:
        return {"test": ["NONE"]}
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    return {
        "test": [
            "CMD",
            "curl",
            "--fail",
            "--silent",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            url,
        ],
        "interval": int(settings.health_interval_s * NANOSECONDS),
        "timeout": 10 * NANOSECONDS,
        "start_period": 600 * NANOSECONDS,  # large models take their time
        "retries": 3,
    }
