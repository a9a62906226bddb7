"""Half: the slice's half of a call."""

from typing import TYPE_CHECKING

from gateway.relay.http2.call import Call
from gateway.relay.http2.stream import Stream

if TYPE_CHECKING:
    from gateway.relay.http2.upstream import Upstream


class Half(Stream):
    """
    The slice's half of `call`.

    Attributes:
        body_left: Bytes of data that the answer's head has announced and that have not come; -1
            when it has not said; MESSAGE_DUE when the next data is the start of a stream's first
            message.
        erred: The first message of a ModelStreamInfer's answer is an error, in an answer that is
            OK by its status.
        interim: 1xx answers before the real one.
    """

    __slots__ = ("body_left", "call", "erred", "interim")

    def __init__(self, connection: "Upstream", stream_id: int, call: Call) -> None:
        super().__init__(connection, stream_id)
        self.body_left = -1
        self.erred = False
        self.interim = 0
        self.call = call
        self.peer = call
