"""Tokens and certificates: read at start, by `mig-gateway check`, and again with every reload."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import Config, ConfigError
from gateway.config_security import TlsSection, UnixSocket, is_loopback
from gateway.control import auth
from gateway.control.auth import Access
from gateway.control.differences import Change
from gateway.control.reload import Step
from gateway.tls import ALPN_ADMIN, ALPN_DATA, LiveContext, Loaded, TlsError, read

_CONTENT: Final = "(content)"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was read from all the files and variables that a configuration names."""

    access: Access
    admin_tls: Loaded | None
    data_tls: Loaded | None

    @classmethod
    def of(cls, config: Config) -> "Secrets":
        """Read them. Raises ConfigError, with everything that is wrong."""
        access, errors = auth.load(config.admin.tokens)
        admin = _loaded("admin.tls", config.admin.tls, ALPN_ADMIN, errors)
        data = _loaded("tls", config.tls, ALPN_DATA, errors)
        if errors:
            raise ConfigError(errors)
        return cls(access, admin, data)


class Security:
    """
    What is in force. A ReloadTarget.

    Whether a listener speaks TLS, and where it listens, is settled when it is opened; with which
    files it does, and which tokens are accepted, is not.

    Attributes:
        access: Who may call the admin API.
        admin_tls, data_tls: For the two listeners; None where plain text is spoken.
    """

    def __init__(self, config: Config) -> None:
        """Read what `config` names. Raises ConfigError, with everything that is wrong."""
        secrets = Secrets.of(config)
        self.access = secrets.access
        self.admin_tls = LiveContext.of(secrets.admin_tls) if secrets.admin_tls else None
        self.data_tls = LiveContext.of(secrets.data_tls) if secrets.data_tls else None
        self._listen = config.admin.listen

    def prepare(self, config: Config) -> Step:
        secrets = Secrets.of(config)
        self._refuse_to_expose(secrets)
        changes = [
            Change(f"{key} {_CONTENT}", live.loaded.fingerprint, loaded.fingerprint)
            for key, live, loaded in (
                ("admin.tls", self.admin_tls, secrets.admin_tls),
                ("tls", self.data_tls, secrets.data_tls),
            )
            if live and loaded and live.loaded.digest != loaded.digest
        ]
        if secrets.access != self.access:
            before, after = (
                [token.name for token in access.tokens] for access in (self.access, secrets.access)
            )
            changes.append(Change(f"admin.tokens {_CONTENT}", before, after))
        return Step(lambda: self._use(secrets), tuple(changes))

    def _refuse_to_expose(self, secrets: Secrets) -> None:
        """
        A file that is sound by itself may move the admin API to this machine and drop its tokens;
        but the address is kept until a restart. Raises ConfigError.
        """
        tls = (secrets.admin_tls or self.admin_tls.loaded) if self.admin_tls else None
        guarded = secrets.access.tokens or (tls is not None and tls.asks_clients)
        if guarded or isinstance(self._listen, UnixSocket) or is_loopback(self._listen.host):
            return
        raise ConfigError(
            [
                f"admin: until it is restarted the gateway listens on {self._listen}, which other "
                "machines may reach, and nothing would ask any more who calls; restart it"
            ]
        )

    def _use(self, secrets: Secrets) -> None:
        self.access = secrets.access
        if self.admin_tls is not None and secrets.admin_tls is not None:
            self.admin_tls.loaded = secrets.admin_tls
        if self.data_tls is not None and secrets.data_tls is not None:
            self.data_tls.loaded = secrets.data_tls


def _loaded(
    key: str, section: TlsSection | None, alpn: Sequence[str], errors: list[str]
) -> Loaded | None:
    if section is None:
        return None
    try:
        return read(section.files, alpn)
    except TlsError as error:
        errors.append(f"{key}.{error}")
        return None
