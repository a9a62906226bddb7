"""Calls as values: what is put to a slice, what it said, and what the client is told. Pure."""

from dataclasses import dataclass, field

from gateway.triton.api import Memory, Op

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP answer; `headers` are without what frames it (lengths, codings, connection)."""

    status: int
    headers: list[Header]
    body: bytes


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    """A gRPC answer; `message` is the protobuf alone and counts only when `status` is 0."""

    status: int
    details: str
    message: bytes


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request for a slice's HTTP port."""

    method: str
    target: str
    headers: tuple[Header, ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A unary call for a slice's gRPC port; `message` is the protobuf alone."""

    path: bytes
    metadata: tuple[Header, ...] = ()
    message: bytes = b""


Call = HttpCall | GrpcCall


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What one slice said.

    Attributes:
        slice: The slice's name.
        ok: It did what was asked.
        status: HTTP status, or gRPC code.
        said: The error's text; empty when `ok`.
        body: HTTP body, or protobuf message.
        content_type: Of an HTTP body.
    """

    slice: str
    ok: bool
    status: int
    said: str = ""
    body: bytes = b""
    content_type: bytes = b""


@dataclass(frozen=True, slots=True)
class Silence:
    """
    A slice that did not answer.

    Attributes:
        slice: The slice's name.
        why: For people.
        sent: The call may have reached it.
    """

    slice: str
    why: str
    sent: bool


Outcome = Reply | Silence


@dataclass(frozen=True, slots=True)
class Question:
    """
    What a composed call asks, whichever protocol it came by.

    Attributes:
        op: What is to be done.
        call: What the slices are sent.
        model, version: The model asked about; empty when none is.
        region: A shared-memory region; empty means all.
        memory: Whose memory.
        body: What the call carries, as JSON: the load's parameters, a region's description,
            settings by name. A setting of None is taken back.
    """

    op: Op
    call: Call
    model: str = ""
    version: str = ""
    region: str = ""
    memory: Memory = Memory.NONE
    body: dict[str, object] = field(default_factory=dict)
