"""
A job in a container: any image and command, on one slice, until it ends.

The container carries a marker as a server's does, so that a launcher can remove what a killed `run`
has left.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from contract.slice_spec import SliceSpec
from launcher.docker import binding, spec
from launcher.docker.connecting import connect
from launcher.docker.failures import EngineUnreachableError, GoneError
from launcher.docker.settings import DockerSettings
from launcher.docker.spec import Device, container_name
from launcher.errors import StartError


@dataclass(frozen=True, slots=True)
class Job:
    """
    What is to run.

    Attributes:
        image: Any image.
        command: In place of the image's own; empty: that.
        environment: Variables.
        volumes: Folders as `docker run -v` takes them: `/here:/there` or `/here:/there:ro`.
        cpus: Cores it may use; empty: all.
    """

    image: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    cpus: str = ""


def container(
    job: Job, member: SliceSpec, marker: str, settings: DockerSettings, device: Device
) -> dict[str, Any]:
    """Return the arguments of the engine's `create`."""
    return {
        "image": job.image,
        "name": container_name(marker),
        "command": list(job.command) or None,
        "user": settings.user,
        "labels": {
            spec.MARKER: marker,
            f"{spec.PREFIX}.job-on": member.name,
            f"{spec.PREFIX}.mig-uuid": member.mig_uuid,
        },
        "environment": {**spec.visible(member, device), **job.environment},
        "host_config": {
            "binds": list(job.volumes),
            "network_mode": settings.network,
            "ipc_mode": settings.ipc,
            "shm_size": None if settings.ipc == "host" else settings.shm_size,
            "mem_limit": settings.memory,
            "cpuset_cpus": job.cpus or None,
            "security_opt": ["no-new-privileges"],
            "log_config": {"Type": "json-file", "Config": spec.LOG_OPTIONS},
            **spec.device_fields(device),
        },
    }


class JobRun:
    """One run of a job."""

    def __init__(self, job: Job, member: SliceSpec, marker: str, settings: DockerSettings) -> None:
        self._engine = connect()
        self._job = job
        self._member = member
        self._marker = marker
        self._settings = settings
        self._name = container_name(marker)

    def check(self, say: Callable[[str], None]) -> None:
        """Have the image there. Raises StartError."""
        image, pull = self._job.image, self._settings.pull
        found = self._engine.image_id(image)
        if pull == "always" or (pull == "missing" and not found):
            self._engine.pull(image, say, lambda: False)
            found = self._engine.image_id(image)
        if not found:
            raise StartError(f"the engine has no image {image} (docker.pull is {pull})")

    def run(self, out: BinaryIO = sys.stdout.buffer) -> int:
        """
        Run it to its end, copying what it says; remove the container; return its exit code.

        Raises:
            StartError: It could not be started, or the engine went away.
        """
        member = self._member
        offered = binding.abilities(self._engine.info())
        way = binding.choose(self._settings.binding, member.mig_uuid, member.simulated, offered)
        device = Device(way, member.mig_uuid)
        made = container(self._job, member, self._marker, self._settings, device)
        try:
            self._engine.create(made)
            self._engine.start(self._name)
            for chunk in self._engine.output(self._name, 0):
                out.write(chunk)
                out.flush()
            return self._engine.wait(self._name)
        finally:
            self._engine.remove(self._name)

    def stop(self, number: str) -> None:
        """Send a signal; from another thread than `run`."""
        try:
            self._engine.signal(self._name, number)
        except (GoneError, EngineUnreachableError):
            pass  # `run` says what there is to say
