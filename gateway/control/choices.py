"""
The operator's choices, kept in a file so that they survive a restart of the gateway.

The file is JSON and belongs to the gateway:

    {"version": 1, "orders": {"s3": "disabled"},
     "policy": {"chosen": "round_robin", "configured": "least_load"}}

Slices that are not named are enabled. The live policy counts only while the configuration file
still says what it said when the operator chose: who edits the file means it.
"""

import asyncio
import errno
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from contract.files import read_whole, set_aside, write_atomically
from contract.slice_spec import NAME_PATTERN
from gateway.balance.policies import POLICIES
from gateway.fleet.health import ENABLED, Order
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import Slice

log = structlog.get_logger()

VERSION: Final = 1
FILE_BYTES_MAX: Final = 1024 * 1024
ORDERS_MAX: Final = 4096
"""Slices that are gone keep their order; past this many the oldest are forgotten."""


class ChoicesError(Exception):
    """The state file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Choices:
    """
    What the operator has chosen.

    Attributes:
        orders: Slices that are not simply enabled; kept for slices that are away.
        policy: The policy chosen live, None when none was.
        configured: The policy the configuration named at that time.
    """

    orders: dict[str, Order] = field(default_factory=dict)
    policy: str | None = None
    configured: str | None = None

    def ordered(self, name: str, order: Order) -> "Choices":
        """Return these choices with `name` ordered `order`."""
        orders = {key: value for key, value in self.orders.items() if key != name}
        if order is not ENABLED:
            orders[name] = order
            while len(orders) > ORDERS_MAX:
                del orders[next(iter(orders))]
        return replace(self, orders=orders)

    def dump(self) -> str:
        """Return the file's text."""
        document: dict[str, Any] = {
            "version": VERSION,
            "orders": {name: order.value for name, order in self.orders.items()},
        }
        if self.policy is not None:
            document["policy"] = {"chosen": self.policy, "configured": self.configured}
        return json.dumps(document, indent=2) + "\n"


def parse(data: bytes) -> Choices:
    """Read a state file's content. Raises ChoicesError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChoicesError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ChoicesError(f"not a gateway's state file of version {VERSION}")
    orders = document.get("orders", {})
    if not isinstance(orders, dict) or len(orders) > ORDERS_MAX:
        raise ChoicesError(f"orders is no mapping of at most {ORDERS_MAX} slices")
    read: dict[str, Order] = {}
    for name, value in orders.items():
        if not NAME_PATTERN.fullmatch(name) or value not in [order.value for order in Order]:
            raise ChoicesError(f"orders: {name!r} is {value!r}")
        read[name] = Order(value)
    policy = document.get("policy")
    if policy is None:
        return Choices(read)
    if not isinstance(policy, dict) or policy.get("chosen") not in POLICIES:
        raise ChoicesError(f"policy is {policy!r}; known policies: {', '.join(POLICIES)}")
    return Choices(read, policy["chosen"], policy.get("configured"))


def read(path: Path) -> Choices:
    """
    Read the state file; none yet means no choices.

    Raises:
        ChoicesError: There is one, but it cannot be used.
    """
    try:
        data = read_whole(path, FILE_BYTES_MAX)
    except FileNotFoundError:
        return Choices()
    except OSError as error:
        raise ChoicesError(f"cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ChoicesError(f"larger than {FILE_BYTES_MAX} bytes")
    return parse(data)


class ChoiceKeeper:
    """
    Carries out the operator's choices, each on disk before it is made true.

    A SliceListener: a slice that appears later gets its order before it can take traffic.
    """

    def __init__(self, path: Path, registry: SliceRegistry, configured_policy: str) -> None:
        self.path = path
        self.policy = configured_policy
        self._configured = configured_policy
        self._registry = registry
        self._choices = Choices()
        self._writing = asyncio.Lock()
        self._retired = False
        self._foreign = False  # the file is not ours and could not be set aside

    @property
    def writing(self) -> asyncio.Lock:
        """Held while a choice is judged, written and carried out: one at a time."""
        return self._writing

    def load(self) -> None:
        """Take over what an earlier run has kept. A file that is not ours is set aside."""
        try:
            self._choices = read(self.path)
        except ChoicesError as error:
            kept = self._set_aside()
            self._foreign = kept is None
            log.error(
                "choices.refused", path=str(self.path), reason=str(error), kept_as=kept,
                hint="every slice is enabled and the policy is the configured one",
            )  # fmt: skip
        for member in list(self._registry.slices.values()):
            self._restore(member)
        choice = self._choices
        if choice.policy is None:
            return
        if choice.configured != self._configured:
            log.warning(
                "policy.choice_dropped", chosen=choice.policy, configured=self._configured,
                reason="the configuration names another policy than when this one was chosen",
            )  # fmt: skip
            self._choices = replace(choice, policy=None, configured=None)
        elif choice.policy != self.policy:
            self._use(choice.policy, "the operator's choice, kept across the restart")

    def slice_changed(self, member: Slice, event: str, reason: str) -> None:
        if event == "added":
            self._restore(member)

    async def order(self, member: Slice, order: Order, reason: str) -> None:
        """
        Keep and carry out an order; call it holding `writing`.

        Raises:
            OSError: It could not be written, and nothing has changed.
        """
        await self._write(self._choices.ordered(member.name, order))
        # Discovery may have put another slice under this name while the file was written.
        current = self._registry.slices.get(member.name)
        if current is not None:
            self._registry.order(current, order, reason)

    async def set_policy(self, name: str, reason: str) -> None:
        """Keep and use a policy; call it holding `writing`. Raises OSError as `order` does."""
        assert name in POLICIES, f"{name!r} is no policy"
        chosen = None if name == self._configured else name
        configured = None if chosen is None else self._configured
        await self._write(replace(self._choices, policy=chosen, configured=configured))
        if name != self.policy:
            self._use(name, reason)

    def reconfigure(self, configured_policy: str) -> None:
        """
        Take over what a reload says: a policy that it has changed replaces one chosen live.

        `forget_stale()` then brings the file up to date.
        """
        if configured_policy != self._configured:
            self._configured = configured_policy
            if configured_policy != self.policy:
                self._use(configured_policy, "the configuration was changed")

    async def forget_stale(self) -> None:
        """
        Forget a policy that was chosen while another was configured.

        Where the file cannot be written that is logged, and done with the next choice.
        """
        async with self._writing:
            choice = self._choices
            if choice.policy is None or choice.configured == self._configured:
                return
            log.warning(
                "policy.choice_dropped", chosen=choice.policy, configured=self._configured,
                reason="the configuration names another policy than when this one was chosen",
            )  # fmt: skip
            self._choices = replace(choice, policy=None, configured=None)
            if self._configured != self.policy:
                self._use(self._configured, "the configuration was changed")
            try:
                await asyncio.to_thread(write_atomically, self.path, self._choices.dump())
            except OSError as error:
                log.error("choices.not_written", path=str(self.path), reason=str(error))

    def _use(self, name: str, reason: str) -> None:
        before, self.policy = self.policy, name
        self._registry.set_policy(POLICIES[name])
        log.info("policy.changed", before=before, after=name, reason=reason)

    def _restore(self, member: Slice) -> None:
        order = self._choices.orders.get(member.name)
        if order is not None:
            self._registry.order(member, order, "the operator's choice, kept from before")

    def retire(self) -> None:
        """Make no more choices: another gateway has taken over, and has read the file."""
        self._retired = True

    async def _write(self, choices: Choices) -> None:
        if self._retired:
            raise OSError(errno.ESTALE, "a newer gateway has taken over; ask again")
        if self._foreign:
            raise OSError(errno.EEXIST, "holds something that the gateway did not write")
        if choices != self._choices or not self.path.exists():
            await asyncio.to_thread(write_atomically, self.path, choices.dump())
        self._choices = choices

    def _set_aside(self) -> str | None:
        """Rename the file so that nothing of it is lost; return its new name."""
        try:
            return set_aside(self.path)
        except OSError as error:
            log.error("choices.not_set_aside", path=str(self.path), reason=str(error))
            return None
