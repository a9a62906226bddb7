"""Tables and JSON for `profiles` and `status`."""

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launcher.cures import sentence
from launcher.errors import GpuError
from launcher.mig import MigCode, MigDriver, MigError

SIMULATED: Final = "simulated: the GPU exists on paper, its servers run on the CPU"
PORTS: Final = "http grpc metr"
"""As wide as three ports of four digits."""
STATE_STYLES: Final = {"ready": "green", "dead": "red", "unsupervised": "yellow"}


def profiles_dict(driver: MigDriver) -> dict[str, Any]:
    """Return a GPU's profiles for `--json`. Raises GpuError."""
    try:
        return _profiles_dict(driver)
    except MigError as error:
        raise GpuError(sentence(error)) from error


def _profiles_dict(driver: MigDriver) -> dict[str, Any]:
    gpu = driver.gpu()
    return {
        "index": gpu.index,
        "gpu": gpu.name,
        "uuid": gpu.uuid,
        "simulated": gpu.simulated,
        "has_mig": gpu.has_mig,
        "mig_mode": driver.mig_mode()[0],
        "mig_mode_pending": driver.mig_mode()[1],
        "compute_slices": gpu.compute_slices,
        "memory_slices": gpu.memory_slices,
        "profiles": [
            {
                "name": profile.name,
                "id": profile.id,
                "index": profile.index,
                "compute_slices": profile.compute_slices,
                "multiprocessors": profile.multiprocessors,
                "memory_mib": profile.memory_mib,
                "engines": {
                    name: getattr(profile.engines, name)
                    for name in ("copy", "decoder", "encoder", "jpeg", "ofa")
                },
                "free": _free(driver, profile.id),
                "max": profile.instances_max,
                "placements": [str(at) for at in driver.possible_placements(profile.id)],
            }
            for profile in driver.profiles()
        ],
    }


def _free(driver: MigDriver, profile_id: int) -> int | None:
    """Return how many more fit; None where the driver tells only while MIG mode is on."""
    try:
        return driver.remaining_capacity(profile_id)
    except MigError as error:
        if error.code in (MigCode.NOT_SUPPORTED, MigCode.FUNCTION_NOT_FOUND):
            return None
        raise


def profiles_table(document: dict[str, Any]) -> RenderableType:
    """Return the table of `profiles_dict`."""
    table = plain_table(
        "profile",
        "id",
        "slices",
        "SM",
        "memory",
        "free",
        "max",
        "CE/DEC/ENC/JPEG/OFA",
        "start:size",
    )
    for profile in document["profiles"]:
        table.add_row(
            profile["name"],
            str(profile["id"]),
            str(profile["compute_slices"]),
            str(profile["multiprocessors"]),
            f"{profile['memory_mib'] / 1024:.2f} GiB",
            "-" if profile["free"] is None else str(profile["free"]),
            str(profile["max"]),
            "/".join(str(count) for count in profile["engines"].values()),
            " ".join(profile["placements"]),
        )
    head = Text(f"GPU {document['index']}: {document['gpu']}, {_mode(document)}")
    tables = [table] if document["profiles"] else []
    return Group(head, *tables, *note(document["simulated"]))


def _mode(document: dict[str, Any]) -> str:
    if not document["has_mig"]:
        return "no MIG: it cannot be cut (`--gpu mps` shares it out)"
    if document["mig_mode"]:
        return "MIG mode on"
    if document["mig_mode_pending"]:
        return "MIG mode off, on after the next reset"
    told = "" if document["profiles"] else "; this driver tells the profiles only when it is on"
    return f"MIG mode off (`--enable-mig` switches it on){told}"


def status_table(document: dict[str, Any]) -> RenderableType:
    """Return the table of `status.as_dict`."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    with_memory = any(member.get("memory_mib") for member in document["slices"])
    memory = ("MiB used",) if with_memory else ()
    columns = ("slice", "profile", "MIG UUID", PORTS, "runs as", "state", "restarts", "simulated")
    for column in (*columns, *memory):
        # In a narrow terminal the UUID is what folds; all else must be read at a glance.
        table.add_column(column, no_wrap=column != "MIG UUID", overflow="fold")
    for member in document["slices"]:
        ends = (member["http"], member["grpc"], member["metrics"])
        table.add_row(
            member["name"],
            member["profile"],
            member["mig_uuid"],
            " ".join(end.rpartition(":")[2] for end in ends if end),
            member["container"] or str(member["pid"] or "-"),
            Text(member["state"], style=STATE_STYLES.get(member["state"], "yellow")),
            str(member["restarts"]),
            "yes" if member["simulated"] else "no",
            *([_used(member["memory_mib"])] if with_memory else []),
        )
    pid = document["launcher_pid"]
    watched = (
        f"launcher pid {pid}" if pid else "no launcher: it was killed; `up` adopts, `down` stops"
    )
    hosts = {member["http"].rpartition(":")[0] for member in document["slices"]}
    where = f" on {', '.join(sorted(hosts))}" if hosts else ""
    wrong = [
        Text(f"{member['name']}: {member['reason']} (its log is {member['log']})", style="yellow")
        for member in document["slices"]
        if member.get("reason") and member["state"] != "ready"
    ]
    warnings: dict[str, list[str]] = {}
    for member in document["slices"]:
        if member.get("warning"):
            warnings.setdefault(member["warning"], []).append(member["name"])
    wrong += [Text(f"{', '.join(names)}: {text}", style="red") for text, names in warnings.items()]
    head = Text(f"{document['gpu']}{where}, {watched}, inventory {document['inventory']}")
    gpus = [_gpu_line(gpu) for gpu in document.get("gpus", ()) if not gpu["simulated"]]
    if document.get("gpu_error"):
        wrong.append(Text(document["gpu_error"], style="red"))
    if document["problem"]:
        wrong.append(Text(document["problem"], style="red"))
    jobs = [_job_line(job) for job in document["jobs"]]
    declared = {job["name"] for job in document["jobs"]}
    by_hand = [m for m in document["slices"] if m["lent_to"] and m["lent_to"] not in declared]
    jobs += [Text(f"{m['name']}: lent to {m['lent_to']}, by `mig-launcher run`") for m in by_hand]
    return Group(head, *gpus, table, *jobs, *wrong, *note(document["simulated"]))


def _job_line(job: dict[str, Any]) -> Text:
    what = job["image"] or job["command"][0]
    runs_as = job["container"] or job["pid"]
    how = [f"job {job['name']} on {job['slice']} ({what}): {job['state']}"]
    how += [f" as {runs_as}"] if runs_as else []
    how += [f", {job['restarts']} restarts"] if job["restarts"] else []
    if job["state"] != "running" and job["reason"]:
        how.append(f", {job['reason']}")
    failed = job["state"] != "running" and job["exit_code"]
    return Text(f"{''.join(how)}; its log is {job['log']}", style="yellow" if failed else "")


def _used(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "-"
    total = f" of {memory['total']}" if memory["total"] is not None else ""
    return f"{memory['used']}{total}"


def _gpu_line(gpu: dict[str, Any]) -> Text:
    mode = "MIG mode on" if gpu["mig_mode"] else "MIG mode off"
    return Text(f"GPU {gpu['index']}: {gpu['name']}, {mode}, {_used(gpu['memory_mib'])} MiB used")


def plain_table(*columns: str) -> Table:
    """Return a table without lines."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def note(simulated: bool) -> list[Text]:
    """Return the line that says what is simulated; nothing where nothing is."""
    return [Text(SIMULATED, style="yellow")] if simulated else []
