"""Calling a gateway's admin API from the terminal: over TCP, TLS or a socket in the file system."""

import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contract.slice_spec import Endpoint
from gateway.config_security import UNIX_PREFIX

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
DEFAULT_ADMIN: Final = "http://127.0.0.1:9001"
_PORTS: Final = {"http": 80, "https": 443}


class CallError(Exception):
    """
    An admin call failed; the message is one sentence for the terminal.

    Attributes:
        details: All sentences that the gateway has given; the message tells of the first.
    """

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


class AdminClient:
    """
    One gateway's admin API; each call opens a connection of its own.

    A redirect is not followed, and no proxy of the environment is used: the admin API is near, and
    a token must not go anywhere else.

    Args:
        url: `http://host:port`, `https://…`, `unix:/path`, or `host:port`.
        token: Sent as a bearer token; None sends none.
        tls: How to call `https` addresses.

    Raises:
        CallError: The URL is none of these.
    """

    def __init__(
        self, url: str, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._path: Path | None = None
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        if url.startswith(UNIX_PREFIX):
            self._path = Path(url.removeprefix(UNIX_PREFIX))
            self.url = url
            return
        if "://" not in url:
            url = f"http://{url}"
        parts = urllib.parse.urlsplit(url)
        try:
            usual = _PORTS[parts.scheme]
            host, port = parts.hostname or "", parts.port or usual
        except (KeyError, ValueError):
            host, port = "", 0
        if not host or parts.path.strip("/") or parts.username or parts.query:
            raise CallError(f"{url!r} is no http address; write http://host:port")
        self.url = url.rstrip("/")
        self._scheme, self._endpoint = parts.scheme, Endpoint(host, port)

    def call(self, method: str, path: str, timeout_s: float) -> dict[str, Any]:
        """Make one call; return its JSON answer. Raises CallError with the gateway's own words."""
        connection = self._connection(timeout_s)
        try:
            connection.request(method, path, headers=self._headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise CallError(
                f"no gateway's admin API at {self.url} ({_reason(error)}); "
                "is it running, and is this its address?"
            ) from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise _said(data, f"{self.url}{path} answered {answer.status} {answer.reason}")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CallError(f"no gateway's admin API at {self.url} ({error})") from None
        if not isinstance(document, dict):
            raise CallError(f"{self.url} is no gateway's admin API: it answered no JSON object")
        return document

    def follow(self, path: str, silence_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Yield (event, data) of a stream of server-sent events until it ends.

        Args:
            silence_s: The stream is taken for dead when nothing comes for so long.

        Raises:
            CallError: It was refused, or broke off.
        """
        connection = self._connection(silence_s)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                otherwise = f"{self.url}{path} answered {answer.status} {answer.reason}"
                raise _said(answer.read(ANSWER_BYTES_MAX), otherwise)
            event = ""
            while line := answer.readline(ANSWER_BYTES_MAX):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CallError(f"no gateway's admin API at {self.url} ({_reason(error)})") from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._path is not None:
            return _UnixConnection(self._path, timeout_s)
        host, port = self._endpoint.host, self._endpoint.port
        if self._scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; see --ca"
    return str(error) or type(error).__name__


def _said(data: bytes, otherwise: str) -> CallError:
    try:
        document = json.loads(data)
        return CallError(str(document["error"]), [str(one) for one in document.get("errors", [])])
    except (ValueError, KeyError, TypeError, RecursionError):
        return CallError(otherwise)
