"""An open-loop client: requests leave when they are due, whether or not earlier ones came back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from bench.arrivals import Arrival, request_body
from bench.cells import HTTP_PATH
from bench.load import percentile

_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Outcome:
    """
    What the clients of one proxy saw.

    Attributes:
        latencies_s: From when a request was due, not from when it was sent: a client that is
            late, or waits for a connection, hides nothing (no coordinated omission).
        lags_s: By how much the client itself was late; large ones spoil the run.
        errors: Requests without an answer of status 200; `counted_errors` of those whose latency
            would have counted.
    """

    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    errors: int = 0
    counted_errors: int = 0

    def percentile_s(self, share: float) -> float:
        return percentile(sorted(self.latencies_s), share)


async def send_all(ports: Sequence[int], arrivals: Sequence[Arrival], skip: int) -> list[Outcome]:
    """
    Send every arrival to every port of 127.0.0.1, all ports at the same time.

    At the same time, so that whatever the machine does in between falls on all alike.

    Args:
        ports: One proxy each.
        arrivals: The same for all.
        skip: Leave the first so many out of the figures: the slices fill first.
    """
    return list(await asyncio.gather(*(_send(port, arrivals, skip) for port in ports)))


async def _send(port: int, arrivals: Sequence[Arrival], skip: int) -> Outcome:
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    url = f"http://127.0.0.1:{port}{HTTP_PATH}"
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=600)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):

        async def one(due_s: float, body: bytes, counted: bool) -> None:
            lag_s = loop.time() - due_s
            try:
                async with session.post(url, data=body) as response:
                    await response.read()
                    failed = response.status != 200
            except (aiohttp.ClientError, TimeoutError):
                failed = True
            if failed:
                outcome.errors += 1
                outcome.counted_errors += counted
            elif counted:
                outcome.latencies_s.append(loop.time() - due_s)
                outcome.lags_s.append(lag_s)

        start_s = loop.time() + 0.1
        for number, arrival in enumerate(arrivals):
            due_s = start_s + arrival.at_s
            body = request_body(arrival.work_s)
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(one(due_s, body, number >= skip))
    return outcome
