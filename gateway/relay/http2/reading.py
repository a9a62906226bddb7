"""Reading from a socket: into which memory, and how much before everybody else has a turn."""

import asyncio
from typing import Final, cast

from gateway.relay.core import RelayCore
from gateway.relay.http2.frames import ProtocolError
from gateway.relay.http2.framing import FrameReader
from gateway.relay.http2.stream import Chunk
from gateway.relay.slabs import LARGE_BODY_BYTES, Receiver, SlabReader, Slabs

LARGE_READ_BYTES: Final = LARGE_BODY_BYTES // 2
SMALL_READS_MAX: Final = 8
"""In a row, and a connection goes back to reads of the size that comes."""


class SocketReader(FrameReader):
    """
    A FrameReader that is an asyncio protocol as far as reading goes.

    libuv reads up to 32 times before it looks at another socket, and a read may bring 25,000 frames:
    a peer that sends without a pause would be the only one served, for seconds. So after TURN_WORK
    frames the socket is left alone for a turn of the loop, and what was read already is kept.
    """

    __slots__ = (
        "_slab_reader",
        "_slabs",
        "_small_reads",
        "core",
        "last_read_s",
        "transport",
    )

    def __init__(self, core: RelayCore, slabs: Slabs) -> None:
        super().__init__(core.limits.frame_bytes, core.limits.continuations)
        self.core = core
        self._slabs = slabs
        self.transport: asyncio.Transport | None = None
        self.last_read_s = core.deadlines.now_s
        self._slab_reader: SlabReader | None = None  # reads go through it while not None
        self._small_reads = 0  # in a row

    def fail(self, error: ProtocolError) -> None:
        """Tell the peer why, and close."""
        raise NotImplementedError

    def data_received(self, data: Chunk) -> None:
        if self.closed:
            return
        self.last_read_s = self.core.deadlines.now_s
        size = len(data)
        if size >= LARGE_READ_BYTES or self._slab_reader is not None:
            data = self._choose_memory(data, size)
        try:
            self.read_frames(data)
        except ProtocolError as error:
            self.fail(error)

    def yield_turn(self) -> None:
        super().yield_turn()
        if self.transport is not None:
            self.transport.pause_reading()
        self.core.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Everybody else had a turn."""
        if self.transport is not None:
            self.transport.resume_reading()
        if self.closed:
            return
        try:
            self.read_frames(b"")
        except ProtocolError as error:
            self.fail(error)

    def _choose_memory(self, data: Chunk, size: int) -> Chunk:
        """Receive into slabs while reads are large, see gateway.relay.slabs."""
        transport = self.transport
        if size >= LARGE_READ_BYTES:
            self._small_reads = 0
            if self._slab_reader is None and transport is not None and not transport.is_closing():
                self._slab_reader = SlabReader(cast("Receiver", self), self._slabs)
                transport.set_protocol(cast("asyncio.BaseProtocol", self._slab_reader))
            return data
        self._small_reads += 1
        if self._small_reads > SMALL_READS_MAX and transport is not None:
            self._small_reads = 0
            self._slab_reader = None
            transport.set_protocol(cast("asyncio.BaseProtocol", self))
        return bytes(data)  # a few bytes must not hold a slab
