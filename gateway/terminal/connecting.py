"""How commands find and call the admin API: their options, the address, the token."""

import argparse
import os
import ssl
from pathlib import Path
from typing import Final

from contract.slice_spec import Endpoint
from gateway import tls
from gateway.admin_client import DEFAULT_ADMIN, AdminClient, CallError
from gateway.config import load
from gateway.config_security import UnixSocket
from gateway.control import auth

TOKEN_VARIABLE: Final = "MIG_GATEWAY_TOKEN"  # noqa: S105 (its name, not its value)


def add_admin_options(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take what `admin` reads."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--admin", metavar="URL",
        help=f"the admin API, http://…, https://… or unix:/path (default {DEFAULT_ADMIN})",
    )  # fmt: skip
    where.add_argument("--config", type=Path, metavar="FILE", help="take its address from there")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE",
        help=f"the token to show, where one is asked for (default: ${TOKEN_VARIABLE})",
    )  # fmt: skip
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="who signed the gateway's certificate (PEM)"
    )
    parser.add_argument(
        "--cert", type=Path, metavar="FILE", help="our own certificate, where one is asked for"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key")


def admin(arguments: argparse.Namespace) -> AdminClient:
    """Return the admin API that the command line means. Raises CallError, ConfigError."""
    url = _config_url(arguments.config) if arguments.config else arguments.admin or DEFAULT_ADMIN
    context: ssl.SSLContext | None = None
    try:
        if url.startswith("https:"):
            context = tls.client_context(arguments.ca, arguments.cert, arguments.key)
        return AdminClient(url, _token(arguments), context)
    except tls.TlsError as error:
        raise CallError(f"--{error}") from None
    except ValueError as error:
        raise CallError(str(error)) from None


def _config_url(path: Path) -> str:
    admin = load(path).admin
    if isinstance(admin.listen, UnixSocket):
        return str(admin.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.listen.host, admin.listen.host)
    return f"{'https' if admin.tls else 'http'}://{Endpoint(host, admin.listen.port)}"


def _token(arguments: argparse.Namespace) -> str | None:
    """Return the token to show, None for none. Raises ValueError."""
    if arguments.token_file is not None:
        return auth.read_token(arguments.token_file)
    value = os.environ.get(TOKEN_VARIABLE)
    return auth.checked(value, f"${TOKEN_VARIABLE}") if value else None
