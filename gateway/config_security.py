"""Who may reach what: the admin API's address, its tokens, and TLS on either port."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from contract.slice_spec import NAME_PATTERN, Endpoint
from gateway.config_fields import PathField, Section, endpoint
from gateway.tls import VERSIONS, TlsFiles

READ: Final = "read"
WRITE: Final = "write"
ROLES: Final = (READ, WRITE)
UNIX_PREFIX: Final = "unix:"
_UNIX_PATH_BYTES_MAX: Final = 107
"""Of `sun_path`, without the NUL that ends it; see unix(7)."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A socket in the file system: who may open the file may call."""

    path: Path

    def __str__(self) -> str:
        return f"{UNIX_PREFIX}{self.path}"


def _admin_listen(value: object) -> Endpoint | UnixSocket:
    if isinstance(value, UnixSocket):
        return value
    if isinstance(value, str) and value.startswith(UNIX_PREFIX):
        name = value.removeprefix(UNIX_PREFIX)
        if not name or "\0" in name or len(name.encode()) > _UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"{value!r}: behind unix: stands the path of a file, "
                f"{_UNIX_PATH_BYTES_MAX} bytes at most"
            )
        return UnixSocket(Path(name))
    return endpoint(value)


def _role(value: object) -> str:
    if value in ROLES:
        return str(value)
    raise ValueError(f"{value!r} is no role; known roles: {', '.join(ROLES)}")


def _version(value: object) -> str:
    text = str(value)  # YAML reads a bare 1.3 as a number
    if text in VERSIONS:
        return text
    raise ValueError(f"{value!r} is no version of TLS; known versions: {', '.join(VERSIONS)}")


def _token_name(value: str) -> str:
    if not NAME_PATTERN.fullmatch(value):
        raise ValueError(
            f"{value!r} is no name: letters, digits, '.', '_' and '-', 63 at most, "
            "a letter or digit first"
        )
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError(f"{value!r} is no name of an environment variable")
    return value


class TokenSection(Section):
    """
    A bearer token of the admin API, kept outside the configuration.

    Attributes:
        name: What the audit log calls its holder.
        file, env: Where the token is: alone in a file, or in an environment variable.
        role: `read` may look, `write` may change as well.
    """

    name: Annotated[str, AfterValidator(_token_name)]
    file: PathField | None = None
    env: Annotated[str, AfterValidator(_variable)] | None = None
    role: Annotated[str, PlainValidator(_role)]

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give the token's place, either file or env")
        return self


class TlsSection(Section):
    """TLS on a port; see gateway.tls.TlsFiles."""

    cert: PathField
    key: PathField
    client_ca: PathField | None = None
    min_version: Annotated[str, PlainValidator(_version)] = "1.2"

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.cert, self.key, self.client_ca, self.min_version)


class AdminSection(Section):
    """Where the admin API listens and for whom: this machine only, unless told otherwise."""

    listen: Annotated[Endpoint | UnixSocket, PlainValidator(_admin_listen)] = Endpoint(
        "127.0.0.1", 9001
    )
    tokens: Annotated[tuple[TokenSection, ...], Field(strict=False, max_length=64)] = ()
    tls: TlsSection | None = None


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure_errors(admin: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between the keys of the document's `admin` section."""
    listen, tls = admin.get("listen"), admin.get("tls")
    guarded = admin.get("tokens") or (isinstance(tls, dict) and tls.get("client_ca"))
    if not isinstance(listen, str) or listen.startswith(UNIX_PREFIX) or guarded:
        return []
    try:
        host = Endpoint.parse(listen).host
    except ValueError:
        return []  # said about the key itself
    if is_loopback(host):
        return []
    return [
        f"admin.listen is {listen!r}, which other machines may reach, and nothing asks who calls: "
        "give admin.tokens or admin.tls.client_ca, or listen on 127.0.0.1"
    ]


def exposure_warnings(admin: AdminSection) -> list[str]:
    """Return what is allowed about the admin API and yet probably a mistake."""
    listen = admin.listen
    if isinstance(listen, Endpoint) and not is_loopback(listen.host) and admin.tls is None:
        return [
            f"admin.listen is {str(listen)!r} without admin.tls: "
            "whoever sees the traffic on its way sees the tokens"
        ]
    return []
