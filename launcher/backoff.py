"""How long to wait before a server is started again, pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """
    Doubles from `first_s` to `max_s`, and begins anew after the server ran well.

    Attributes:
        first_s: The first delay.
        max_s: The longest.
        reset_after_s: Ready for this long counts as having run well.
    """

    first_s: float
    max_s: float
    reset_after_s: float
    _next_s: float = 0.0

    def delay_s(self, ready_for_s: float) -> float:
        """Return the delay before the next start of a server that was ready for that long."""
        if ready_for_s >= self.reset_after_s or self._next_s == 0.0:
            self._next_s = self.first_s
        delay_s = self._next_s
        self._next_s = min(self._next_s * 2, self.max_s)
        return delay_s
