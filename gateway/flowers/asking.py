"""One picture to the model, through the gateway's port like any client; here over HTTP."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final, Protocol, Self

from contract.slice_spec import Endpoint
from gateway.flowers.pictures import SIDE, TENSOR_BYTES

MODEL: Final = "flower"
CLASSES: Final = 3
ANSWER_S: Final = 60.0
HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 1024 * 1024
SLICE_FIELD: Final = "mig-gateway-slice"
SHAPE: Final = (1, 3, SIDE, SIDE)


class AskError(Exception):
    """No answer, or not a proper one; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the model says of one picture.

    Attributes:
        classes: (score 0..1, name), best first.
        slice: Which slice has answered; empty where the protocol does not say.
        took_s: From the request's first byte to the answer's last.
    """

    classes: tuple[tuple[float, str], ...]
    slice: str
    took_s: float


class Asker(Protocol):
    """A way to the gateway; as many calls at once as the caller likes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def ask(self, tensor: bytes) -> Answer:
        """Return the answer. Raises AskError."""


class HttpLink:
    """
    Requests over HTTP/1.1, a connection for each one under way.

    Args:
        endpoint: The gateway's port for clients.
        tls: None for plain text.
    """

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def close(self) -> None:
        """Close the connections that are not in use."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def send(self, pieces: Sequence[bytes]) -> tuple[dict[str, str], bytes, float]:
        """
        Send one request as it is; return (answer's fields, body, seconds it took).

        Raises:
            AskError: No answer, or none with status 200.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                status, fields, body, took_s = await self._send(pieces)
        except TimeoutError:
            raise AskError(f"no answer within {ANSWER_S:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise AskError(f"{self.endpoint}: {str(error) or type(error).__name__}") from None
        if status != 200:
            raise AskError(_error(body) or f"status {status}")
        return fields, body, took_s

    async def _send(self, pieces: Sequence[bytes]) -> tuple[int, dict[str, str], bytes, float]:
        reader, writer = self._idle.pop() if self._idle else await self._connected()
        began_s = monotonic()
        try:
            writer.writelines(pieces)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, fields = _read_head(head)
            body = await reader.readexactly(_length(fields))
        except BaseException:
            writer.close()
            raise
        took_s = monotonic() - began_s
        if fields.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, fields, body, took_s

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            self.endpoint.host, self.endpoint.port, ssl=self._tls, limit=HEAD_BYTES_MAX
        )


def infer_head(
    endpoint: Endpoint, model: str, question: dict[str, Any], tensor_bytes: int, *fields: str
) -> bytes:
    """Return everything of an inference but its tensors' bytes: head and JSON."""
    text = json.dumps(question).encode()
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {endpoint}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(text) + tensor_bytes}",
        *fields,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


class HttpAsker:
    """Over HTTP/1.1; see HttpLink."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> None:
        self._link = HttpLink(endpoint, tls)
        question = {
            "inputs": [
                {"name": "input", "shape": SHAPE, "datatype": "FP32",
                 "parameters": {"binary_data_size": TENSOR_BYTES}}
            ],
            "outputs": [
                {"name": "probabilities",
                 "parameters": {"classification": CLASSES, "binary_data": False}}
            ],
        }  # fmt: skip
        self._head = infer_head(endpoint, MODEL, question, TENSOR_BYTES, f"{SLICE_FIELD}: ?")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()

    async def ask(self, tensor: bytes) -> Answer:
        fields, body, took_s = await self._link.send((self._head, tensor))
        return Answer(_http_classes(body), fields.get(SLICE_FIELD, ""), took_s)


def _read_head(head: str) -> tuple[int, dict[str, str]]:
    line, *lines = head.split("\r\n")
    parts = line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise AskError(f"no HTTP answer: {line[:80]!r}")
    pairs = (field.partition(":") for field in lines if field)
    return int(parts[1]), {name.lower(): value.strip() for name, _, value in pairs}


def _length(fields: dict[str, str]) -> int:
    text = fields.get("content-length", "")
    if not text.isdigit() or int(text) > BODY_BYTES_MAX:
        raise AskError("an answer without a usable Content-Length")
    return int(text)


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _http_classes(body: bytes) -> tuple[tuple[float, str], ...]:
    try:
        found = json.loads(body)["outputs"][0]["data"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise AskError("an answer that is not Triton's") from None
    return classes_of(found)


def classes_of(found: Sequence[Any]) -> tuple[tuple[float, str], ...]:
    """Read `score:index:label`, Triton's classification extension."""
    classes = []
    for entry in found:
        score, _, rest = str(entry).partition(":")
        index, _, label = rest.partition(":")
        try:
            classes.append((float(score), label or f"class {index}"))
        except ValueError:
            raise AskError(f"no class: {entry!r}") from None
    return tuple(classes)
