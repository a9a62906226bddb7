"""What a new configuration changes, key by key. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.config import Config
from gateway.config_fields import Section

LIVE: Final = (
    "admin.tls.", "admin.tokens", "balancing", "ejection", "health", "hedging", "inventory", "limits",
    "log", "queue", "slices", "timeouts", "tls.", "triton.ready",
)  # fmt: skip
AT_START: Final = frozenset({"health.models", "health.probe", "timeouts.handshake"})
"""Beneath a key of LIVE, and yet taken once: by the probe, by the listening socket."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    One key that has another value; before and after as JSON has them, None for not given.

    Attributes:
        key: `limits.streams`; a slice or token by its name, `slices.s3`.
    """

    key: str
    before: Any
    after: Any

    @property
    def is_live(self) -> bool:
        """Carried out by a reload; every other key is as it was when the gateway started."""
        return self.key.startswith(LIVE) and self.key not in AT_START

    def view(self) -> dict[str, Any]:
        return {"key": self.key, "before": self.before, "after": self.after}


def differences(before: Config, after: Config) -> list[Change]:
    """Return what is different, in the order of the configuration's keys."""
    return list(_compare("", before, after))


def shown(value: Any) -> Any:
    """Return a value of the configuration as JSON has it."""
    if isinstance(value, Section):
        return {key: shown(item) for key, item in value}
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _compare(key: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, Section) and isinstance(after, Section):
        for name, value in before:
            yield from _compare(f"{key}.{name}" if key else name, value, getattr(after, name))
    elif _is_named(before) and _is_named(after):
        old, new = ({item.name: item for item in items} for items in (before, after))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                yield Change(f"{key}.{name}", shown(old.get(name)), shown(new.get(name)))
        if list(old) != list(new) and old == new:
            yield Change(key, list(old), list(new))
    else:
        yield Change(key, shown(before), shown(after))


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and all(hasattr(item, "name") for item in value)
