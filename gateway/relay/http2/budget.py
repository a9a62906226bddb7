"""What a peer may make us do for nothing, as a token bucket."""


class Budget:
    """
    `burst` events at once, refilled by `per_s` a second.

    The clock is looked at only when the bucket runs dry, so a well-behaved peer costs one
    subtraction an event.
    """

    __slots__ = ("_burst", "_filled_at_s", "_left", "_per_s")

    def __init__(self, burst: int, per_s: int, now_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._left = self._burst
        self._filled_at_s = now_s

    def spend(self, now_s: float) -> bool:
        """Take one; return False when there is none left."""
        self._left -= 1.0
        if self._left >= 0.0:
            return True
        refilled = self._left + 1.0 + (now_s - self._filled_at_s) * self._per_s
        self._filled_at_s = now_s
        self._left = min(refilled, self._burst) - 1.0
        return self._left >= 0.0
