"""Tally: what came of the attempts at one slice, or for one model on it, in the last seconds."""

from typing import Final

from gateway.fleet.lifecycle import FREE, NEXT_EJECTION, Ejection, Step

BUCKETS: Final = 10
"""The window slides by a tenth of itself."""


class Tally:
    """
    One slice's attempts, or those for one model on it.

    It is made by the first failure, so a slice that does not fail has none and costs nothing: what
    went well before is not in the window. Counts are exact; an average that decays would let a
    short burst of failures hide behind a long good time.

    Attributes:
        model: The model's name; "" for the slice as a whole.
        ejection: See gateway.fleet.lifecycle; changed by `move` only.
        streak: Failures since the last success.
        times: Ejections so far, for the back-off.
        late_s: When the first time-out came that the slice has not been judged by; 0 for none.
        out_s: How long the last ejection was to last.
        until_s: EJECTED or TRYING: when that ends by itself.
        since_s: When `ejection` last changed.
        reason: Why it was last ejected.
    """

    __slots__ = (
        "_at",
        "_bucket_s",
        "_failed",
        "_ok",
        "ejection",
        "late_s",
        "model",
        "out_s",
        "reason",
        "since_s",
        "streak",
        "times",
        "until_s",
    )

    def __init__(self, model: str, window_s: float, now_s: float) -> None:
        self.model = model
        self.ejection: Ejection = FREE
        self.streak = 0
        self.times = 0
        self.late_s = 0.0
        self.out_s = 0.0
        self.until_s = 0.0
        self.since_s = now_s
        self.reason = ""
        self._bucket_s = window_s / BUCKETS
        self._at = int(now_s / self._bucket_s)
        self._ok = [0] * BUCKETS
        self._failed = [0] * BUCKETS

    def succeeded(self, now_s: float) -> None:
        """Count one attempt that went well."""
        self.streak = 0
        self._ok[self._bucket(now_s)] += 1

    def failed(self, now_s: float) -> None:
        """Count one attempt that failed."""
        self.streak += 1
        self._failed[self._bucket(now_s)] += 1

    def totals(self, now_s: float) -> tuple[int, int]:
        """Return (attempts, failures) within the window."""
        self._bucket(now_s)
        failed = sum(self._failed)
        return sum(self._ok) + failed, failed

    def share(self, now_s: float) -> float:
        """Return the share of attempts within the window that failed; 0 without any."""
        attempts, failed = self.totals(now_s)
        return failed / attempts if attempts else 0.0

    def move(self, step: Step, now_s: float) -> None:
        """Change `ejection` as the table says; counts start anew with each change."""
        self.ejection = NEXT_EJECTION[self.ejection, step]
        self.since_s = now_s
        self.streak = 0
        self.late_s = 0.0
        self._ok = [0] * BUCKETS
        self._failed = [0] * BUCKETS

    def _bucket(self, now_s: float) -> int:
        """Return the index of the present bucket, emptied of what is older than the window."""
        at = int(now_s / self._bucket_s)
        for old in range(max(self._at + 1, at - BUCKETS + 1), at + 1):
            self._ok[old % BUCKETS] = self._failed[old % BUCKETS] = 0
        self._at = max(self._at, at)
        return self._at % BUCKETS
