"""Asks a Triton whether it is ready: GET /v2/health/ready, the least that does it."""

import asyncio
from typing import Final

from contract.slice_spec import Endpoint

TIMEOUT_S: Final = 2.0


async def is_ready(http: Endpoint, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the server answers 200; False for any other answer, none, or none in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(http)
    except (OSError, TimeoutError):
        return False


async def _ask(http: Endpoint) -> bool:
    reader, writer = await asyncio.open_connection(http.host, http.port)
    try:
        writer.write(
            f"GET /v2/health/ready HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n".encode()
        )
        status_line = await reader.readline()
        return status_line.split(b" ")[1:2] == [b"200"]
    except ValueError:  # a line longer than the reader's limit: no Triton
        return False
    finally:
        writer.close()
