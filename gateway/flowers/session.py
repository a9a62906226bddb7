"""
What one page at /flowers drives: a process that reads orders and writes what comes back, as JSON lines.

    in   {"do": "keep", "outstanding": 8} | {"do": "ask", "picture": 3}
         {"do": "picture", "picture": 3, "rgb": base64 of 224 x 224 x 3 bytes}
    out  {"event": "report", …} five times a second, {"event": "answer", …} for each "ask"

It ends with its standard input.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from contract.slice_spec import Endpoint
from gateway.flowers import addresses
from gateway.flowers.asking import Answer, Asker, AskError, HttpAsker
from gateway.flowers.loop import Loop
from gateway.flowers.pictures import listed, tensor_of_png, tensor_of_rgb

REPORT_S: Final = 0.2
LINE_BYTES_MAX: Final = 512 * 1024


class Session:
    """Carries out the orders of one page."""

    def __init__(self, asker: Asker) -> None:
        self._pictures = listed()
        self._tensors: dict[int, bytes] = {}
        self._fresh: dict[int, list[Any]] = {}
        self._loop = Loop(asker, lambda: range(len(self._pictures)), self._tensor, self._came)
        self._asking: set[asyncio.Task[None]] = set()
        self._error = ""

    async def run(self, orders: asyncio.StreamReader) -> None:
        """Do as told until there is nobody to tell."""
        loop = asyncio.get_running_loop()
        own = [loop.create_task(self._report()), loop.create_task(self._prepare())]
        try:
            while line := await orders.readline():
                self.obey(json.loads(line))
        finally:
            for task in (*own, *self._asking):
                task.cancel()
            await asyncio.gather(*own, *self._asking, return_exceptions=True)
            await self._loop.stop()

    def obey(self, order: dict[str, Any]) -> None:
        """Carry one order out; the admin API has judged it."""
        match order["do"]:
            case "keep":
                self._loop.keep(order["outstanding"])
            case "picture":
                self._tensors[order["picture"]] = tensor_of_rgb(base64.b64decode(order["rgb"]))
            case "ask":
                task = asyncio.get_running_loop().create_task(self._ask(order["picture"]))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            case unknown:
                raise AssertionError(f"told to {unknown!r}")

    async def _prepare(self) -> None:
        """Have every tensor ready before it is asked for: each takes 10 ms to make."""
        for picture in range(len(self._pictures)):
            self._tensor(picture)
            await asyncio.sleep(0)

    def _tensor(self, picture: int) -> bytes:
        tensor = self._tensors.get(picture)
        if tensor is None:
            tensor = tensor_of_png(self._pictures[picture].file.read_bytes())
            self._tensors[picture] = tensor
        return tensor

    async def _ask(self, picture: int) -> None:
        answer = await self._loop.once(picture)
        if isinstance(answer, AskError):
            say("answer", picture=picture, error=str(answer))
        else:
            say(
                "answer", picture=picture, slice=answer.slice, took_ms=_ms(answer.took_s),
                classes=answer.classes,
            )  # fmt: skip

    def _came(self, picture: int, answer: Answer | AskError) -> None:
        if isinstance(answer, AskError):
            self._error = str(answer)
            self._fresh[picture] = ["", None, "", None]
        else:
            score, name = answer.classes[0] if answer.classes else (0.0, "")
            self._fresh[picture] = [answer.slice, _ms(answer.took_s), name, round(score, 4)]

    async def _report(self) -> None:
        while True:
            figures = self._loop.figures()
            fresh, self._fresh = self._fresh, {}
            error, self._error = self._error, ""
            say(
                "report", outstanding=self._loop.outstanding, rate=round(figures.rate, 1),
                p50=_round(figures.p50_ms), p90=_round(figures.p90_ms), failed=figures.failed,
                answered=figures.answered, slices=figures.slices, answers=fresh, error=error,
            )  # fmt: skip
            await asyncio.sleep(REPORT_S)


def say(event: str, **facts: Any) -> None:
    """Write one line for the gateway to pass on."""
    line = json.dumps({"event": event, **facts}, separators=(",", ":"))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one session."""
    parser = argparse.ArgumentParser(prog="python -m gateway.flowers")
    parser.add_argument("endpoint", type=Endpoint.parse, help="the gateway's port for clients")
    parser.add_argument("--certificate", type=Path, help="it speaks TLS and has this one")
    arguments = parser.parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(arguments.endpoint, arguments.certificate))
        except (BrokenPipeError, KeyboardInterrupt):
            pass  # the gateway has gone
    return 0


async def _run(endpoint: Endpoint, certificate: Path | None) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    tls = addresses.pinned(certificate) if certificate else None
    async with HttpAsker(addresses.near(endpoint), tls) as asker:
        await Session(asker).run(orders)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
