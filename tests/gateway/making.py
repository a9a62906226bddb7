"""Slices and registries for tests, and a clock that is turned by hand."""

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.fleet.health import CheckResult, Thresholds
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice


class Clock:
    """A time that stands still until a test turns it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_spec(
    name: str = "s0", port: int = 18000, weight: float = 1.0, **more: object
) -> SliceSpec:
    return SliceSpec(
        name,
        Endpoint("127.0.0.1", port),
        Endpoint("127.0.0.1", port + 1),
        weight=weight,
        **more,  # type: ignore[arg-type]
    )


def make_slice(name: str = "s0", weight: float = 1.0) -> Slice:
    return Slice(make_spec(name, weight=weight), Thresholds(), 0.0)


def live(*models: str, versions: tuple[str, ...] = ("1",)) -> CheckResult:
    """A check that passed and found `models`."""
    return CheckResult(True, "live", models=dict.fromkeys(models, versions))


REFUSED = CheckResult(False, "refused", conclusive=True)


class Fleet:
    """A registry with its clock and what its listeners were told."""

    def __init__(self, *names: str, policy: str = "least_load") -> None:
        self.clock = Clock()
        self.registry = SliceRegistry(POLICIES[policy], Thresholds(), self.clock)
        self.told: list[tuple[str, str]] = []
        self.registry.listeners.append(self)
        self.specs = [make_spec(name, 18000 + 10 * i) for i, name in enumerate(names)]
        self.registry.replace(self.specs)
        for name in names:
            self.registry.record(self[name], live("m"))
        self.told.clear()

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        self.told.append((member.name, event))

    def __getitem__(self, name: str) -> Slice:
        return self.registry.slices[name]

    def members(self, key: str = "") -> list[str]:
        return [member.name for member in self.registry.pool(key).members]
