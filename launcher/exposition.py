"""What is up, as Prometheus reads it: pure."""

from typing import Any, Final

METRICS: Final = (
    ("mig_launcher_slice_ready", "gauge", "1 while the slice's server is ready."),
    ("mig_launcher_slice_restarts_total", "counter", "Times its server was started again."),
    ("mig_launcher_slice_weight", "gauge", "Its share of the work: compute slices."),
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
    return f"{member['restarts'] if name.endswith('_total') else member['weight']:g}"
