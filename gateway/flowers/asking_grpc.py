"""The same over gRPC: apart, because whoever asks over HTTP need not load grpcio."""

from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import grpc

from contract.slice_spec import Endpoint
from gateway.flowers import messages
from gateway.flowers.asking import ANSWER_S, CLASSES, MODEL, SHAPE, Answer, AskError, classes_of


class GrpcAsker:
    """Over gRPC, all calls on one channel."""

    def __init__(self, endpoint: Endpoint, credentials: Any = None) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._channel: Any = None
        self._call: Any = None

    async def __aenter__(self) -> Self:
        address = str(self._endpoint)
        self._channel = (
            grpc.aio.secure_channel(address, self._credentials)
            if self._credentials
            else grpc.aio.insecure_channel(address)
        )
        self._call = self._channel.unary_unary(messages.METHOD)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def ask(self, tensor: bytes) -> Answer:
        request = messages.request(MODEL, SHAPE, tensor, CLASSES)
        began_s = monotonic()
        try:
            response = await self._call(request, timeout=ANSWER_S)
            found = messages.strings(response)
        except grpc.aio.AioRpcError as error:
            raise AskError(f"{error.code().name}: {error.details()}") from None
        except messages.MessageError as error:
            raise AskError(str(error)) from None
        return Answer(classes_of(found), "", monotonic() - began_s)


def open_asker(endpoint: Endpoint, ca: Path | None) -> GrpcAsker:
    """Return an asker; over TLS when there is a file that says who signs. Raises OSError."""
    if ca is None:
        return GrpcAsker(endpoint)
    return GrpcAsker(endpoint, grpc.ssl_channel_credentials(ca.read_bytes()))
