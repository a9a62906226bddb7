"""What every call of the admin API passes: who calls, from which page, and what comes of errors."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from contract.slice_spec import Endpoint
from gateway.config_security import UnixSocket
from gateway.control import pages
from gateway.control.audit import Refusals
from gateway.control.auth import Access, Caller
from gateway.metrics import Counters

log = structlog.get_logger()

BODY_BYTES_MAX: Final = 64 * 1024
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FOR_ALL: Final = frozenset({"/livez", "/readyz"})
"""Asked by what starts and stops programs, which has no token; what they tell is one bit."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Set where a handler has not set its own."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """
    The middleware of the admin API.

    Args:
        listen: Where the API listens; its host is a name under which pages may call.
        access: Returns the rules in force.
    """

    def __init__(
        self, listen: Endpoint | UnixSocket, access: Callable[[], Access], counters: Counters
    ) -> None:
        self._listen = listen
        self._access = access
        self._counters = counters
        self._refusals = Refusals()

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may, refuse other sites' pages, give every error the one JSON form."""
        address = _address(request)
        caller = self.known(request)
        if caller is None and request.path not in _FOR_ALL and not pages.is_open(request.path):
            return self._refuse(
                401, "this needs a token: Authorization: Bearer …", address,
                {"WWW-Authenticate": 'Bearer realm="mig-gateway admin"'},
            )  # fmt: skip
        if request.method not in _SAFE:
            if caller is not None and not caller.may_write:
                return self._refuse(403, f"the token {caller.name} may only read", address)
            if reason := self._foreign(request):
                return self._refuse(403, reason, address)
        try:
            return await handler(request)
        except web.HTTPException as error:
            answer = refused(error.status, _sentence(error, request))
            if isinstance(error, web.HTTPMethodNotAllowed):
                answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return answer
        except Exception:
            log.exception("admin.call_failed", method=request.method, path=request.path)
            return refused(500, "the gateway made a mistake; its log says which")

    def known(self, request: web.Request) -> Caller | None:
        """Return who calls; None for a caller without a token where one is asked for."""
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        authorization = request.headers.get("Authorization", "")
        return self._access().caller(authorization, certificate, _address(request))

    def caller(self, request: web.Request) -> Caller:
        """Return who makes a call that only known callers reach; before its handler awaits."""
        caller = self.known(request)
        assert caller is not None, "the gate lets nobody in unknown"
        return caller

    def _refuse(
        self, status: int, reason: str, address: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        self._counters.limit("admin_refused")
        self._refusals.refused(status, reason, address, asyncio.get_running_loop().time())
        answer = refused(status, reason)
        answer.headers.update(headers or {})
        if status == 401:
            answer.force_close()  # a stranger's connection is none to keep
        return answer

    def _foreign(self, request: web.Request) -> str | None:
        """
        Say why a state-changing call is not the operator's; None when it may be.

        A browser names the page that calls in Origin. A page of another site has another host
        there than in Host. A name that an attacker has pointed at this machine is the same in
        both, so a page may call only under an address, `localhost` or the name we listen on.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return None  # no browser
        if urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
            return f"a page from {quoted(origin)} may not change slices here"
        name = urlsplit(origin).hostname or ""
        ours = self._listen.host if isinstance(self._listen, Endpoint) else ""
        if name in ("localhost", ours) or _is_address(name):
            return None
        return f"a page may change slices only under this machine's address, not as {quoted(name)}"


async def add_headers(_request: web.Request, answer: web.StreamResponse) -> None:
    """A signal handler for `on_response_prepare`: the headers that every answer has."""
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers["Server"] = "mig-gateway"


def answered(document: dict[str, Any], status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.json_response(document, status=status)


def refused(status: int, message: str) -> web.Response:
    """Return the one form that errors have."""
    return answered({"error": message}, status)


def quoted(value: object) -> str:
    """Quote what came from outside: bounded, without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _address(request: web.Request) -> str:
    """Return where a call comes from: an IP address, or the user at the other end of a file."""
    if request.remote:
        return request.remote
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return "unknown"
    peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return f"uid {struct.unpack('3i', peer)[1]}"


def _sentence(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return f"{request.method} is not allowed here; allowed: {allowed}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the body is larger than {BODY_BYTES_MAX} bytes"
    if isinstance(error, web.HTTPNotFound) and error.text == "404: Not Found":
        return f"there is no {quoted(request.path)} here; GET /openapi.json lists what there is"
    return error.text or error.reason


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
