"""
Clients of a gateway, each with one way of asking: a kept connection or a new one for each request,
HTTP or gRPC, small or large.

Every request carries bytes that no other does, for a model that returns them, and whatever else
comes back is an error: another's answer, half of one, or one from before.
"""

import http.client
import json
import select
import struct
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final, Protocol

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

BLOCK: Final = np.random.default_rng(5).integers(0, 256, 4 * 1024 * 1024, np.uint8).tobytes()
IMAGE_BYTES: Final = 602_112
"""A picture for ResNet-50 in fp32."""
ANSWER_WITHIN_S: Final = 60.0
_STAMP: Final = struct.Struct("<QQ")
_SERVICE: Final = "/inference.GRPCInferenceService/"
_numbers = count()

Where = str | Callable[[], str]
"""The `host:port` to connect to, or what returns it each time a connection is opened."""


class WrongAnswerError(Exception):
    """The answer is none to what was asked."""


class Client(Protocol):
    """One client; used by one thread."""

    kind: str

    def ask(self) -> None:
        """Ask once, and raise whatever is not the right answer."""

    def close(self) -> None:
        """Close its connection."""


def payloads(size: int) -> Iterator[bytes]:
    """Yield `size` bytes again and again, each time others; at least 16."""
    client, rest = next(_numbers), BLOCK[: size - _STAMP.size]
    for number in count():
        yield _STAMP.pack(client, number) + rest


def check(sent: bytes, back: bytes) -> None:
    """Raise WrongAnswerError, which says what is wrong, unless both are the same."""
    if sent == back:
        return
    if len(back) < len(sent):
        raise WrongAnswerError(f"{len(back)} bytes of {len(sent)} came back")
    begins = _STAMP.unpack_from(back)
    raise WrongAnswerError(f"sent {_STAMP.unpack_from(sent)}, another's answer: {begins}")


def _address(where: Where) -> str:
    return where if isinstance(where, str) else where()


class HttpClient:
    """
    Over HTTP/1.1, with the tensor in binary.

    Args:
        size: Bytes of the tensor.
        keep: Use one connection for as long as it lasts, or a new one each time.
    """

    def __init__(self, where: Where, size: int, *, keep: bool = True, model: str = "identity"):
        self.kind = f"http{'' if keep else '-new'}/{size}"
        self._where = where
        self._keep = keep
        self._path = f"/v2/models/{model}/infer"
        self._payloads = payloads(size)
        head = {
            "inputs": [
                {
                    "name": "INPUT0",
                    "shape": [size],
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": size},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
        self._head = json.dumps(head).encode()
        self._headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(self._head)),
        }
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> None:
        sent = next(self._payloads)
        connection = self._open()
        try:
            connection.request("POST", self._path, self._head + sent, self._headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise WrongAnswerError(f"{answer.status} {body[:200]!r}")
            check(sent, body[-len(sent) :])
        except BaseException:
            self.close()
            raise
        if not self._keep:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        """Return a connection that the server has not closed, as clients with a pool do."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            readable, _, _ = select.select([connection.sock], [], [], 0)
            if not readable:
                return connection
        self.close()
        host, _, port = _address(self._where).rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_WITHIN_S)
        return self._connection


class GrpcClient:
    """
    Over gRPC, on a connection of its own that lasts for as long as it can.

    Args:
        keep: Use one channel, or a new one each time.
        messages: 0 for unary calls; else ask on a ModelStreamInfer so often before it is ended.
    """

    def __init__(
        self,
        where: Where,
        size: int,
        *,
        keep: bool = True,
        messages: int = 0,
        model: str = "identity",
    ):
        self.kind = f"grpc{'-stream' if messages else ''}{'' if keep else '-new'}/{size}"
        self._where = where
        self._keep = keep
        self._messages = messages
        self._model = model
        self._size = size
        self._payloads = payloads(size)
        self._at = ""
        self._channel: Any = None

    def ask(self) -> None:
        channel = self._open()
        try:
            if self._messages:
                self._ask_stream(channel)
            else:
                self._ask_once(channel)
        finally:
            if not self._keep:
                self.close()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ask_once(self, channel: Any) -> None:
        sent = next(self._payloads)
        infer = channel.unary_unary(
            f"{_SERVICE}ModelInfer", service_pb2.ModelInferRequest.SerializeToString
        )
        back = infer(self._request(sent), timeout=ANSWER_WITHIN_S)
        answer = service_pb2.ModelInferResponse.FromString(back)
        check(sent, answer.raw_output_contents[0])

    def _ask_stream(self, channel: Any) -> None:
        sent = [next(self._payloads) for _ in range(self._messages)]
        infer = channel.stream_stream(
            f"{_SERVICE}ModelStreamInfer", service_pb2.ModelInferRequest.SerializeToString
        )
        answers = infer(map(self._request, sent), timeout=ANSWER_WITHIN_S)
        for number, back in enumerate(answers):
            answer = service_pb2.ModelStreamInferResponse.FromString(back)
            if answer.error_message:
                raise WrongAnswerError(answer.error_message)
            check(sent[number], answer.infer_response.raw_output_contents[0])
        if number + 1 != self._messages:
            raise WrongAnswerError(f"{number + 1} answers of {self._messages}")

    def _request(self, sent: bytes) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self._model)
        request.inputs.add(name="INPUT0", datatype="UINT8", shape=[self._size])
        request.raw_input_contents.append(sent)
        return request

    def _open(self) -> Any:
        at = _address(self._where)
        if self._channel is None or at != self._at:
            self.close()
            self._at = at
            options = [
                # Channels of one process to one target share a connection unless told not to.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # After a refused connection it is tried again soon, as by a client that means it.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ]
            self._channel = grpc.insecure_channel(at, options=options)
        return self._channel
