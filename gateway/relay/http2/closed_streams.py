"""What is remembered of a client's streams that are closed, or were never opened."""

from typing import Final

RECENT_MAX: Final = 512
"""Streams that we ended first: the client's frames for them may still be on their way."""
_GAPS_MAX: Final = 8


class ClosedStreams:
    """Tells a late frame from a mistake. RFC 9113 section 5.1."""

    __slots__ = ("_gaps", "_recent")

    def __init__(self) -> None:
        self._recent: dict[int, None] = {}
        self._gaps: list[range] = []

    def skip(self, last_id: int, stream_id: int) -> None:
        """The client leaves out what lies between: it cannot be used any more. Section 5.1.1."""
        self._gaps = [*self._gaps[1 - _GAPS_MAX :], range(last_id + 2, stream_id, 2)]

    def was_skipped(self, stream_id: int) -> bool:
        return any(stream_id in gap for gap in self._gaps)

    def remember(self, stream_id: int) -> None:
        """We end the stream, and the client does not know yet."""
        self._recent[stream_id] = None
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def may_send(self, stream_id: int, ends: bool) -> bool:
        """Return whether a frame for the stream may still come; one that ends it is the last."""
        if stream_id not in self._recent:
            return False
        if ends:
            del self._recent[stream_id]
        return True

    def forget(self, stream_id: int) -> None:
        """The client knows."""
        self._recent.pop(stream_id, None)
