"""
The Docker runtime: one container per slice.

A container is found by its name, which is its marker: by this launcher, and by the one that comes
after this was killed. The engine starts one that dies again by itself while no launcher watches; a
launcher that does replaces it, so that each start has a name of its own.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import owner
from launcher.docker import binding, cores, here, spec
from launcher.docker.connecting import connect
from launcher.docker.failures import GoneError
from launcher.docker.settings import DockerSettings
from launcher.docker.spec import Device, Source, container_name, fingerprint
from launcher.docker.threads import in_thread
from launcher.errors import StartError
from launcher.runtime import Handle, ServerSpec, Sight

if TYPE_CHECKING:
    from launcher.docker.engine import Engine
    from launcher.docker.server import ContainerServer


class DockerRuntime:
    """Runtime of containers."""

    def __init__(
        self, settings: DockerSettings, folder: Path, timeout_s: int | None = None
    ) -> None:
        """
        Args:
            settings: The operator's.
            folder: The state folder, whose sign all containers carry.
            timeout_s: For each call of the engine; None: enough to make a container.
        """
        self._timeout_s = timeout_s
        self._settings = settings
        self._folder = folder
        self._connected: Engine | None = None
        self._image_id = ""
        self._servers: dict[str, ContainerServer] = {}  # of this launcher, by marker

    @property
    def settings(self) -> str:
        """Return what differs when containers would be made otherwise."""
        assert self._image_id, "settings before check()"
        return fingerprint(self._settings, self._image_id)

    def cores_near(self, gpu_uuid: str) -> str:
        """Return the cores of the GPU's node, or what the operator chose instead."""
        wanted = self._settings.cpus
        if wanted == "near":
            return cores.near(gpu_uuid)
        return "" if wanted == "all" else wanted

    async def check(self, say: Callable[[str], None]) -> None:
        """Reach the engine, and have the image there: pulled if that is wanted."""
        stopped = threading.Event()
        loop = asyncio.get_running_loop()

        def tell(text: str) -> None:
            loop.call_soon_threadsafe(say, text)

        try:
            await in_thread(lambda: self._check(tell, stopped))
        finally:
            stopped.set()

    def start(self, wanted: ServerSpec, marker: str, log: Path) -> "ContainerServer":
        """Start a container; what the engine has against it is read from the server's end."""
        return self._server(Handle(marker), log, lambda: self._create(wanted, marker, log))

    def find(self, handle: Handle) -> "ContainerServer | None":
        """Return the running container, and follow it from now on."""
        known = self._servers.get(handle.marker)
        if known is not None:
            return None if known.has_ended() else known
        try:
            about = self._engine.inspect(container_name(handle.marker))
        except GoneError:
            return None
        labels = about["Config"]["Labels"] or {}
        if labels.get(spec.MARKER) != handle.marker or not _runs(about):
            return None
        return self._server(handle, Path(labels[spec.LOG]), None)

    def look(self, handle: Handle) -> Sight | None:
        """Return what the engine says."""
        name = container_name(handle.marker)
        try:
            about = self._engine.inspect(name)
        except GoneError:
            return None
        return Sight(int(about["State"]["Pid"]) or None, name) if _runs(about) else None

    def sweep(self, markers: Sequence[str]) -> None:
        """Remove the containers of these starts; those of others are not touched."""
        for marker in markers:
            self._servers.pop(marker, None)
            self._engine.sweep([marker])

    def left(self) -> list[str]:
        """
        Return the markers of all containers, running or not, with this folder's sign.

        An engine finishes what it was asked for when the launcher that asked was killed, so that a
        container may appear that no longer was there to be found when the next launcher looked.
        """
        wanted = {spec.OWNER: owner.sign_of(self._folder)}
        return [labels[spec.MARKER] for labels in self._engine.labelled(wanted)]

    @property
    def _engine(self) -> "Engine":
        if self._connected is None:
            self._connected = connect(self._timeout_s)
        return self._connected

    def _check(self, say: Callable[[str], None], stopped: threading.Event) -> None:
        engine, settings = self._engine, self._settings
        found = engine.image_id(settings.image)
        if settings.pull == "always" or (settings.pull == "missing" and not found):
            engine.pull(settings.image, say, stopped.is_set)
            found = engine.image_id(settings.image)
        if not found:
            raise StartError(
                f"the engine has no image {settings.image} (docker.pull is {settings.pull}): "
                f"`docker pull {settings.image}`, or name another with --image"
            )
        self._image_id = found

    def _server(
        self, handle: Handle, log: Path, create: Callable[[], str] | None
    ) -> "ContainerServer":
        from launcher.docker.server import ContainerServer

        server = ContainerServer(self._engine, handle, log, create)
        self._servers[handle.marker] = server
        return server

    def _create(self, wanted: ServerSpec, marker: str, log: Path) -> str:
        member = wanted.member
        offered = binding.abilities(self._engine.info())
        way = binding.choose(self._settings.binding, member.mig_uuid, member.simulated, offered)
        return self._engine.create(
            spec.container(
                wanted,
                marker,
                log,
                self._settings,
                Device(way, member.mig_uuid),
                self._source(wanted.model_repository),
                _ip_of(member.http.host),
                owner.sign_of(self._folder),
            )
        )

    def _source(self, repository: str) -> Source | None:
        if "://" in repository:
            return None
        own = here.own_container()
        mounts = None
        if own:
            try:
                mounts = self._engine.inspect(own)["Mounts"]
            except GoneError:  # a container of another engine: this one's machine has the path
                pass
        return here.source_of(repository, mounts)


def _runs(about: Mapping[str, Any]) -> bool:
    return bool(about["State"]["Running"]) and not about["State"]["Restarting"]


def _ip_of(host: str) -> str:
    """Return the address of a host: the engine publishes ports on addresses only."""
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        raise StartError(f"host {host!r} cannot be listened on: {error.strerror}") from error
