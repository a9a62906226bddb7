"""Switches slices on and off through the admin API, and leaves them as they were found."""

import time
from typing import Any, Final

from gateway.admin_client import AdminClient, CallError

ANSWER_S: Final = 60.0
READY_S: Final = 60.0
_VERBS: Final = {"enabled": "enable", "drained": "drain", "disabled": "disable"}


class Fleet:
    """The slices of a running gateway."""

    def __init__(self, calls: AdminClient) -> None:
        self._calls = calls
        self.found = self.views()

    def views(self) -> list[dict[str, Any]]:
        """Return all slices as the admin API tells them. Raises CallError."""
        return list(self._calls.call("GET", "/v1/slices", ANSWER_S)["slices"])

    def use(self, count: int) -> None:
        """Let the first `count` slices take work and no other. Raises CallError."""
        names = [view["name"] for view in self.found]
        for name in names[:count]:
            self._calls.call("POST", f"/v1/slices/{name}/enable", ANSWER_S)
        deadline_s = time.monotonic() + READY_S
        while not all(v["state"] == "ready" and v["slow_start"] == 1 for v in self.views()[:count]):
            if time.monotonic() > deadline_s:
                states = ", ".join(f"{v['name']} {v['state']}" for v in self.views()[:count])
                raise CallError(f"not ready within {READY_S:g} s: {states}")
            time.sleep(0.1)
        for name in names[count:]:
            self._calls.call("POST", f"/v1/slices/{name}/disable?wait=30s", ANSWER_S)

    def restore(self) -> None:
        """Order every slice what it was ordered before. Raises CallError."""
        for view in sorted(self.found, key=lambda view: view["order"] != "enabled"):
            verb = _VERBS[view["order"]]
            self._calls.call("POST", f"/v1/slices/{view['name']}/{verb}?force=true", ANSWER_S)
