"""
From the servers that run to those that are wanted, stage by stage, while the rest serves.

For each stage: drain what must go through the gateway, take it out of the inventory, stop it, cut,
start what comes, wait until it is ready, put it into the inventory, and let the gateway give it work.
What is true is on record before and after each step. So a re-cut that was interrupted anywhere is
completed by asking for the same again: what is done already is found done.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from contract import inventory
from contract.slice_spec import SliceSpec
from launcher import ports, stages
from launcher.errors import GatewayError, GpuError
from launcher.fleet import Fleet
from launcher.gateway_admin import GatewayAdmin
from launcher.partition import Device, Division, Partitioner
from launcher.progress import Progress
from launcher.runtime import ServerSpec
from launcher.stages import Planned, Stage
from launcher.state import StateStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Manner:
    """
    How a re-cut is done.

    Attributes:
        gateway: Through which slices are drained; None: they are not.
        must_drain: Fail when the gateway does not answer, rather than cut requests off.
        drain_timeout_s: For requests in flight to end.
        stop_timeout_s: From SIGTERM to SIGKILL.
        force: Re-cut the last slice that serves, too, and what does not fall idle.
    """

    gateway: GatewayAdmin | None
    must_drain: bool
    drain_timeout_s: float
    stop_timeout_s: float
    force: bool


class Recut:
    """Carries divisions out for one fleet."""

    def __init__(
        self,
        fleet: Fleet,
        partitioner: Partitioner,
        store: StateStore,
        inventory_file: Path,
        make_spec: Callable[[Planned, Device], ServerSpec],
        hurry: asyncio.Event,
    ) -> None:
        """
        Args:
            fleet: Servers that run.
            partitioner: Cuts.
            store: Kept true at every step.
            inventory_file: What the gateway reads.
            make_spec: Returns the server for what was planned and where it is to run.
            hurry: Set: servers are killed instead of asked.
        """
        self._fleet = fleet
        self._partitioner = partitioner
        self._store = store
        self._inventory = inventory_file
        self._make_spec = make_spec
        self._hurry = hurry

    async def carry_out(self, division: Division, manner: Manner, progress: Progress) -> None:
        """
        Make it so.

        Raises:
            LauncherError: Why it stopped; asked again, it goes on from there.
        """
        manner = await self._reachable(manner, division)
        wanted = {member.name for stage in division.stages for member in stage.coming}
        running = frozenset(self._fleet.specs)
        known = frozenset(name for stage in division.stages for name in stage.going)
        # Servers of slices that nobody knows any more: their instance has vanished.
        await self._take_out(running - wanted - known, manner, progress)
        plan = stages.merged(division.stages, frozenset(self._fleet.specs))
        check_ports(plan, self._fleet.specs)
        for stage in plan:
            await self._one(stage, manner, progress)
        await self._put_back(manner)

    async def _one(self, stage: Stage, manner: Manner, progress: Progress) -> None:
        before = self._fleet.specs
        going = stage.going & before.keys()
        await self._take_out(going, manner, progress)
        if stage.work:
            names = ", ".join(member.name for member in stage.coming) or "nothing"
            progress.step(f"cutting for {names}")
        try:
            devices = await self._cut(stage.work)
        except GpuError:
            # Undone as far as it could be: what stopped for it serves again.
            await self._start_again(going, before, manner, progress)
            raise
        specs = [self._make_spec(member, devices[member.name]) for member in stage.coming]
        runs = self._fleet.specs
        changed = frozenset(s.member.name for s in specs if runs.get(s.member.name, s) != s)
        await self._take_out(changed, manner, progress)
        await self._fleet.confirm(frozenset(s.member.name for s in specs), progress)
        missing = [spec for spec in specs if spec.member.name not in self._fleet.specs]
        if missing:
            ports.check_free(spec.member for spec in missing)
            await self._fleet.add(missing, progress)
        self._publish()
        if going or changed:
            await self._put_back(manner)

    async def _cut(self, work: Sequence[object]) -> dict[str, Device]:
        """Cut in a thread: a driver may take seconds, in which servers are watched as before."""
        cutting = asyncio.ensure_future(asyncio.to_thread(self._partitioner.cut, work, self._store))
        try:
            return await asyncio.shield(cutting)
        except asyncio.CancelledError:
            # A step on a GPU cannot be stopped; nobody goes on before it is done and on record.
            await asyncio.wait([cutting])
            raise

    async def _take_out(self, names: frozenset[str], manner: Manner, progress: Progress) -> None:
        """Drain slices, take them out of the inventory, and stop their servers."""
        if not names:
            return
        self._fleet.refuse_lent(names)
        drained: frozenset[str] = frozenset()
        if manner.gateway is not None:
            progress.step(f"draining {', '.join(sorted(names))}")
            drained = await self._drain(names, manner, manner.gateway)
        left = [s.member for name, s in self._fleet.specs.items() if name not in names]
        self._publish(left)
        if manner.gateway is not None:
            try:
                await manner.gateway.wait_gone(drained)
            except GatewayError:
                self._publish()
                await self._put_back(manner)
                raise
        progress.step(f"stopping {', '.join(sorted(names))}")
        await self._fleet.remove(names, manner.stop_timeout_s, self._hurry)

    async def _drain(
        self, names: frozenset[str], manner: Manner, gateway: GatewayAdmin
    ) -> frozenset[str]:
        """Drain those of `names` that the gateway knows; return them."""
        known = await self._known(gateway)
        assert self._store.state is not None
        # What an operator has taken out stays out: only what we drain is put back.
        ours = [name for name in sorted(names & known.keys()) if known[name]["enabled"]]
        already = self._store.state.drained
        self._store.change(drained=tuple(dict.fromkeys((*already, *ours))))
        try:
            for name in ours:
                await gateway.drain(name, manner.force)
            await gateway.wait_idle(names & known.keys(), manner.drain_timeout_s, manner.force)
        except GatewayError:
            await self._put_back(manner)
            raise
        return names & known.keys()

    async def _known(self, gateway: GatewayAdmin) -> dict[str, dict[str, Any]]:
        """Return what the gateway says of our slices; another's may have the same names."""
        ours = {name: str(spec.member.http) for name, spec in self._fleet.specs.items()}
        known = await gateway.slices()
        return {
            name: known[name] for name in ours.keys() & known if known[name]["http"] == ours[name]
        }

    async def _put_back(self, manner: Manner) -> None:
        """Enable what was drained and runs again; what cannot be told stays on record."""
        assert self._store.state is not None
        back = [name for name in self._store.state.drained if name in self._fleet.specs]
        if manner.gateway is None or not back:
            return
        for name in back:
            await manner.gateway.enable(name)
            left = tuple(other for other in self._store.state.drained if other != name)
            self._store.change(drained=left)
        await manner.gateway.wait_serving(frozenset(back))

    async def _start_again(
        self,
        names: frozenset[str],
        before: Mapping[str, ServerSpec],
        manner: Manner,
        progress: Progress,
    ) -> None:
        """Start the servers that stopped for a cut that was undone."""
        assert self._store.state is not None
        uuid_of = {record.slice_name: record.mig_uuid for record in self._store.state.instances}
        # Where the instance could not be made again, or is another now, there is no way back.
        same = [before[name] for name in names if uuid_of.get(name) == before[name].member.mig_uuid]
        if same:
            await self._fleet.add(same, progress)
            self._publish()
            await self._put_back(manner)

    async def _reachable(self, manner: Manner, division: Division) -> Manner:
        """Return the manner without a gateway that is not there and need not be."""
        running = frozenset(self._fleet.specs)
        touches = any(stage.going & running for stage in division.stages)
        drained = self._store.state.drained if self._store.state else ()
        if manner.gateway is None:
            return manner
        needed = manner.must_drain and (touches or bool(drained))
        if await manner.gateway.answers():
            if needed and running and not await self._known(manner.gateway):
                raise GatewayError(
                    f"the gateway at {manner.gateway.address} serves none of these slices; name "
                    "theirs with --gateway-admin, or re-cut without draining with --no-drain"
                )
            return manner
        if needed:
            await manner.gateway.slices()  # says what is wrong, and what to do
        return replace(manner, gateway=None, must_drain=False)

    def _publish(self, members: Sequence[SliceSpec] | None = None) -> None:
        """Write the inventory: of all servers, or of these."""
        if members is None:
            members = [spec.member for spec in self._fleet.specs.values()]
        elif not self._inventory.exists():
            return
        inventory.save(self._inventory, members)
        log.info("inventory.written", path=str(self._inventory), slices=len(members))


def check_ports(plan: Sequence[Stage], running: Mapping[str, ServerSpec]) -> None:
    """Make sure, before anything changes, that no stranger has a port that is wanted."""
    ours = {
        endpoint.port
        for spec in running.values()
        for endpoint in (spec.member.http, spec.member.grpc, spec.member.metrics)
        if endpoint
    }
    fresh = [
        SliceSpec(member.name, member.http, member.grpc, member.metrics)
        for stage in plan
        for member in stage.coming
        if member.name not in running and member.http.port not in ours
    ]
    ports.check_free(fresh)
