"""Tables and JSON for `profiles`, `plan` and `status`."""

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launcher.mig import MigDriver
from launcher.plan import Plan

SIMULATED: Final = "simulated: the GPU exists on paper, its servers run on the CPU"
PORTS: Final = "http grpc metr"
"""As wide as three ports of four digits."""
STATE_STYLES: Final = {"ready": "green", "dead": "red", "unsupervised": "yellow"}


def profiles_dict(driver: MigDriver) -> dict[str, Any]:
    """Return a GPU's profiles for `--json`."""
    gpu = driver.gpu()
    return {
        "gpu": gpu.name,
        "uuid": gpu.uuid,
        "simulated": gpu.simulated,
        "mig_mode": driver.mig_mode()[0],
        "compute_slices": gpu.compute_slices,
        "memory_slices": gpu.memory_slices,
        "profiles": [
            {
                "name": profile.name,
                "id": profile.id,
                "compute_slices": profile.compute_slices,
                "multiprocessors": profile.multiprocessors,
                "memory_mib": profile.memory_mib,
                "engines": {
                    name: getattr(profile.engines, name)
                    for name in ("copy", "decoder", "encoder", "jpeg", "ofa")
                },
                "free": driver.remaining_capacity(profile.id),
                "max": profile.instances_max,
                "placements": [str(at) for at in driver.possible_placements(profile.id)],
            }
            for profile in driver.profiles()
        ],
    }


def profiles_table(document: dict[str, Any]) -> RenderableType:
    """Return the table of `profiles_dict`."""
    mode = "on" if document["mig_mode"] else "off (`up` switches it on)"
    table = _table("profile", "id", "slices", "SM", "memory", "free", "max", "starts:size")
    for profile in document["profiles"]:
        table.add_row(
            profile["name"],
            str(profile["id"]),
            str(profile["compute_slices"]),
            str(profile["multiprocessors"]),
            f"{profile['memory_mib'] / 1024:.2f} GiB",
            str(profile["free"]),
            str(profile["max"]),
            " ".join(profile["placements"]),
        )
    head = Text(f"{document['gpu']}, MIG mode {mode}")
    return Group(head, table, *_note(document["simulated"]))


def plan_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan for `--json`."""
    return {
        "gpu": plan.gpu.name,
        "uuid": plan.gpu.uuid,
        "simulated": plan.gpu.simulated,
        "enable_mig": plan.enable_mig,
        "destroy": [
            {"gpu_instance": old.id, "profile_id": old.profile_id, "placement": str(old.placement)}
            for old in plan.destroy
        ],
        "slices": [
            {
                "name": member.name,
                "profile": member.profile.name,
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
            for member in plan.slices
        ],
    }


def plan_table(plan: Plan) -> RenderableType:
    """Return the plan as steps and a table."""
    steps = ["enable MIG mode"] if plan.enable_mig else []
    steps += [f"destroy GPU instance {old.id} at {old.placement}" for old in plan.destroy]
    kept = len(plan.slices) - len(plan.create)
    steps += [f"keep {kept} GPU instances"] if kept else []
    steps += [f"create {len(plan.create)} GPU instances"] if plan.create else []
    table = _table("slice", "profile", "placement", "instance", "weight", "HTTP", "gRPC", "metrics")
    for member in plan.slices:
        table.add_row(
            member.name,
            member.profile.name,
            str(member.placement),
            f"keep {member.keep.id}" if member.keep else "create",
            f"{member.weight:g}",
            str(member.http),
            str(member.grpc),
            str(member.metrics),
        )
    return Group(Text(f"{plan.gpu.name}: {', '.join(steps)}"), table, *_note(plan.gpu.simulated))


def status_table(document: dict[str, Any]) -> RenderableType:
    """Return the table of `status.as_dict`."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("slice", "profile", "MIG UUID", PORTS, "pid", "state", "restarts", "simulated"):
        # In a narrow terminal the UUID is what folds; all else must be read at a glance.
        table.add_column(column, no_wrap=column != "MIG UUID", overflow="fold")
    for member in document["slices"]:
        ends = (member["http"], member["grpc"], member["metrics"])
        table.add_row(
            member["name"],
            member["profile"],
            member["mig_uuid"],
            " ".join(end.rpartition(":")[2] for end in ends if end),
            str(member["pid"] or "-"),
            Text(member["state"], style=STATE_STYLES.get(member["state"], "yellow")),
            str(member["restarts"]),
            "yes" if member["simulated"] else "no",
        )
    pid = document["launcher_pid"]
    watched = (
        f"launcher pid {pid}" if pid else "no launcher: it was killed; `up` adopts, `down` stops"
    )
    hosts = {member["http"].rpartition(":")[0] for member in document["slices"]}
    where = f" on {', '.join(sorted(hosts))}" if hosts else ""
    head = Text(f"{document['gpu']}{where}, {watched}, inventory {document['inventory']}")
    return Group(head, table, *_note(document["simulated"]))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _note(simulated: bool) -> list[Text]:
    return [Text(SIMULATED, style="yellow")] if simulated else []
