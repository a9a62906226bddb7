"""
Who calls the admin API, and what that caller may do.

Three ways in, by configuration: nothing is asked for (the address is this machine's own), a bearer
token, or a certificate that `admin.tls.client_ca` has signed, which TLS itself has checked before
any of this runs. With tokens and a client CA both are needed, and the token decides.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.files import read_whole
from gateway.config_security import WRITE, TokenSection

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 4096
_SCHEME: Final = "bearer "
_SHOWN_MAX: Final = 80
"""Characters of a certificate's name or of an address that the log is given."""


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Somebody who may call.

    Attributes:
        name: For the audit log: a token's name, a certificate's common name, or `anybody`.
        how: How that is known: `token`, `certificate` or `address`.
        address: Where the call comes from.
        may_write: May change things, not only look.
    """

    name: str
    how: str
    address: str
    may_write: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.how}) at {self.address}"


@dataclass(frozen=True, slots=True)
class Token:
    """
    A token that is accepted.

    Attributes:
        digest: SHA-256 of it; the token itself is not kept.
    """

    name: str
    digest: bytes
    may_write: bool


@dataclass(frozen=True, slots=True)
class Access:
    """
    The rules in force; replaced as a whole when the configuration is read again.

    Attributes:
        tokens: Those that are accepted; when there are none, no token is asked for.
    """

    tokens: tuple[Token, ...] = ()

    def caller(
        self, authorization: str, certificate: Mapping[str, Any] | None, address: str
    ) -> Caller | None:
        """
        Return who calls, or None when a token is needed and none that is known was shown.

        Args:
            authorization: The field `Authorization`, empty when there is none.
            certificate: What `SSLSocket.getpeercert()` says of the client; None without one.
            address: Where the call comes from, for the log.
        """
        address = address[:_SHOWN_MAX]
        if self.tokens:
            token = self._token(authorization)
            return Caller(token.name, "token", address, token.may_write) if token else None
        if certificate:
            return Caller(common_name(certificate), "certificate", address, True)
        return Caller("anybody", "address", address, True)

    def _token(self, authorization: str) -> Token | None:
        """
        Return the token that was shown.

        Digests are compared, all of them and each in constant time: how long it takes says
        nothing about how much of a guess was right.
        """
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        shown = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(shown).digest()
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def load(sections: Sequence[TokenSection]) -> tuple[Access, list[str]]:
    """
    Read the tokens where the configuration says they are.

    Returns:
        The rules, and one sentence for each token that cannot be used.
    """
    tokens, errors = [], []
    holder: dict[bytes, int] = {}
    for index, section in enumerate(sections):
        key = f"admin.tokens[{index}]"
        try:
            digest = hashlib.sha256(_read(section).encode()).digest()
        except ValueError as error:
            errors.append(f"{key}.{'file' if section.file else 'env'}: {error}")
            continue
        first = holder.setdefault(digest, index)
        if first != index:
            errors.append(f"{key} is the same token as admin.tokens[{first}]")
        tokens.append(Token(section.name, digest, section.role == WRITE))
    return Access(tuple(tokens)), errors


def read_token(path: Path) -> str:
    """Read the token that stands alone in a file. Raises ValueError."""
    try:
        data = read_whole(path, TOKEN_CHARACTERS_MAX + 63)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return checked(data.decode("utf-8", "replace"), str(path))


def checked(text: str, source: str) -> str:
    """Return the token in `text`, white space around it taken off. Raises ValueError."""
    token = text.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{source} holds no token: printable ASCII without blanks, on one line")
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX:
        raise ValueError(
            f"the token in {source} has {len(token)} characters; allowed are "
            f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX}, such as `openssl rand -hex 32` makes"
        )
    return token


def common_name(certificate: Mapping[str, Any]) -> str:
    """Return the common name in a certificate's subject, or else all of its subject."""
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    named = [value for key, value in pairs if key == "commonName"]
    name = named[-1] if named else ", ".join(f"{key}={value}" for key, value in pairs)
    return str(name)[:_SHOWN_MAX] or "a certificate without a subject"


def _read(section: TokenSection) -> str:
    if section.file is not None:
        return read_token(section.file)
    assert section.env is not None, "a token has a file or a variable"
    value = os.environ.get(section.env)
    if value is None:
        raise ValueError(f"the environment variable {section.env} is not set")
    return checked(value, section.env)
