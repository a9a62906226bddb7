"""What is up, as Prometheus reads it: pure."""

from typing import Any, Final

METRICS: Final = (
    ("mig_launcher_slice_ready", "gauge", "1 while the slice's server is ready."),
    ("mig_launcher_slice_restarts_total", "counter", "Times its server was started again."),
    ("mig_launcher_slice_weight", "gauge", "Its share of the work: compute slices."),
    ("mig_launcher_slice_lent", "gauge", "1 while a job has the slice."),
    ("mig_launcher_slice_gpu_warning", "gauge", "1 when its GPU has told that it must be reset."),
)
JOB_METRICS: Final = (
    ("mig_launcher_job_running", "gauge", "1 while the job runs."),
    ("mig_launcher_job_restarts_total", "counter", "Times the job was started again."),
    ("mig_launcher_job_exit_code", "gauge", "Of its last end."),
)


def metrics(document: dict[str, Any]) -> str:
    """Return the text exposition of `status.as_dict`."""
    lines = []
    for name, kind, text in METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [
            f"{name}{_labels(member)} {_value(name, member)}" for member in document["slices"]
        ]
    lines += [
        *_jobs(document["jobs"]),
        "# HELP mig_launcher_runtime_answers 0 while the Docker Engine does not say what runs.",
        "# TYPE mig_launcher_runtime_answers gauge",
        f"mig_launcher_runtime_answers {int(not document['problem'])}",
        "# HELP mig_launcher_slices Slices that are to run.",
        "# TYPE mig_launcher_slices gauge",
        f"mig_launcher_slices {len(document['slices'])}",
    ]
    return "\n".join(lines) + "\n"


def _labels(member: dict[str, Any]) -> str:
    keys = {"slice": "name", "profile": "profile", "mig_uuid": "mig_uuid"}
    inside = ",".join(f'{label}="{member[key]}"' for label, key in keys.items())
    return f"{{{inside}}}"


def _value(name: str, member: dict[str, Any]) -> str:
    if name.endswith("_ready"):
        return str(int(member["state"] == "ready"))
    if name.endswith("_lent"):
        return str(int(member["state"] == "lent"))
    if name.endswith("_warning"):
        return str(int(bool(member["warning"])))
    return f"{member['restarts'] if name.endswith('_total') else member['weight']:g}"


def _jobs(jobs: list[dict[str, Any]]) -> list[str]:
    if not jobs:
        return []
    lines = []
    for name, kind, text in JOB_METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for job in jobs:
            running = int(job["state"] == "running")
            values = {"running": running, "total": job["restarts"], "code": job["exit_code"]}
            value = values[name.rpartition("_")[2]]
            if value is not None:  # before its first end there is no exit code
                lines.append(f'{name}{{job="{job["name"]}",slice="{job["slice"]}"}} {value}')
    return lines
