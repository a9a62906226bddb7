"""Triton's four Python clients as one, so that a program is written once."""

import asyncio
import inspect
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

KINDS = ("http", "http_aio", "grpc", "grpc_aio")


@dataclass(frozen=True)
class Server:
    """Where a server is asked; a gateway has one address for both."""

    http: str
    grpc: str

    def at(self, kind: str) -> str:
        return self.http if kind.startswith("http") else self.grpc


class Client:
    """
    One of the four; its coroutines are run to their end.

    Attributes:
        raw: The client itself.
        made: The module that its inputs and outputs are made of.
    """

    def __init__(self, kind: str, server: Server, **options: Any) -> None:
        self.is_http = kind.startswith("http")
        self.made: Any = tritonclient.http if self.is_http else tritonclient.grpc
        module = self.made.aio if kind.endswith("aio") else self.made
        self.loop = asyncio.new_event_loop()

        async def make() -> Any:
            return module.InferenceServerClient(server.at(kind), **options)

        self.raw = self.loop.run_until_complete(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.call("close")
        self.loop.close()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client; return plain data where it answers with a message."""
        told = getattr(self.raw, method)(*arguments, **options)
        if inspect.isawaitable(told):
            told = self.loop.run_until_complete(told)
        if hasattr(told, "DESCRIPTOR"):
            return MessageToDict(told, preserving_proto_field_name=True)
        return told

    def fails(self, method: str, *arguments: Any, **options: Any) -> tuple[str, str]:
        """Return (status, message) of a call that must fail."""
        try:
            told = self.call(method, *arguments, **options)
        except InferenceServerException as error:
            return str(error.status()), error.message()
        raise AssertionError(f"{method} did not fail but answered {told}")

    def tensor(self, name: str, data: np.ndarray, kind: str = "INT32", **how: Any) -> Any:
        made = self.made.InferInput(name, list(data.shape), kind)
        made.set_data_from_numpy(data, **how)
        return made

    def wanted(self, name: str, **how: Any) -> Any:
        return self.made.InferRequestedOutput(name, **how)

    def infer(self, model: str, inputs: list[Any], *names: str, **options: Any) -> list[Any]:
        """Return the outputs of these names, as lists."""
        told = self.call("infer", model, inputs, **options)
        return [told.as_numpy(name).tolist() for name in names]
