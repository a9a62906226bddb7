"""
Jobs in containers: any image and command, on one slice.

The container carries a marker as a server's does, so that it is found again by any launcher, also when
it has ended meanwhile: it is removed only once its exit code is known.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from contract.slice_spec import SliceSpec
from launcher import owner
from launcher.docker import binding, spec
from launcher.docker.connecting import connect
from launcher.docker.failures import EngineUnreachableError, GoneError
from launcher.docker.settings import DockerSettings
from launcher.docker.spec import Device, container_name
from launcher.errors import StartError
from launcher.job import Job
from launcher.runtime import Handle

if TYPE_CHECKING:
    from launcher.docker.engine import Engine
    from launcher.docker.server import ContainerServer


def container(
    job: Job,
    member: SliceSpec,
    marker: str,
    log: Path | None,
    settings: DockerSettings,
    device: Device,
    sign: str,
) -> dict[str, Any]:
    """
    Return the arguments of the engine's `create`.

    Args:
        job: What is to run.
        member: Its slice.
        marker: Of this start.
        log: The launcher's own log of it; None where it has none.
        settings: The operator's.
        device: What it is bound to.
        sign: Of the launcher's state folder.
    """
    # On the host's network all ports of the job are the host's as they are.
    ports = job.ports if settings.network != "host" else ()
    return {
        "image": job.image,
        "name": container_name(marker),
        "command": list(job.command) or None,
        "user": settings.user,
        "labels": {
            spec.OWNER: sign,
            spec.MARKER: marker,
            f"{spec.PREFIX}.job-on": member.name,
            f"{spec.PREFIX}.mig-uuid": member.mig_uuid,
            **({spec.LOG: str(log)} if log else {}),
        },
        "environment": {**spec.visible(member, device), **dict(job.environment)},
        "ports": [inside for _, _, inside in ports],
        "host_config": {
            "binds": list(job.volumes),
            "port_bindings": {inside: (address, here) for address, here, inside in ports},
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


class ContainerJobs:
    """Keeps launcher/job.py's protocol; connects to the engine when there is something to ask."""

    def __init__(self, settings: DockerSettings, folder: Path) -> None:
        """
        Args:
            settings: The operator's.
            folder: The state folder, whose sign all containers carry.
        """
        self._settings = settings
        self._folder = folder
        self._connected: Engine | None = None

    def check(self, job: Job, say: Callable[[str], None]) -> None:
        """Have the image there. Raises StartError."""
        image, pull = job.image, self._settings.pull
        found = self._engine.image_id(image)
        if pull == "always" or (pull == "missing" and not found):
            self._engine.pull(image, say, lambda: False)
            found = self._engine.image_id(image)
        if not found:
            raise StartError(
                f"the engine has no image {image} (docker.pull is {pull}): `docker pull {image}`"
            )

    def start(self, job: Job, member: SliceSpec, marker: str, log: Path) -> "ContainerServer":
        """Start a container, followed by a thread."""
        from launcher.docker.server import ContainerServer

        def create() -> str:
            return self._create(job, member, marker, log)

        return ContainerServer(self._engine, Handle(marker), log, create)

    def find(self, handle: Handle) -> "ContainerServer | None":
        """Return the container of an earlier start: it runs, or has run and ended."""
        from launcher.docker.server import ContainerServer

        try:
            about = self._engine.inspect(container_name(handle.marker))
        except GoneError:
            return None
        labels = about["Config"]["Labels"] or {}
        if labels.get(spec.MARKER) != handle.marker or spec.LOG not in labels:
            return None
        if about["State"]["Status"] == "created":  # by a launcher that was killed in between
            return None
        return ContainerServer(self._engine, handle, Path(labels[spec.LOG]), None)

    def sweep(self, markers: Sequence[str]) -> None:
        """Remove the containers of these starts; those of others are not touched."""
        self._engine.sweep(markers)

    def run(
        self, job: Job, member: SliceSpec, marker: str, out: BinaryIO = sys.stdout.buffer
    ) -> int:
        """
        Run a job to its end, copying what it says; remove the container; return its exit code.

        Raises:
            StartError: It could not be started, or the engine went away.
        """
        name = container_name(marker)
        try:
            self._create(job, member, marker, None)
            self._engine.start(name)
            for chunk in self._engine.output(name, 0):
                out.write(chunk)
                out.flush()
            return self._engine.wait(name)
        finally:
            self._engine.remove(name)

    def signal(self, marker: str, number: str) -> None:
        """Send a signal to what `run` runs, from another thread."""
        try:
            self._engine.signal(container_name(marker), number)
        except (GoneError, EngineUnreachableError):
            pass  # `run` says what there is to say

    @property
    def _engine(self) -> "Engine":
        if self._connected is None:
            self._connected = connect()
        return self._connected

    def _create(self, job: Job, member: SliceSpec, marker: str, log: Path | None) -> str:
        offered = binding.abilities(self._engine.info())
        way = binding.choose(self._settings.binding, member.mig_uuid, member.simulated, offered)
        device = Device(way, member.mig_uuid)
        sign = owner.sign_of(self._folder)
        return self._engine.create(
            container(job, member, marker, log, self._settings, device, sign)
        )
