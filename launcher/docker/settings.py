"""What an operator may set about containers: `docker` in the configuration."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat

DEFAULT_IMAGE: Final = "nvcr.io/nvidia/tritonserver:24.10-py3"
Binding = Literal["auto", "cdi", "runtime", "gpus", "none"]


class DockerSettings(BaseModel):
    """
    Attributes:
        image: Laid out as NVIDIA's Triton images: `tritonserver` on PATH, curl for health checks.
        pull: When to ask the registry for it.
        binding: How a container is given its MIG device, see launcher/docker/binding.py.
        network: `bridge`, or the name of another network of the engine: ports are published on
            `host`. `host`: Triton listens on the host's own ports, which costs nothing per byte.
        ipc: Whose shared memory its processes see; `host` lets clients on this machine share
            tensors with Triton by system shared memory.
        shm_size: Of the container's own; Python models pass tensors through it.
        restart: The engine's policy, for when no launcher watches.
        health_interval_s: Between two health checks of the engine's own; 0: none. Each costs a
            process. They are for people who look: routing goes by the gateway's checks.
        memory: Limit, such as `16g`.
        cpus: `near`: the cores of the GPU's NUMA node; `all`; or a list such as `0-7,16-23`.
        user: `uid` or `uid:gid`; the image's own when not given.
        read_only: The container's file system, except /tmp.
        environment: Variables beyond those of the image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Annotated[str, Field(min_length=1)] = DEFAULT_IMAGE
    pull: Literal["missing", "always", "never"] = "missing"
    binding: Binding = "auto"
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "bridge"
    ipc: Literal["private", "shareable", "host"] = "private"
    shm_size: Annotated[str, Field(pattern=r"^[1-9][0-9]*[bkmg]?$")] = "1g"
    restart: Literal["unless-stopped", "always", "on-failure", "no"] = "unless-stopped"
    health_interval_s: NonNegativeFloat = 15.0
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[bkmg]?$")] | None = None
    cpus: Annotated[str, Field(pattern=r"^(near|all|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$")] = (
        "near"
    )
    user: Annotated[str, Field(min_length=1)] | None = None
    read_only: bool = True
    environment: dict[str, str] = {}
