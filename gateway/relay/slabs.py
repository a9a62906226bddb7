"""
Receiving large bodies into memory that is used again.

`recv` into fresh 256 KiB objects makes the kernel clear pages that the allocator has just given
back: 215 us for 602 kB, against 100 us into memory that stays. So while a large body comes, a
connection's protocol is wrapped in a SlabReader, which receives into process-wide slabs and hands
on views of them.

When may a slab be used again? When nobody holds a view of it. Each read gets a memoryview of its
own, all slices of it share one managed buffer, and that holds one reference to the slab; the
transport keeps such a slice for what it could not send, a relay for what it may have to send once
more. So `sys.getrefcount(slab)` at its lowest value proves that nothing points into it, and no
connection has to report what it is done with.
"""

import asyncio
from sys import getrefcount
from typing import Final, Protocol

from gateway.limits import KIB, MIB

SLAB_BYTES: Final = 2 * MIB
READ_BYTES_MIN: Final = 128 * KIB
"""A slab with less room than this behind what is in use is left for the next."""
READ_BYTES_MAX: Final = 1 * MIB
"""Of one read. In fewer, larger reads and writes the next process is woken less often: 602 kB cost
105 to 136 us of CPU so, 99 to 173 in slabs of 512 KiB and reads of 256 KiB, 200 in reads of 64 KiB."""
LARGE_BODY_BYTES: Final = 64 * KIB
"""What is worth switching for; a switch costs two epoll_ctl, about 2 us."""
KEPT_BYTES: Final = 32 * MIB
"""Unused slabs beyond this are given back."""


class Receiver(Protocol):
    """A stream protocol that takes bytes or views; views must not be changed."""

    def data_received(self, data: bytes | memoryview, /) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Slabs:
    """
    All slabs of one process, shared by its connections: a ring, filled one slab after the other.

    The loop asks for memory and fills it in one go, so all connections can use the same position.

    Args:
        bytes_max: What all slabs together may take, but two there are always. When all are in use, reads go through one
            scratch slab and are copied, so that a few bytes that a slow client has not taken
            yet no longer hold a whole slab.
        slab_bytes: The size of each.
    """

    __slots__ = (
        "_at",
        "_idle_count",
        "_position",
        "_ring",
        "_slab_bytes",
        "_slabs_max",
        "_view",
        "copying",
    )

    def __init__(self, bytes_max: int, slab_bytes: int = SLAB_BYTES) -> None:
        self._slab_bytes = slab_bytes
        self._slabs_max = max(2, bytes_max // slab_bytes)
        self._ring = [bytearray(slab_bytes)]
        self._at = 0  # the slab being filled
        self._position = 0  # in it
        self._view = memoryview(b"")  # of the read in progress
        self._idle_count = _references(self._ring)  # to a slab that nobody has a view of
        self.copying = False

    def configure(self, bytes_max: int) -> None:
        """Allow so much memory from now on; slabs above it are given back as they fall idle."""
        self._slabs_max = max(2, bytes_max // self._slab_bytes)

    @property
    def held_bytes(self) -> int:
        """Memory taken by all slabs."""
        return len(self._ring) * self._slab_bytes

    def room(self, limit: int = READ_BYTES_MAX) -> memoryview:
        """Return memory to receive into: of READ_BYTES_MIN or more, but of `limit` at most."""
        self._view = _NO_VIEW  # of a read that brought nothing
        slab = self._ring[self._at]
        if getrefcount(slab) == self._idle_count:
            self._position = 0
            self.copying = False
        elif self._position > self._slab_bytes - READ_BYTES_MIN or self.copying:
            slab = self._next()
        self._view = memoryview(slab)[self._position : self._position + limit]
        return self._view

    def received(self, size: int) -> bytes | memoryview:
        """Return the `size` bytes that came into what `room()` returned last."""
        view = self._view[:size]
        self._view = _NO_VIEW
        if self.copying:
            return bytes(view)
        self._position += size
        return view

    def _next(self) -> bytearray:
        """Go on to a slab that nobody uses: the next in the ring, or a new one."""
        self._position = 0
        self.copying = False
        count = len(self._ring)
        for step in range(1, min(count, 8) + 1):
            at = (self._at + step) % count
            slab = self._ring[at]
            if getrefcount(slab) == self._idle_count:
                self._at = at
                if count * self._slab_bytes > KEPT_BYTES:
                    self._give_back_one()
                return slab
        if count < self._slabs_max:
            slab = bytearray(self._slab_bytes)
            self._at += 1
            self._ring.insert(self._at, slab)
            return slab
        self.copying = True
        self._at = (self._at + 8) % count  # look at others next time
        return bytearray(READ_BYTES_MIN)

    def _give_back_one(self) -> None:
        """Drop the slab behind the present one when nobody uses it."""
        after = (self._at + 1) % len(self._ring)
        if getrefcount(self._ring[after]) == self._idle_count - 1:
            del self._ring[after]
            self._at -= after < self._at


_NO_VIEW: Final = memoryview(b"")


def _references(ring: list[bytearray]) -> int:
    """Count references to an idle slab the way Slabs.room() sees them: from a local and the ring."""
    slab = ring[0]
    return getrefcount(slab)


class SlabReader:
    """
    Wraps a connection's protocol while large bodies come: `transport.set_protocol(reader)`.

    Not an asyncio.Protocol, from which uvloop would conclude that it wants bytes. Everything but
    receiving goes to the wrapped protocol.

    Attributes:
        limit: The most bytes to receive at once. What a connection may read and has no use for
            yet, it must hold.
        copies: Hand on copies: whoever takes what comes is so slow that a little of it would
            hold a whole slab for long.
    """

    __slots__ = (
        "_inner_received",
        "_slabs",
        "connection_lost",
        "copies",
        "eof_received",
        "limit",
        "pause_writing",
        "resume_writing",
    )

    def __init__(self, inner: Receiver, slabs: Slabs, limit: int = READ_BYTES_MAX) -> None:
        self._slabs = slabs
        self.limit = limit
        self.copies = False
        self._inner_received = inner.data_received
        self.connection_lost = inner.connection_lost
        self.eof_received = inner.eof_received
        self.pause_writing = inner.pause_writing
        self.resume_writing = inner.resume_writing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise AssertionError("a SlabReader takes over a connection that has been made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._slabs.room(self.limit)

    def buffer_updated(self, nbytes: int) -> None:
        data = self._slabs.received(nbytes)
        self._inner_received(bytes(data) if self.copies else data)


class _Nobody:
    """Takes the place of a reader on a connection that is lost."""

    def get_buffer(self, sizehint: int) -> memoryview:
        raise AssertionError("a lost connection receives nothing")

    def buffer_updated(self, nbytes: int) -> None:
        raise AssertionError("a lost connection receives nothing")


_NOBODY: Final = _Nobody()


def forget_reader(transport: asyncio.Transport) -> None:
    """
    Let a lost client connection be freed at once; to be called from `connection_lost`.

    uvloop's TLS transport keeps the methods of the last SlabReader it had, and so itself: a cycle of
    50 KiB that would wait for the garbage collector, which comes seldom here. Only another reader
    takes their place. TLS transports are those that cannot close one direction.
    """
    if not transport.can_write_eof():
        transport.set_protocol(_NOBODY)  # type: ignore[arg-type]
