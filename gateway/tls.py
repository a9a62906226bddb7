"""
TLS for whoever listens: certificates read from files, and read again while connections are open.

Nothing here knows the configuration or a socket, so both planes can use it.
"""

import hashlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from contract.files import read_whole

ALPN_DATA: Final = ("http/1.1", "h2")
"""In this order: who offers both (curl, browsers, httpx) speaks Triton's HTTP, which is there over
HTTP/1.1 only; clients of gRPC offer h2 alone."""
ALPN_ADMIN: Final = ("http/1.1",)
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
PEM_BYTES_MAX: Final = 4 * 1024 * 1024
_CIPHERS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What RFC 9113 section 9.2.2 leaves for HTTP/2 over TLS 1.2; TLS 1.3 has its own, all fine."""


class TlsError(Exception):
    """A file cannot be used; `key` is the setting that names it, the message says why."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    What a listener needs to speak TLS; PEM files all.

    Attributes:
        cert: The certificate, then those between it and a root that clients know.
        key: Its private key, not encrypted.
        client_ca: Who signs the certificates of clients; they must show one when this is given.
        min_version: The oldest version spoken, a key of VERSIONS.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None
    min_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    What was read from TlsFiles.

    Attributes:
        context: For new connections.
        fingerprint: SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` has it, but
            in lower case and without colons.
        digest: Of all files; equal when nothing has changed.
        asks_clients: Only clients with a certificate are let in.
    """

    context: ssl.SSLContext
    fingerprint: str
    digest: str
    asks_clients: bool


class LiveContext(ssl.SSLContext):
    """
    A server's context whose content can be exchanged while it listens.

    A server keeps the context it was started with, and asks it for `wrap_bio()` once for each
    connection; asyncio, uvloop and aiohttp alike. So new connections see what was read last, and
    those that are open keep what they began with. A context that is changed in place would do for
    the certificate, but a client CA can only be added to it, never taken out.

    Attributes:
        admits: Asked before each handshake; a connection that is not admitted is closed.
        loaded: What new connections get.
    """

    admits: Callable[[], bool]
    loaded: Loaded

    @classmethod
    def of(cls, loaded: Loaded) -> "LiveContext":
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.loaded = loaded
        context.admits = lambda: True
        return context

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        if not self.admits():
            raise ssl.SSLError("no more connections are admitted")
        return self.loaded.context.wrap_bio(*arguments, **named)


def read(files: TlsFiles, alpn: Sequence[str]) -> Loaded:
    """
    Read certificate, key and client CA.

    Raises:
        TlsError: One of them cannot be read, is not what it should be, or they do not fit.
    """
    pems = {"cert": _bytes("cert", files.cert), "key": _bytes("key", files.key)}
    if files.client_ca is not None:
        pems["client_ca"] = _bytes("client_ca", files.client_ca)
    fingerprint = _fingerprint(files.cert, pems["cert"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[files.min_version]
    context.set_ciphers(_CIPHERS_1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(alpn))

    def encrypted() -> NoReturn:
        raise TlsError("key", f"{files.key} is encrypted; give the key without a passphrase")

    try:
        context.load_cert_chain(files.cert, files.key, encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError("key", f"{files.key} is not the key of {files.cert}") from None
        raise TlsError("key", f"{files.cert} and {files.key} are no PEM pair: {error}") from None
    except OSError as error:  # changed since it was read above
        raise TlsError("cert", f"cannot be read: {error.strerror}") from None
    if files.client_ca is not None:
        _require_clients(context, files.client_ca)
    digest = hashlib.sha256(b"\0".join(pems.values())).hexdigest()
    return Loaded(context, fingerprint, digest, files.client_ca is not None)


def client_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """
    Return what a client of ours needs to call a server that speaks TLS.

    Args:
        ca: Who signed the server's certificate; the system's roots when None.
        cert, key: What the client shows of itself, if asked.

    Raises:
        TlsError: A file cannot be used.
    """
    if ca is not None:
        _bytes("ca", ca)
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise TlsError("ca", f"{ca} holds no PEM certificates: {error}") from None
    if cert is not None:
        _bytes("cert", cert)
        if key is not None:
            _bytes("key", key)
        try:
            context.load_cert_chain(cert, key)
        except ssl.SSLError as error:
            raise TlsError("cert", f"{cert} and its key cannot be used: {error}") from None
    return context


def _require_clients(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise TlsError("client_ca", f"{ca} holds no PEM certificates: {error}") from None
    context.verify_mode = ssl.CERT_REQUIRED


def _bytes(key: str, path: Path) -> bytes:
    try:
        data = read_whole(path, PEM_BYTES_MAX)
    except OSError as error:
        raise TlsError(key, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > PEM_BYTES_MAX:
        raise TlsError(key, f"{path} is larger than {PEM_BYTES_MAX} bytes")
    return data


def _fingerprint(path: Path, pem: bytes) -> str:
    text = pem.decode("ascii", "replace")
    start = text.find(ssl.PEM_HEADER)
    end = text.find(ssl.PEM_FOOTER, start)
    try:
        der = ssl.PEM_cert_to_DER_cert(text[start : end + len(ssl.PEM_FOOTER)])
    except ValueError:
        raise TlsError("cert", f"{path} holds no PEM certificate") from None
    return hashlib.sha256(der).hexdigest()
