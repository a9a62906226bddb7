"""Ready is a 200, and nothing else."""

import asyncio

import pytest

from contract.slice_spec import Endpoint
from launcher.ready import is_ready


async def ask(answer, timeout_s=5.0):
    """Ask a server that answers with these bytes; None: not at all."""
    seen = []
    served = asyncio.Event()

    async def serve(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        endpoint = Endpoint(*server.sockets[0].getsockname())
        ready = await is_ready(endpoint, timeout_s)
        await served.wait()
    return ready, seen


async def test_a_200_is_ready():
    ready, seen = await ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert ready
    assert seen[0].startswith(b"GET /v2/health/ready HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\n", b"200", b"x" * 200_000],
    ids=["400", "nothing", "empty line", "no status line", "endless line"],
)
async def test_anything_else_is_not(answer):
    assert not (await ask(answer))[0]


async def test_a_server_that_does_not_answer_is_not_waited_for():
    assert not (await ask(None, timeout_s=0.05))[0]


async def test_nobody_there_is_not_ready(port_base):
    assert not await is_ready(Endpoint("127.0.0.1", port_base))
