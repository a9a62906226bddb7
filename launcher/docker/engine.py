"""The Docker Engine through its SDK: the only module that knows it. Errors come out as sentences."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import docker
import requests
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import parse_repository_tag

from launcher.docker import spec, words
from launcher.docker.failures import EngineUnreachableError, GoneError, RefusedError

TIMEOUT_S: Final = 60
CONNECTIONS_MAX: Final = 256
"""One is held by each container that is followed."""
STEP: Final = 0.05
"""Share of a download after which its progress is told again."""
MEGABYTE: Final = 1_000_000
GIGABYTE: Final = 1_000_000_000
P = ParamSpec("P")
Result = TypeVar("Result")


def _in_words(call: Callable[P, Result]) -> Callable[P, Result]:
    """Turn the SDK's errors, and those of what it is made of, into ours."""

    @functools.wraps(call)
    def wrapped(*arguments: P.args, **named: P.kwargs) -> Result:
        try:
            return call(*arguments, **named)
        except NotFound as error:
            raise GoneError(words.explain(error.explanation or str(error))) from error
        except APIError as error:
            raise RefusedError(words.explain(error.explanation or str(error))) from error
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineUnreachableError(words.unreachable(str(error), address())) from error

    return wrapped


def _so_much(done: int, whole: int) -> str:
    """Return how much of a download is there, in bytes as people read them."""
    if whole >= GIGABYTE:
        return f"{done / GIGABYTE:.1f} of {whole / GIGABYTE:.1f} GB"
    return f"{done / MEGABYTE:.0f} of {whole / MEGABYTE:.0f} MB"


def address() -> str:
    """Return where the engine is looked for."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


class Engine:
    """A connection to the engine that DOCKER_HOST names, else to this machine's."""

    @_in_words
    def __init__(self, timeout_s: int = TIMEOUT_S) -> None:
        """Connect; each call may take so long. Raises EngineUnreachableError."""
        made = docker.DockerClient.from_env(
            version="auto", timeout=timeout_s, max_pool_size=CONNECTIONS_MAX
        )
        self._api: APIClient = made.api

    def __del__(self) -> None:
        api = getattr(self, "_api", None)
        if api is not None:
            api.close()

    @_in_words
    def info(self) -> Mapping[str, Any]:
        """Return `GET /info`."""
        return dict(self._api.info())

    @_in_words
    def image_id(self, name: str) -> str | None:
        """Return the id of an image that is here; None when it is not."""
        try:
            return str(self._api.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return None

    @_in_words
    def pull(self, name: str, say: Callable[[str], None], stopped: Callable[[], bool]) -> None:
        """
        Fetch an image.

        Args:
            name: With or without a tag or digest.
            say: Told how far it is.
            stopped: Asked between two messages of the engine; True ends it.
        """
        repository, tag = parse_repository_tag(name)
        layers: dict[str, tuple[int, int]] = {}
        told = -STEP
        say(f"pulling {name}")
        try:
            events = self._api.pull(repository, tag or "latest", stream=True, decode=True)
        except APIError as error:
            why = words.explain(error.explanation or str(error))
            raise RefusedError(f"{name} cannot be pulled: {why}") from error
        for event in events:
            if stopped():
                return
            if "error" in event:
                raise RefusedError(f"{name} cannot be pulled: {words.explain(event['error'])}")
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                layers[event["id"]] = (detail["current"], detail["total"])
            elif event.get("status") == "Download complete" and event.get("id") in layers:
                layers[event["id"]] = (layers[event["id"]][1],) * 2
            done = sum(layer[0] for layer in layers.values())
            whole = sum(layer[1] for layer in layers.values())
            if whole and done / whole >= told + STEP:
                told = done / whole
                say(f"pulling {name}: {_so_much(done, whole)}")

    @_in_words
    def create(self, arguments: Mapping[str, Any]) -> str:
        """Create a container from `spec.container`'s result and return its id."""
        given = dict(arguments)
        host_config = self._api.create_host_config(**given.pop("host_config"))
        made = self._api.create_container(host_config=host_config, detach=True, **given)
        return str(made["Id"])

    @_in_words
    def start(self, name: str) -> None:
        """Start a container. The engine keeps one that does not start: remove it then."""
        self._api.start(name)

    @_in_words
    def inspect(self, name: str) -> Mapping[str, Any]:
        """Return all about a container. Raises GoneError."""
        return dict(self._api.inspect_container(name))

    @_in_words
    def labelled(self, wanted: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Return the labels of each container, running or not, that has these."""
        filters = {"label": [f"{key}={value}" for key, value in wanted.items()]}
        return [found["Labels"] for found in self._api.containers(all=True, filters=filters)]

    def output(self, name: str, since: float) -> Iterator[bytes]:
        """
        Yield what a container writes, until it ends or the engine does.

        Args:
            name: The container.
            since: Seconds since 1970 that it starts at; 0: its beginning.
        """
        try:
            yield from self._api.logs(name, stream=True, follow=True, since=since or None)
        except (DockerException, requests.RequestException, OSError) as error:
            if isinstance(error, NotFound):
                raise GoneError(str(error)) from error
            raise EngineUnreachableError(words.unreachable(str(error), address())) from error

    @_in_words
    def wait(self, name: str) -> int:
        """Wait for a container's end and return its exit code."""
        return int(self._api.wait(name, timeout=None)["StatusCode"])

    @_in_words
    def signal(self, name: str, number: str) -> None:
        """Send a signal; nothing happens when it does not run."""
        with contextlib.suppress(NotFound):
            try:
                self._api.kill(name, number)
            except APIError as error:
                if error.status_code != 409:  # not running
                    raise

    @_in_words
    def remove(self, name: str) -> None:
        """Remove a container, also a running one, with its anonymous volumes; no error if gone."""
        try:
            self._api.remove_container(name, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # somebody else removes it just now
                raise
        with contextlib.suppress(NotFound):
            self._api.wait(name, timeout=TIMEOUT_S, condition="removed")

    def sweep(self, markers: Sequence[str]) -> None:
        """Remove the containers of these starts; those of others are not touched."""
        for marker in markers:
            name = spec.container_name(marker)
            try:
                labels = self.inspect(name)["Config"]["Labels"] or {}
            except GoneError:
                continue
            if labels.get(spec.MARKER) == marker:
                self.remove(name)
