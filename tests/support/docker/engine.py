"""
A Docker Engine for the tests alone: `python -m tests.support.docker.engine` starts one to look at.

It is private in everything: socket, data, bridge. It writes no firewall rule, so one that the
machine has beside it is not disturbed. dockerd comes from PATH, else from Debian's packages, which
are unpacked into the cache and not installed. What it needs is root; `EngineUnavailableError` says
what is missing.

Images stay in the cache for the next run; containers do not. The engine ends with the tests,
however these end.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import docker
from docker import DockerClient

from tests.support.children import ending_with_us
from tests.support.docker import debian
from tests.support.docker.nvidia import NvidiaStandIn

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mig-gateway" / "docker"
PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-proxy", "docker")
PLUGINS = ("docker-compose", "docker-buildx")
READY_WITHIN_S = 60.0
SLOTS = 8
SIOCBRADDBR, SIOCBRDELBR = 0x89A0, 0x89A1
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS = 0x8916, 0x891C, 0x8914
IFF_UP = 1


class EngineUnavailableError(Exception):
    """No engine can be had here; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Engine:
    """
    A running engine.

    Attributes:
        client: The SDK's, connected to it.
        environment: What a program must be started with to find it: DOCKER_HOST and more.
        nvidia: What stands in for NVIDIA's container tools.
        folder: Its cache: images and the like stay here.
        restart: Ends dockerd by a signal, and starts it again.
    """

    client: DockerClient
    environment: dict[str, str]
    nvidia: NvidiaStandIn
    folder: Path
    restart: Callable[[signal.Signals], None]


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """Start an engine, and end it with all its containers."""
    programs = _programs()
    with _slot() as (number, folder, lock), _work_folder(number) as work:
        nvidia = NvidiaStandIn(work / "nvidia")
        environment = {
            "DOCKER_HOST": f"unix://{work}/docker.sock",
            "DOCKER_CONFIG": str(programs / "config"),
            "PATH": f"{nvidia.folder / 'bin'}:{programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        with _bridge(number) as bridge, (folder / "dockerd.log").open("wb") as log:
            running = [_start(work, folder, bridge, nvidia, environment, log, lock)]

            def ready() -> DockerClient:
                path = folder / "dockerd.log"
                return _wait_ready(running[0], environment["DOCKER_HOST"], path)

            def restart(number: signal.Signals) -> None:
                running[0].send_signal(number)
                running[0].wait(120)
                running[0] = _start(work, folder, bridge, nvidia, environment, log, lock)
                ready().close()

            try:
                with contextlib.closing(ready()) as client:
                    # What a run left that was killed; everything in here is ours.
                    remove_containers(client)
                    yield Engine(client, environment, nvidia, folder, restart)
                    remove_containers(client)
            finally:
                _stop(running[0])


def remove_containers(client: DockerClient) -> None:
    """Remove every container of this engine."""
    for container in client.api.containers(all=True, quiet=True):
        with contextlib.suppress(docker.errors.NotFound):
            client.api.remove_container(container["Id"], force=True, v=True)


def _start(
    work: Path,
    folder: Path,
    bridge: str,
    nvidia: NvidiaStandIn,
    environment: dict[str, str],
    log: IO[bytes],
    lock: int,
) -> "subprocess.Popen[bytes]":
    config = work / "daemon.json"
    config.write_text(json.dumps(nvidia.daemon_settings()))
    command = [
        "dockerd",
        f"--config-file={config}",
        f"--host=unix://{work}/docker.sock",
        f"--data-root={folder / 'data'}",
        f"--exec-root={work / 'exec'}",
        f"--pidfile={work / 'dockerd.pid'}",
        f"--bridge={bridge}",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--ip-forward=false",
    ]
    return subprocess.Popen(
        ending_with_us(command, signal.SIGTERM),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=[lock],  # the slot is not free before the engine has ended, too
    )


def _wait_ready(dockerd: "subprocess.Popen[bytes]", host: str, log: Path) -> DockerClient:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while True:
        # It listens before it answers, and answers when it is ready.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(host.removeprefix("unix://"))
                return docker.DockerClient(base_url=host, version="auto", timeout=120)
            except OSError:
                pass
        said = log.read_text(errors="replace")[-2000:]
        if dockerd.poll() is not None:
            raise EngineUnavailableError(f"dockerd does not start here:\n{said}")
        assert time.monotonic() < deadline_s, f"dockerd does not answer:\n{said}"
        time.sleep(0.05)


@contextlib.contextmanager
def _work_folder(number: int) -> Iterator[Path]:
    """Make a folder with a short name, as a socket's path may have 107 bytes only."""
    folder = Path(f"/run/mig-gateway-tests-{number}")

    def remove() -> None:
        # The engine leaves the network namespaces of containers mounted.
        for path in folder.glob("exec/netns/*"):
            subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)

    remove()  # what a killed run left
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove()


def _stop(dockerd: "subprocess.Popen[bytes]") -> None:
    dockerd.terminate()
    try:
        dockerd.wait(60)
    except subprocess.TimeoutExpired:
        dockerd.kill()
        dockerd.wait()


@contextlib.contextmanager
def _slot() -> Iterator[tuple[int, Path, int]]:
    """Return a number, a folder that is its own meanwhile, and the lock that says so."""
    for number in range(SLOTS):
        folder = CACHE / f"engine-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number, folder, lock.fileno()
            return
    raise EngineUnavailableError(f"{SLOTS} test runs have an engine already")


@contextlib.contextmanager
def _bridge(number: int) -> Iterator[str]:
    """Make a network bridge with an address, as `ip link add … type bridge` does."""
    name = f"migtest{number}"
    request = name.encode().ljust(16, b"\0")

    def address(text: str) -> bytes:
        return request + struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as control:

        def ask(number: int, argument: bytes) -> None:
            fcntl.ioctl(control, number, argument)

        def remove() -> None:
            with contextlib.suppress(OSError):
                ask(SIOCSIFFLAGS, request + struct.pack("h14x", 0))
                ask(SIOCBRDELBR, request)

        remove()  # one that a killed run left
        try:
            ask(SIOCBRADDBR, request)
        except OSError as error:
            raise EngineUnavailableError(
                f"no network bridge can be made here: {error.strerror}"
            ) from error
        try:
            ask(SIOCSIFADDR, address(f"10.213.{number}.1"))
            ask(SIOCSIFNETMASK, address("255.255.255.0"))
            ask(SIOCSIFFLAGS, request + struct.pack("h14x", IFF_UP))
            yield name
        finally:
            remove()


def _programs() -> Path:
    """Return a folder with links to all that an engine is made of."""
    if os.geteuid() != 0:
        raise EngineUnavailableError(
            "the container tests start a Docker Engine of their own, which takes root: run "
            "`sudo make containers`"
        )
    links = CACHE / "programs"
    with _locked(CACHE / "programs.lock"):
        found = _installed() or _unpacked()
        shutil.rmtree(links, ignore_errors=True)
        (links / "config" / "cli-plugins").mkdir(parents=True)
        for name, path in found.items():
            folder = links / "config" / "cli-plugins" if name in PLUGINS else links
            (folder / name).symlink_to(path)
        (links / "config" / "config.json").write_text("{}")
    return links


def _installed() -> dict[str, Path] | None:
    """Return the programs that the machine has; None when one is missing, or compose is v1."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/libexec/docker:/usr/lib/docker"
    plugins = ":".join(
        f"{root}/docker/cli-plugins"
        for root in ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
    )
    found = {name: shutil.which(name, path=search) for name in PROGRAMS}
    found |= {name: shutil.which(name, path=plugins) for name in PLUGINS}
    return (
        {name: Path(path) for name, path in found.items() if path} if all(found.values()) else None
    )


def _unpacked() -> dict[str, Path]:
    """Return the programs of Debian's packages, fetched when they are not in the cache."""
    folder = CACHE / "packages"
    done = folder / "complete"
    if not done.exists():
        try:
            own = debian.codename()
            # bookworm's own engine knows neither CDI nor compose v2; trixie's runs on its libc,
            # only its runc does not.
            suite = "trixie" if own == "bookworm" else own
            packages = debian.Repository(CACHE / "apt", {own, suite})
        except debian.NoDebianError as error:
            raise EngineUnavailableError(
                f"the container tests need dockerd, containerd, runc, the docker command with "
                f"compose and buildx; some are missing, and {error}: install Docker Engine"
            ) from error
        names = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "containerd")
        files = packages.fetch(*(f"{name}/{suite}" for name in names), f"runc/{own}")
        shutil.rmtree(folder, ignore_errors=True)
        debian.unpack(files, folder)
        shutil.rmtree(CACHE / "apt")
        done.touch()
    programs = {path.name: path for path in folder.rglob("*") if path.name in PROGRAMS + PLUGINS}
    return {name: programs[name] for name in PROGRAMS + PLUGINS}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    with running() as engine:
        print("\n".join(f"export {key}={value}" for key, value in engine.environment.items()))  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
