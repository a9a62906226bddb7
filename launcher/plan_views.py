"""A plan for people (steps, a picture of each GPU before and after, servers) and as JSON."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from launcher.mig import GpuInstance, Placement
from launcher.plan import GpuPlan, Plan, PlannedSlice
from launcher.shares import SharePlan
from launcher.tables import note, plain_table

CELL: Final = 9
NARROW_CELL: Final = 6
WIDE_GRID: Final = 8


def as_dict(plan: Plan | SharePlan) -> dict[str, Any]:
    """Return a plan for `--json`."""
    if isinstance(plan, SharePlan):
        return _shares_dict(plan)
    first = plan.gpus[0].gpu
    return {
        "gpu": first.name,
        "uuid": first.uuid,
        "simulated": plan.simulated,
        "enable_mig": plan.enable_mig,
        "destroy": [entry for part in plan.gpus for entry in _destroy(part)],
        "gpus": [
            {
                "index": part.gpu.index,
                "name": part.gpu.name,
                "uuid": part.gpu.uuid,
                "simulated": part.gpu.simulated,
                "enable_mig": part.enable_mig,
                "destroy": _destroy(part),
                "before": [
                    {"gpu_instance": e.id, "profile": part.facts.profile_name(e.profile_id),
                     "placement": str(e.placement)}
                    for e in part.facts.instances
                ],
                "slices": [member.name for member in part.slices],
            }
            for part in plan.gpus
        ],
        "slices": [_slice(member) for member in plan.slices],
    }  # fmt: skip


def _destroy(part: GpuPlan) -> list[dict[str, Any]]:
    return [
        {
            "gpu": part.gpu.index,
            "gpu_instance": old.id,
            "profile": part.facts.profile_name(old.profile_id),
            "profile_id": old.profile_id,
            "placement": str(old.placement),
            "foreign": old in part.foreign,
        }
        for old in part.destroy
    ]


def _slice(member: PlannedSlice) -> dict[str, Any]:
    return {
        "name": member.name,
        "gpu_uuid": member.gpu_uuid,
        "profile": member.profile.name,
        "profile_id": member.profile.id,
        "placement": str(member.placement),
        "gpu_instance": "keep" if member.keep else "create",
        "gpu_instance_id": member.keep.id if member.keep else None,
        "compute_slices": member.profile.compute_slices,
        "memory_mib": member.profile.memory_mib,
        "weight": member.weight,
        "http": str(member.http),
        "grpc": str(member.grpc),
        "metrics": str(member.metrics),
    }


def table(plan: Plan | SharePlan) -> RenderableType:
    """Return a plan as steps, pictures and a table."""
    if isinstance(plan, SharePlan):
        return _shares_table(plan)
    servers = plain_table(
        "slice", "GPU", "profile", "placement", "instance", "weight", "HTTP", "gRPC", "metrics"
    )
    index_of = {part.gpu.uuid: part.gpu.index for part in plan.gpus}
    for member in plan.slices:
        servers.add_row(
            member.name,
            str(index_of[member.gpu_uuid]),
            member.profile.name,
            str(member.placement),
            f"keep {member.keep.id}" if member.keep else "create",
            f"{member.weight:g}",
            str(member.http),
            str(member.grpc),
            str(member.metrics),
        )
    lines = [line for part in plan.gpus for line in (_steps(part), *picture(part))]
    return Group(*lines, servers, *note(plan.simulated))


def _steps(part: GpuPlan) -> Text:
    steps = ["enable MIG mode (needs --enable-mig)"] if part.enable_mig else []
    steps += [
        f"destroy GPU instance {old.id} at {old.placement}"
        + (" (not made by mig-launcher)" if old in part.foreign else "")
        for old in part.destroy
    ]
    kept = len(part.slices) - len(part.create)
    steps += [f"keep {kept} GPU instances"] if kept else []
    steps += [f"create {len(part.create)} GPU instances"] if part.create else []
    what = ", ".join(steps) or "nothing to do"
    return Text(f"GPU {part.gpu.index}: {part.gpu.name}: {what}", style="bold")


def picture(part: GpuPlan) -> list[Text]:
    """Return a GPU's memory slices before and after, and what sits in them."""
    grid = part.gpu.memory_slices
    width = CELL if grid <= WIDE_GRID else NARROW_CELL
    name_of = {entry.gpu_instance_id: f"{entry.slice_name} " for entry in part.owners}

    def label(instance: GpuInstance) -> str:
        return name_of.get(instance.id, "") + part.facts.profile_name(instance.profile_id)

    before = [(entry.placement, label(entry)) for entry in part.facts.instances]
    ours = [(member.placement, f"{member.name} {member.profile.name}") for member in part.slices]
    at = {placement for placement, _ in ours}
    others = [(e.placement, label(e)) for e in part.stay if e.placement not in at]
    head = "".join(str(slot).center(width) for slot in range(grid))
    return [
        Text(f"  slot    {head}", style="dim", no_wrap=True),
        Text(f"  before  {_row(before, grid, width)}", no_wrap=True),
        Text(f"  after   {_row([*ours, *others], grid, width)}", no_wrap=True),
    ]


def _row(instances: Sequence[tuple[Placement, str]], grid: int, width: int) -> str:
    cells, slot = [], 0
    by_start = {placement.start: (placement, text) for placement, text in instances}
    while slot < grid:
        if slot in by_start:
            placement, text = by_start[slot]
            room = width * placement.size - 2
            # The full name where it fits, else its size alone: `s0 1g`.
            short = text if len(text) <= room else text.partition(".")[0]
            cells.append(f"[{short[:room].center(room)}]")
            slot = placement.end
        else:
            cells.append("·".center(width))
            slot += 1
    return "".join(cells)


def _shares_dict(plan: SharePlan) -> dict[str, Any]:
    return {
        "simulated": plan.simulated,
        "mps": True,
        "slices": [
            {
                "name": share.server.name,
                "gpu_uuid": share.gpu.uuid,
                "profile": share.server.profile,
                "active_thread_percentage": share.percentage,
                "memory_limit_mib": share.memory_mib,
                "weight": share.server.weight,
                "http": str(share.server.http),
                "grpc": str(share.server.grpc),
                "metrics": str(share.server.metrics),
            }
            for share in plan.shares
        ],
    }


def _shares_table(plan: SharePlan) -> RenderableType:
    servers = plain_table("slice", "GPU", "SMs", "memory", "weight", "HTTP", "gRPC", "metrics")
    for share in plan.shares:
        limit = f"{share.memory_mib} MiB" if share.memory_mib is not None else "no limit"
        servers.add_row(
            share.server.name,
            str(share.gpu.index),
            f"{share.percentage:g} %",
            limit,
            f"{share.server.weight:g}",
            str(share.server.http),
            str(share.server.grpc),
            str(share.server.metrics),
        )
    names = ", ".join(dict.fromkeys(share.gpu.name for share in plan.shares))
    return Group(
        Text(f"{names}: start an MPS daemon, {len(plan.shares)} shares"),
        servers,
        *note(plan.simulated),
    )
