"""
The audit log: who changed what through the admin API, and who was turned away.

One event for each change, after it was made: `admin.changed` with who, what, before and after.
"""

from typing import Any, Final

import structlog

from gateway.control.auth import Caller

REFUSALS_EVERY_S: Final = 10.0
"""Calls that are turned away are logged at most so often: whoever guesses must not fill the disk."""

# With a level of its own, so that `log.level: error` silences the program and not the audit.
log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(0))


def changed(caller: Caller, what: str, before: Any, after: Any) -> None:
    """Log a change that `caller` has made; nothing when nothing changed."""
    if before == after:
        return
    log.info(
        "admin.changed", who=caller.name, how=caller.how, address=caller.address,
        what=what, before=before, after=after,
    )  # fmt: skip


class Refusals:
    """Logs calls that were turned away, in sum."""

    def __init__(self) -> None:
        self._unlogged = 0
        self._logged_s: float | None = None

    def refused(self, status: int, reason: str, address: str, now_s: float) -> None:
        """Take one in; log it with those since the last, unless that was just now."""
        self._unlogged += 1
        if self._logged_s is not None and now_s - self._logged_s < REFUSALS_EVERY_S:
            return
        log.warning(
            "admin.refused", status=status, reason=reason, address=address, calls=self._unlogged
        )
        self._unlogged, self._logged_s = 0, now_s
