"""
Quarantine: a request that breaks slices is refused for a while ("query of death").

A request is sent to a second slice when the first breaks off before it answers, and to no third. But
whoever sent it may send it again, and each time two slices would go. So what broke both is known by
a fingerprint and refused from then on.

Slices also go for other reasons, and then whatever they had is innocent: a rolling restart, a reset of
the whole GPU, a request that shared its slice with the deadly one. So:

* only connections that broke count, soon after the whole request had gone out on them;
* from the first loss on, a request of the same content that any slice answers settles the matter: it
  is no longer suspected, and a ban that was pronounced meanwhile is lifted;
* when no slice is left at all, the cause may well lie elsewhere: one request of a banned content may
  try as soon as a slice is back. The same holds when a ban is over; if the one breaks its slice,
  the ban is on again at once, for twice as long.

While nothing is suspected, which is always, all of this costs the relays one look at an empty dict.
"""

from collections.abc import Callable
from hashlib import blake2b
from os import urandom
from typing import Final

from gateway.limits import MIB, Limits, Timeouts
from gateway.metrics import Counters

BREAKS_WITHIN_S: Final = 5.0
"""From sending a request to losing its slice, for the one to be suspected of the other."""
WATCH_S: Final = 15.0
"""How long a request that has broken one slice is watched for."""
TRIAL_S: Final = 10.0
"""After which the one request that tries a banned content is followed by another."""
BAN_MAX_S: Final = 3600.0
HASHED_BYTES_MAX: Final = 16 * MIB
"""Read for fingerprints of lost requests within a second, about 16 ms: the loop has more to do just
then. What a slice loses beyond it is not suspected."""
_SAMPLES: Final = 8
_SAMPLE_BYTES: Final = 32


class Suspect:
    """
    A content that was on its way when a slice was lost.

    Attributes:
        key: Of the pool, such as `infer/M`.
        sample: Some of its bytes, to tell most others apart without reading all of them.
        banned: It has broken two slices.
        cleared: A slice has answered it; it is no longer in the table.
        until_s: When it is forgotten, or when the ban is over and one may try.
        times: How often it was banned.
        witness_s: When one was last let through to see what becomes of it.
    """

    __slots__ = (
        "banned", "cleared", "digest", "key", "length", "sample", "times", "until_s", "witness_s",
    )  # fmt: skip

    def __init__(self, key: str, length: int, sample: bytes, digest: bytes, until_s: float) -> None:
        self.key = key
        self.length = length
        self.sample = sample
        self.digest = digest
        self.until_s = until_s
        self.banned = self.cleared = False
        self.times = 0
        self.witness_s = 0.0


class Quarantine:
    """
    The contents that are suspected or banned; bounded.

    Attributes:
        by_size: Suspects by pool key and length of the body in bytes. The same dict for good, so that
            relays can keep it at hand.
        ban_s: How long the first ban of a content lasts.
        tell: Told of `quarantined` and `released`, whom, and for how many seconds.
    """

    __slots__ = (
        "_counters", "_hashed_bytes", "_hashed_s", "_max", "_secret", "ban_s", "by_size", "tell",
    )  # fmt: skip

    def __init__(self, limits: Limits, timeouts: Timeouts, counters: Counters) -> None:
        self.by_size: dict[tuple[str, int], list[Suspect]] = {}
        self._counters = counters
        self._secret = urandom(16)  # so that nobody can make a request that looks like another's
        self._hashed_s = 0.0
        self._hashed_bytes = 0
        self.tell: Callable[[str, Suspect, float], None] = _tell_nobody
        self.configure(limits, timeouts)

    def configure(self, limits: Limits, timeouts: Timeouts) -> None:
        """Follow what a reload has changed."""
        self._max = limits.quarantined if timeouts.quarantine_s else 0
        self.ban_s = timeouts.quarantine_s
        while len(self) > self._max:
            self._make_room()

    def __len__(self) -> int:
        return sum(map(len, self.by_size.values()))

    # --- a slice is lost ----------------------------------------------------------------------

    def suspect(self, key: str, body: bytes, now_s: float) -> Suspect | None:
        """
        Watch for a request that has broken its first slice; None when it cannot be watched for.

        Args:
            key: Of its pool; only inference is suspected.
            body: The whole of it.
        """
        if not self._max or not body or not key.startswith("infer/"):
            return None
        if now_s - self._hashed_s >= 1.0:
            self._hashed_s, self._hashed_bytes = now_s, 0
        self._hashed_bytes += len(body)
        if self._hashed_bytes > HASHED_BYTES_MAX:
            self._counters.limit("quarantine_hashing")
            return None
        digest = self._digest(body)
        for suspect in self.by_size.get((key, len(body)), ()):
            if suspect.digest == digest:
                return suspect
        if len(self) >= self._max:
            self._make_room()
        suspect = Suspect(key, len(body), _sample(body), digest, now_s + WATCH_S)
        self.by_size.setdefault((key, len(body)), []).append(suspect)
        return suspect

    def lost(self, suspect: Suspect, losses: int, now_s: float) -> None:
        """A request of this content has lost a slice; `losses` says how many it has by now."""
        if suspect.cleared:
            return
        if losses < 2 and not suspect.banned:
            suspect.until_s = now_s + WATCH_S
            return
        ban_s = min(self.ban_s * 2.0 ** min(suspect.times, 32), max(BAN_MAX_S, self.ban_s))
        suspect.banned = True
        suspect.times += 1
        suspect.until_s = now_s + ban_s
        self._counters.quarantines += 1
        self.tell("quarantined", suspect, ban_s)

    # --- a request comes ----------------------------------------------------------------------

    def find(self, key: str, body: bytes, now_s: float) -> tuple[Suspect | None, bool]:
        """
        Return (what the request is held for, or None; whether it may go).

        Call it only while `by_size` has its size. One that may go bears witness: tell its answer to
        `answered()` and its loss to `lost()`.
        """
        sample = digest = b""
        for suspect in self.by_size.get((key, len(body)), ()):
            sample = sample or _sample(body)
            if suspect.sample != sample:
                continue
            if not suspect.banned and suspect.witness_s == now_s:
                continue  # another bears witness already: one is enough
            digest = digest or self._digest(body)
            if suspect.digest == digest:
                if suspect.banned and now_s < suspect.until_s:
                    return suspect, False
                if suspect.banned:
                    suspect.until_s = now_s + TRIAL_S  # the others wait for what comes of this one
                suspect.witness_s = now_s
                return suspect, True
        return None, True

    def answered(self, suspect: Suspect) -> None:
        """A slice has answered a request of this content and lives: it was something else."""
        if suspect.cleared:
            return
        self._drop(suspect)
        suspect.cleared = True
        if suspect.banned:
            self.tell("released", suspect, 0.0)

    # --- time ---------------------------------------------------------------------------------

    def none_left(self, now_s: float) -> None:
        """Every slice is out: the next request of each banned content may try one that is back."""
        for suspects in self.by_size.values():
            for suspect in suspects:
                if suspect.banned:
                    suspect.until_s = min(suspect.until_s, now_s)

    def sweep(self, now_s: float) -> None:
        """Forget what nobody has asked for; call it now and then."""
        for suspects in list(self.by_size.values()):
            for suspect in list(suspects):
                # What was banned is kept for as long again: it would break two slices anew.
                kept_s = self.ban_s if suspect.banned else 0.0
                if now_s >= suspect.until_s + kept_s:
                    self._drop(suspect)
                    suspect.cleared = True

    # --- inside -------------------------------------------------------------------------------

    def _digest(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=16, key=self._secret).digest()

    def _make_room(self) -> None:
        """Forget one: rather who is watched than who is banned, and the oldest of them."""
        oldest = min(
            (suspect for suspects in self.by_size.values() for suspect in suspects),
            key=lambda suspect: (suspect.banned, suspect.until_s),
        )
        self._drop(oldest)
        oldest.cleared = True
        self._counters.limit("quarantined")

    def _drop(self, suspect: Suspect) -> None:
        at = (suspect.key, suspect.length)
        suspects = self.by_size[at]
        suspects.remove(suspect)
        if not suspects:
            del self.by_size[at]


def _tell_nobody(event: str, suspect: Suspect, seconds: float) -> None:
    """Until somebody wants to know."""


def _sample(body: bytes) -> bytes:
    """Return some bytes from all over `body`; most bodies of one size differ in them."""
    step = max(len(body) // _SAMPLES, 1)
    pieces = [body[at : at + _SAMPLE_BYTES] for at in range(step // 2, len(body), step)]
    return b"".join(pieces[:_SAMPLES]) + body[-_SAMPLE_BYTES:]
