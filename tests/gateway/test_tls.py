"""Certificates are read whole or not at all, and exchanged while a server listens."""

import asyncio
import hashlib
import ssl
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization

from gateway.tls import ALPN_DATA, LiveContext, TlsError, TlsFiles, client_context, read
from tests.support.certificates import Authority

REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def files(authority: Authority, **more: object) -> TlsFiles:
    pair = authority.server()
    return TlsFiles(pair.cert, pair.key, **more)  # type: ignore[arg-type]


def shown_to_a_client(context: LiveContext, client: ssl.SSLContext) -> str:
    """Return the fingerprint of the certificate that a new connection is shown."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_shown(context, client))


async def _shown(context: LiveContext, client: ssl.SSLContext) -> str:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
    return hashlib.sha256(der).hexdigest()


def test_new_connections_see_what_was_read_last(authority: Authority) -> None:
    context = LiveContext.of(read(files(authority), ALPN_DATA))
    client = client_context(authority.pem, None, None)
    first = context.loaded.fingerprint
    assert shown_to_a_client(context, client) == first
    context.loaded = read(files(authority), ALPN_DATA)
    assert shown_to_a_client(context, client) == context.loaded.fingerprint != first


def test_a_client_authority_can_be_taken_out_again(authority: Authority, tmp_path: Path) -> None:
    """A context that is changed in place could only ever trust more."""
    other = Authority(tmp_path, "other")
    asks = files(authority, client_ca=authority.pem)
    context = LiveContext.of(read(asks, ALPN_DATA))
    pair = authority.client("ops")
    client = client_context(authority.pem, pair.cert, pair.key)
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells a client only when it reads
    shown_to_a_client(context, client)
    context.loaded = read(TlsFiles(asks.cert, asks.key, other.pem), ALPN_DATA)
    with pytest.raises(REFUSED):
        shown_to_a_client(context, client)


def test_a_connection_that_is_not_admitted_gets_no_handshake(authority: Authority) -> None:
    context = LiveContext.of(read(files(authority), ALPN_DATA))
    context.admits = lambda: False
    with pytest.raises(REFUSED):
        shown_to_a_client(context, client_context(authority.pem, None, None))


def test_an_older_version_than_allowed_is_refused(authority: Authority) -> None:
    context = LiveContext.of(read(files(authority, min_version="1.3"), ALPN_DATA))
    client = client_context(authority.pem, None, None)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(REFUSED):
        shown_to_a_client(context, client)


def test_what_has_changed_is_seen_in_the_digest(authority: Authority) -> None:
    first = files(authority)
    assert read(first, ALPN_DATA).digest == read(first, ALPN_DATA).digest
    assert read(first, ALPN_DATA).digest != read(files(authority), ALPN_DATA).digest
    assert not read(first, ALPN_DATA).asks_clients


def test_every_mistake_names_its_key_and_file(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.server(), authority.server()
    text = tmp_path / "text"
    text.write_text("nothing of the kind")
    missing = tmp_path / "missing"
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for wrong, key_name, said in (
        (TlsFiles(missing, pair.key), "cert", "missing cannot be read: No such file"),
        (TlsFiles(text, pair.key), "cert", "text holds no PEM certificate"),
        (TlsFiles(pair.cert, missing), "key", "missing cannot be read: No such file"),
        (TlsFiles(pair.cert, text), "key", "are no PEM pair"),
        (TlsFiles(pair.cert, other.key), "key", "is not the key of"),
        (TlsFiles(pair.cert, locked), "key", "is encrypted"),
        (TlsFiles(pair.cert, pair.key, missing), "client_ca", "missing cannot be read"),
        (TlsFiles(pair.cert, pair.key, text), "client_ca", "holds no PEM certificates"),
        (TlsFiles(tmp_path, pair.key), "cert", "cannot be read: Is a directory"),
    ):
        with pytest.raises(TlsError, match=said) as raised:
            read(wrong, ALPN_DATA)
        assert raised.value.key == key_name


def test_what_a_client_of_ours_cannot_use_is_named(authority: Authority, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("nothing of the kind")
    for arguments, key in (
        ((text, None, None), "ca"),
        ((tmp_path / "missing", None, None), "ca"),
        ((authority.pem, text, text), "cert"),
        ((authority.pem, tmp_path / "missing", None), "cert"),
    ):
        with pytest.raises(TlsError) as raised:
            client_context(*arguments)
        assert raised.value.key == key
