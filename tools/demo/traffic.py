"""Flower pictures over HTTP and gRPC, as Triton's own client library sends them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc_messages
import tritonclient.grpc.aio as grpc_client
import tritonclient.http as http_messages
import tritonclient.http.aio as http_client

from tools.flower.draw import UNSEEN_SEEDS, picture
from tools.flower.species import species

PICTURES: Final = 42
CLIENTS: Final = 4
"""Requests at once, over each protocol."""

Picture = npt.NDArray[np.float32]


@dataclass(slots=True)
class Outcome:
    """
    What came back.

    Attributes:
        sent: Requests, by protocol.
        named: Pictures whose flower was named rightly.
        errors: What went wrong, one sentence for each failed request.
    """

    sent: dict[str, int] = field(default_factory=lambda: {"HTTP": 0, "gRPC": 0})
    named: int = 0
    errors: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Outcome") -> Self:
        for protocol, count in other.sent.items():
            self.sent[protocol] += count
        self.named += other.named
        self.errors += other.errors
        return self

    @property
    def total(self) -> int:
        return sum(self.sent.values())


class Traffic:
    """Clients of both protocols at `address`, the gateway's port."""

    def __init__(self, address: str) -> None:
        self._address = address
        names = species()
        # Drawn once: the demo measures the slices, not its own brush.
        self._pictures = [
            (names[i % len(names)].name, picture(i % len(names), UNSEEN_SEEDS + i)[None])
            for i in range(0, PICTURES * 17, 17)
        ]

    async def send(self, requests: int) -> Outcome:
        """Send `requests` pictures, half over each protocol, a few at once."""
        http = http_client.InferenceServerClient(self._address, conn_limit=CLIENTS)
        grpc = grpc_client.InferenceServerClient(self._address)
        outcome = Outcome()
        try:
            share = requests // (2 * CLIENTS) or 1
            workers = [
                self._work(protocol, infer, share, worker)
                for protocol, infer in (
                    ("HTTP", lambda image: _infer(http, http_messages, image)),
                    ("gRPC", lambda image: _infer(grpc, grpc_messages, image)),
                )
                for worker in range(CLIENTS)
            ]
            for part in await asyncio.gather(*workers):
                outcome += part
        finally:
            await http.close()
            await grpc.close()
        return outcome

    async def _work(
        self,
        protocol: str,
        infer: Callable[[Picture], Awaitable[str]],
        count: int,
        offset: int,
    ) -> Outcome:
        outcome = Outcome()
        for turn in range(count):
            name, image = self._pictures[(offset * 7 + turn) % len(self._pictures)]
            outcome.sent[protocol] += 1
            try:
                outcome.named += await infer(image) == name
            except Exception as error:  # whatever it is, it is a request that failed
                outcome.errors.append(f"{protocol}: {type(error).__name__}: {error}")
        return outcome


async def _infer(client: Any, messages: Any, image: Picture) -> str:
    """Return the name of the flower on `image`, by Triton's classification extension."""
    tensor = messages.InferInput("input", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    wanted = messages.InferRequestedOutput("probabilities", class_count=1)
    result = await client.infer("flower", [tensor], outputs=[wanted])
    best = result.as_numpy("probabilities").reshape(-1)[0]
    return str(best.decode()).split(":")[2]
