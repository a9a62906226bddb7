"""
SliceRegistry: which slices there are, and which of them take a given model's requests.

The control plane changes slices and calls `publish()`; the relays read `SlicePool.members`, a tuple
that is replaced as a whole. A pool object lives as long as its key, so a relay may remember it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from contract.slice_spec import SliceSpec
from gateway.fleet.health import CheckResult, Health, Order, Thresholds
from gateway.fleet.slices import CHARGE_DECAY_S, Slice


class Policy(Protocol):
    """
    Chooses a slice; one object for each pool.

    Called once a request: no await, no logging, no I/O.
    """

    def pick(self, members: Sequence[Slice]) -> Slice | None:
        """Return one of `members`, or None when there are none."""


class SlicePool:
    """The slices that may take one kind of request, and the policy that chooses among them."""

    __slots__ = ("members", "policy")

    def __init__(self, policy: Policy) -> None:
        self.members: tuple[Slice, ...] = ()
        self.policy = policy

    def pick(self) -> Slice | None:
        return self.policy.pick(self.members)

    def pick_other(self, tried: Sequence[Slice]) -> Slice | None:
        """Pick among the members that are not in `tried`."""
        return self.policy.pick([member for member in self.members if member not in tried])


class SliceListener(Protocol):
    """Told of every change that others may care about, after it has been made."""

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        """`event` is `added`, `removed`, `changed`, `health` or `order`."""


class SliceRegistry:
    """
    All slices and all pools.

    `pools` maps a key to its pool: `""` is every routable slice, for requests that name no model,
    `"call"` the same for calls that are no inference, `"infer/M"`, `"infer/M/V"` and `"call/M"`
    are the slices where model M (version V) is ready. Inference has pools of its own so that
    round robin stays even whatever else is asked in between. Keys exist only for models that a
    slice has reported, so a client cannot make new ones.
    """

    def __init__(
        self, make_policy: Callable[[], Policy], thresholds: Thresholds, now_s: Callable[[], float]
    ) -> None:
        self.slices: dict[str, Slice] = {}
        self.pools: dict[str, SlicePool] = {}
        self.listeners: list[SliceListener] = []
        self._make_policy = make_policy
        self._thresholds = thresholds
        self._now_s = now_s
        self.everywhere = self._pool("")
        self.calls = self._pool("call")

    def pool(self, key: str) -> SlicePool:
        """
        Return the pool for `key`, or the general one when no slice has reported that model.

        A model nobody knows goes to any slice, whose own error is what the client should read.
        """
        pool = self.pools.get(key)
        if pool is not None and pool.members:
            return pool
        return self.calls if key.startswith("call") else self.everywhere

    def replace(self, specs: Sequence[SliceSpec]) -> None:
        """
        Make the set of slices equal to `specs`, by name.

        A slice whose endpoints changed is a new server under an old name: it keeps its order and
        its totals and is checked anew. One that is gone gets no new work; what it has in flight
        runs to its end.
        """
        wanted = {spec.name: spec for spec in specs}
        for name in [name for name in self.slices if name not in wanted]:
            gone = self.slices.pop(name)
            gone.order = Order.DISABLED
            self._tell(gone, "removed", "no longer configured")
        for name, spec in wanted.items():
            member = self.slices.get(name)
            if member is None:
                member = Slice(spec, self._thresholds, self._now_s())
                self.slices[name] = member
                self._tell(member, "added", "configured")
            elif member.spec != spec:
                moved = (member.spec.http, member.spec.grpc) != (spec.http, spec.grpc)
                member.spec, member.weight = spec, spec.weight
                if moved or member.spec.mig_uuid != spec.mig_uuid:
                    member.health.forget(self._now_s())
                    member.models = None
                self._tell(member, "changed", "configuration changed")
        self.slices = {name: self.slices[name] for name in wanted}
        self.publish()

    def order(self, member: Slice, order: Order, reason: str) -> None:
        """Carry out the operator's choice at once."""
        if member.order is order:
            return
        if member.order is Order.DISABLED:
            # Nobody looked at it while it was out: it is checked before it takes traffic.
            member.health.forget(self._now_s())
        member.order = order
        self.publish()
        self._tell(member, "order", reason)

    def record(self, member: Slice, result: CheckResult) -> None:
        """Take the result of a check in."""
        flipped = member.health.record(result, self._now_s())
        learned = result.models is not None and result.models != member.models
        if learned:
            member.models = result.models
        if flipped or learned:
            self.publish()
        if flipped:
            self._tell(member, "health", result.reason)

    def condemn(self, member: Slice, reason: str) -> None:
        """Take a slice out on evidence from traffic: nobody listens at its port."""
        if member.health.condemn(reason, self._now_s()):
            self.publish()
            self._tell(member, "health", reason)

    def set_policy(self, make_policy: Callable[[], Policy]) -> None:
        """Use another policy from the next request on."""
        self._make_policy = make_policy
        for pool in self.pools.values():
            pool.policy = make_policy()

    def decay_charges(self, elapsed_s: float) -> None:
        """Let failed attempts weigh less as time passes."""
        for member in self.slices.values():
            if member.charge:
                left = member.charge * max(0.0, 1.0 - elapsed_s / CHARGE_DECAY_S * 3)
                member.charge = left if left > 0.01 else 0.0

    def publish(self) -> None:
        """Recompute every pool's members."""
        routable = tuple(member for member in self.slices.values() if member.routable)
        members: dict[str, list[Slice]] = {}
        for member in self.slices.values():
            # A pool stays, empty, while a slice that is out has the model: its policy keeps its turn.
            for key in _keys(member):
                found = members.setdefault(key, [])
                if member.routable:
                    found.append(member)
        for key in [key for key in self.pools if key not in members and key not in ("", "call")]:
            # Emptied as well: whoever still holds it must not go on sending to its members.
            self.pools.pop(key).members = ()
        for key, found in members.items():
            self._pool(key).members = tuple(found)
        self.everywhere.members = self.calls.members = routable

    @property
    def health_counts(self) -> dict[Health, int]:
        """How many slices are in each health."""
        counts = dict.fromkeys(Health, 0)
        for member in self.slices.values():
            counts[member.health.health] += 1
        return counts

    def _pool(self, key: str) -> SlicePool:
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = SlicePool(self._make_policy())
        return pool

    def _tell(self, member: Slice, event: str, reason: str) -> None:
        for listener in self.listeners:
            listener.slice_changed(member, event, reason)


def _keys(member: Slice) -> list[str]:
    """Return the keys of the pools that `member` belongs to by the models it has."""
    keys = []
    for model, versions in (member.models or {}).items():
        keys += [f"infer/{model}", f"call/{model}"]
        keys += [f"infer/{model}/{version}" for version in versions]
    return keys
