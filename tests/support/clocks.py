"""The relays' clock for how long things take, turned by hand."""

import sys
from collections.abc import Callable

import pytest


def turn_relays_by(patch: pytest.MonkeyPatch, now_s: Callable[[], float]) -> None:
    """Let the relays' modules take `now_s` for time.monotonic(), until `patch` is undone."""
    patched = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("gateway.relay.http") and hasattr(module, "monotonic"):
            patch.setattr(module, "monotonic", now_s)
            patched += 1
    assert patched, "no relay has been imported"
