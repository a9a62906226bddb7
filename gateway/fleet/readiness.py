"""When the gateway tells clients that it, as one server, is ready. Pure."""

from typing import TYPE_CHECKING, Final

from gateway.fleet.health import ENABLED

if TYPE_CHECKING:
    from gateway.fleet.registry import SliceRegistry

ANY: Final = "any"
ALL: Final = "all"
READY_CHOICES: Final = (ANY, ALL)


def is_ready(registry: "SliceRegistry") -> bool:
    """
    Say whether the server is ready, by the registry's `ready_when`.

    `any`: some slice takes work. `all`: every slice that the operator has not taken out does, and
    there is one.
    """
    members = registry.everywhere.members
    if registry.ready_when == ANY or not members:
        return bool(members)
    wanted = [m for m in registry.slices.values() if m.order is ENABLED and m.weight > 0]
    return all(member in members for member in wanted)
