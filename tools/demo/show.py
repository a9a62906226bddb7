"""What the demo shows a person."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tools.demo.traffic import Outcome

Counts = dict[str, tuple[int, int]]


def counts(slices: list[dict[str, Any]]) -> Counts:
    """Return what each slice has served so far, over HTTP and over gRPC."""
    return {s["name"]: (s["http_requests"], s["grpc_requests"]) for s in slices}


def table(slices: list[dict[str, Any]], before: Counts, title: str) -> Table:
    """Return a table of what each slice has served since `before`."""
    simulated = any(s["simulated"] for s in slices)
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column("slice")
    shown.add_column("profile")
    shown.add_column("MIG UUID" + (" (simulated)" if simulated else ""), no_wrap=True)
    shown.add_column("state")
    shown.add_column("port", justify="right")
    shown.add_column("HTTP", justify="right")
    shown.add_column("gRPC", justify="right")
    shown.add_column("median ms", justify="right")
    shown.add_column("p99 ms", justify="right")
    for s in slices:
        http, grpc = before.get(s["name"], (0, 0))
        latency = s["latency_ms"]["all"]
        shown.add_row(
            s["name"],
            s["profile"],
            s["mig_uuid"],
            s["state"],
            s["http"].rpartition(":")[2],
            str(s["http_requests"] - http),
            str(s["grpc_requests"] - grpc),
            f"{latency['p50']:.1f}",
            f"{latency['p99']:.1f}",
        )
    return shown


def outcome(console: Console, result: Outcome) -> None:
    """Say how many requests were answered, and how well."""
    sent = " and ".join(f"{count} over {name}" for name, count in result.sent.items())
    console.print(
        f"sent {sent}; {len(result.errors)} failed; "
        f"{result.named} of {result.total} flowers named rightly"
    )
    for error in result.errors[:5]:
        console.print(f"  failed: {error}", style="red", markup=False)
