"""A slab is used again when, and only when, nobody can see into it any more."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import KIB, MIB
from gateway.relay.slabs import KEPT_BYTES, READ_BYTES_MIN, SlabReader, Slabs

SLAB_BYTES = 512 * KIB


def read(slabs: Slabs, data: bytes) -> bytes | memoryview:
    """Receive `data` the way the loop does."""
    room = slabs.room()
    assert len(room) >= READ_BYTES_MIN
    room[: len(data)] = data
    del room
    return slabs.received(len(data))


def test_reads_that_are_used_up_share_one_place():
    slabs = Slabs(64 * MIB, SLAB_BYTES)
    for n in range(100):
        view = read(slabs, bytes([n]) * READ_BYTES_MIN)
        assert bytes(view[:1]) == bytes([n])
        del view
    assert slabs.held_bytes == SLAB_BYTES


def test_a_slice_of_a_view_keeps_its_bytes():
    slabs = Slabs(64 * MIB, SLAB_BYTES)
    kept = read(slabs, b"abc")[1:].cast("b")
    for _ in range(20):
        read(slabs, b"x" * READ_BYTES_MIN)
    assert bytes(kept) == b"bc"


@given(st.lists(st.tuples(st.integers(1, READ_BYTES_MIN), st.integers(0, 20)), max_size=60))
def test_no_view_ever_changes_under_its_holder(reads):
    """Each read is held for some number of further reads; all memory is bounded."""
    slabs = Slabs(2 * MIB, SLAB_BYTES)
    held: list[tuple[int, bytes, bytes | memoryview]] = []
    for n, (size, for_reads) in enumerate(reads):
        data = bytes([n % 251]) * size
        held.append((n + for_reads, data, read(slabs, data)))
        held = [entry for entry in held if entry[0] > n]
        assert all(view == data for _, data, view in held)
        assert slabs.held_bytes <= 2 * MIB


def test_when_all_slabs_are_in_use_reads_are_copied_and_later_not():
    slabs = Slabs(1 * MIB, SLAB_BYTES)
    held = [read(slabs, b"x" * READ_BYTES_MIN) for _ in range(20)]
    assert slabs.copying
    assert isinstance(held[-1], bytes)
    assert slabs.held_bytes == MIB
    del held
    assert isinstance(read(slabs, b"y"), memoryview | bytes)
    assert isinstance(read(slabs, b"y"), memoryview)
    assert not slabs.copying


def test_a_read_that_brings_nothing_holds_nothing():
    slabs = Slabs(64 * MIB, SLAB_BYTES)
    for _ in range(100):
        slabs.room()
    read(slabs, b"x")
    assert slabs.held_bytes == SLAB_BYTES


def test_unused_slabs_are_given_back():
    slabs = Slabs(256 * MIB, SLAB_BYTES)
    held = [read(slabs, b"x" * READ_BYTES_MIN) for _ in range(400)]
    most = slabs.held_bytes
    held.clear()
    for _ in range(400):
        first, second = (read(slabs, b"x" * READ_BYTES_MIN) for _ in range(2))
        held = [first, second, *held[:6]]
    assert most > KEPT_BYTES
    assert slabs.held_bytes <= KEPT_BYTES


def test_a_reader_hands_everything_on():
    class Inner:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def data_received(self, data: bytes | memoryview) -> None:
            self.calls.append(bytes(data))

        def eof_received(self) -> bool:
            self.calls.append("eof")
            return True

        def connection_lost(self, exc: Exception | None) -> None:
            self.calls.append("lost")

        def pause_writing(self) -> None:
            self.calls.append("pause")

        def resume_writing(self) -> None:
            self.calls.append("resume")

    inner = Inner()
    reader = SlabReader(inner, Slabs(MIB, SLAB_BYTES))
    reader.get_buffer(-1)[:3] = b"abc"
    reader.buffer_updated(3)
    reader.pause_writing()
    reader.resume_writing()
    assert reader.eof_received()
    reader.connection_lost(None)
    assert inner.calls == [b"abc", "pause", "resume", "eof", "lost"]
