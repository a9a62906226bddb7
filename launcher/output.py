"""Output that cannot stop the work: a terminal may be closed, a pipe's reader may go away."""

import io
from typing import TextIO, cast


class Unbreakable(io.TextIOBase):
    """Writes to another stream and lets go of what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose the text."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # gone, or closed
            return len(text)

    def flush(self) -> None:
        """Flush, if there is still something to flush to."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass

    def isatty(self) -> bool:
        """Whether the other stream is a terminal."""
        return not self._stream.closed and self._stream.isatty()


def unbreakable(stream: TextIO) -> TextIO:
    """
    Return a stream that never fails.

    A launcher whose terminal was closed must still stop its servers, and log lines about it must
    not be what keeps it from that.
    """
    return cast("TextIO", Unbreakable(stream))
