"""Switches slices on and off through the admin API, and leaves them as they were found."""

import json
import time
from pathlib import Path
from typing import Any, Final

from contract.files import write_atomically
from gateway.admin_client import AdminClient, CallError

ANSWER_S: Final = 60.0
READY_S: Final = 60.0
_VERBS: Final = {"enabled": "enable", "drained": "drain", "disabled": "disable"}


class Fleet:
    """
    The slices of a running gateway.

    Args:
        note: The file in which their orders stand while they are switched: a run that was killed
            leaves it, and the next one goes by it.

    Attributes:
        found: The slices as they were found, by a run that was killed even.
    """

    def __init__(self, calls: AdminClient, note: Path) -> None:
        self._calls = calls
        self._note = note
        left = self._left()
        self.found = [
            {**view, "order": left.get(view["name"], view["order"])} for view in self.views()
        ]

    def views(self) -> list[dict[str, Any]]:
        """Return all slices as the admin API tells them. Raises CallError."""
        return list(self._calls.call("GET", "/v1/slices", ANSWER_S)["slices"])

    def use(self, count: int) -> None:
        """Let the first `count` slices take work and no other. Raises CallError."""
        orders = {view["name"]: view["order"] for view in self.found}
        self._note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._note, json.dumps(orders) + "\n")
        names = list(orders)
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
        self._note.unlink(missing_ok=True)

    def _left(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._note.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CallError(f"{self._note} cannot be read: {error}; remove it") from None
