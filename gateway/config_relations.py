"""
What no single key of the configuration can be blamed for.

Works on the document as it was written, so that these mistakes are named together with those of
single keys; what cannot be read is left to the checks of the single keys.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from contract.slice_spec import Endpoint, SliceSpec
from gateway.config_hedging import is_off
from gateway.config_security import UnixSocket, exposure_errors
from gateway.limits import REPLAY_UNSENT

_EVERY: Final = frozenset({"0.0.0.0", "::"})
_SELF: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class AdminDefault(Protocol):
    """Where the admin API listens when the file does not say."""

    @property
    def listen(self) -> Endpoint | UnixSocket: ...


class Defaults(Protocol):
    """What holds when the file says nothing."""

    @property
    def listen(self) -> tuple[Endpoint, ...]: ...
    @property
    def admin(self) -> AdminDefault: ...


def errors_between(document: dict[str, Any], defaults: Defaults) -> list[str]:
    """Return one sentence for each contradiction in `document`."""
    entries = document.get("slices")
    slices = list(entries) if isinstance(entries, list) else []
    found = []
    if not entries and not document.get("inventory"):
        found.append("neither slices nor inventory is given; at least one of them is needed")
    found += _names("slices", slices)
    listens = _listens(document, defaults)
    found += _conflicts(listens)
    found += _loops(slices, listens)
    found += _hedged_once(document)
    section = document.get("admin")
    if isinstance(section, dict):
        tokens = section.get("tokens")
        found += _names("admin.tokens", tokens if isinstance(tokens, list) else [])
        found += exposure_errors(section)
    return found


def _hedged_once(document: dict[str, Any]) -> list[str]:
    """A request that is late is sent again while the first slice may well have begun with it."""
    balancing, hedging = document.get("balancing"), document.get("hedging")
    if not isinstance(balancing, dict) or not isinstance(hedging, dict):
        return []
    if balancing.get("replay") != REPLAY_UNSENT or is_off(hedging.get("after")):
        return []
    return [
        "hedging.after sends a request to two slices, and balancing.replay is 'unsent', which is for "
        "models that must not be asked twice; leave one of them out"
    ]


def warnings_between(slices: Sequence[SliceSpec]) -> list[str]:
    """Return one sentence for each pair of slices that share an endpoint."""
    first: dict[tuple[str, Endpoint], str] = {}
    found = []
    for member in slices:
        for key, endpoint in (("http", member.http), ("grpc", member.grpc)):
            other = first.setdefault((key, endpoint), member.name)
            if other != member.name:
                found.append(f"slices {other} and {member.name} have the same {key}: {endpoint}")
    return found


def _names(key: str, entries: list[Any]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for index, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str):
            first = seen.setdefault(name, index)
            if first != index:
                found.append(f"{key}[{index}].name is {name!r}, and so is {key}[{first}].name")
    return found


def _listens(document: dict[str, Any], defaults: Defaults) -> list[tuple[str, Endpoint]]:
    """Return (key path, address) of everything the gateway listens on."""
    value = document.get("listen")
    listens: list[tuple[str, Endpoint]] = []
    if value is None:
        listens += [("listen", endpoint) for endpoint in defaults.listen]
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        endpoint = _endpoint(item)
        if endpoint is not None:
            listens.append((f"listen[{index}]" if isinstance(value, list) else "listen", endpoint))
    section = document.get("admin")
    given = section.get("listen") if isinstance(section, dict) else None
    admin = defaults.admin.listen if given is None else _endpoint(given)
    if isinstance(admin, Endpoint):
        listens.append(("admin.listen", admin))
    return listens


def _conflicts(listens: list[tuple[str, Endpoint]]) -> list[str]:
    found = []
    for index, (key, endpoint) in enumerate(listens):
        for other_key, other in listens[:index]:
            if endpoint.port == other.port and _same_host(endpoint.host, other.host):
                found.append(
                    f"{key} is {str(endpoint)!r} and {other_key} is {str(other)!r}; "
                    "two cannot listen on one port"
                )
    return found


def _loops(slices: list[Any], listens: list[tuple[str, Endpoint]]) -> list[str]:
    found = []
    for index, entry in enumerate(slices):
        if not isinstance(entry, dict):
            continue
        for key in ("http", "grpc", "metrics"):
            endpoint = _endpoint(entry.get(key))
            for listen_key, listen in listens:
                if endpoint is not None and _reaches(endpoint, listen):
                    found.append(
                        f"slices[{index}].{key} is {str(endpoint)!r}, where the gateway itself "
                        f"listens ({listen_key}); it would send requests to itself"
                    )
    return found


def _endpoint(value: object) -> Endpoint | None:
    try:
        return Endpoint.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _same_host(one: str, other: str) -> bool:
    return one == other or one in _EVERY or other in _EVERY


def _reaches(endpoint: Endpoint, listen: Endpoint) -> bool:
    """Say whether connecting to `endpoint` from this machine certainly ends at `listen`."""
    if endpoint.port != listen.port:
        return False
    here = endpoint.host in _SELF or endpoint.host in _EVERY
    return endpoint.host == listen.host or (here and listen.host in _EVERY | _SELF)
